"""Saving aggregates: what they recorded, appended to their streams at the versions they were loaded at.

Several aggregates are saved as one or not at all. A save whose outcome is unknown is asked again with the same ids, so
that it happens once. After a conflict the aggregate is as it was decided on, which is no longer how things are: load it
again, and decide again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import SpineError
from ..journal.port import Append, Record, Unit
from ..observe.correlation import Cause
from ..publishing import Speaker
from . import snapshots
from .aggregate import Aggregate, check_sound
from .shapes import shape_of

NextId = Callable[[], bytes]


def add(
    unit: Unit, aggregate: Aggregate, speaker: Speaker, cause: Cause | None, next_id: NextId | None
) -> list[Record]:
    """Add to the unit what the aggregate has recorded, and the snapshot that is due."""
    standing, shape = aggregate._spine, shape_of(type(aggregate))
    check_sound(aggregate)
    if not standing.pending:
        return []
    if standing.records is None:
        private = shape.options.private
        standing.records = speaker.records(standing.pending, next_id=next_id, cause=cause, private=private)
    records, before = standing.records, standing.version - len(standing.pending)
    unit.appends.append(Append(records, speaker.service, shape.stream(aggregate.id), before))
    if snapshots.due(shape, before, aggregate.version):
        noted = snapshots.note(shape, speaker.service, aggregate, records[-1].id)
        if noted is not None:
            unit.notes.append(noted)
    return records


def saved(aggregate: Aggregate) -> None:
    """It is stored, or will be with the unit that it was added to."""
    standing = aggregate._spine
    standing.pending, standing.records = [], None


def check(aggregates: Sequence[Any]) -> None:
    for one in aggregates:
        if not isinstance(one, Aggregate):
            raise SpineError(f"save() takes aggregates, and {one!r:.80} is none.")
    if len({id(one) for one in aggregates}) < len(aggregates):
        raise SpineError("save() was given one aggregate twice.")


def refuse_unsaved(handler: str, aggregates: Sequence[Aggregate]) -> None:
    """What a handler recorded and did not save would be lost when it returns."""
    for one in aggregates:
        if one._spine.pending:
            kinds = ", ".join(type(event).__name__ for event, *_ in one._spine.pending)
            raise SpineError(
                f"{handler} returned with {kinds} recorded in {type(one).__name__} {one.id!r} and not saved. Call "
                "delivery.save(...) before returning."
            )
