"""Saving aggregates: what they recorded, appended to their streams at the versions they were loaded at.

Several aggregates are saved as one or not at all. A save whose outcome is unknown is asked again with the same ids, so
that it happens once. After a conflict the aggregate is as it was decided on, which is no longer how things are: load it
again, and decide again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import SpineError
from ..journal.port import Append, Record, Unit
from ..observe.correlation import Cause
from ..publishing import Speaker
from . import snapshots
from .aggregate import Aggregate, check_sound
from .shapes import Shape, shape_of

log = logging.getLogger("eventspine.state")
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
        if shape.options.keys == "id":
            _look_at_keys(shape, aggregate, standing.records)
    records, before = standing.records, standing.version - len(standing.pending)
    unit.appends.append(Append(records, speaker.service, shape.stream(aggregate.id), before))
    if snapshots.due(shape, before, aggregate.version):
        noted = snapshots.note(shape, speaker.service, aggregate, records[-1].id)
        if noted is not None:
            unit.notes.append(noted)
    return records


def odd_key(aggregate: Aggregate, type: str, key: str | None) -> str | None:
    """What is to be said of an event with another key than its aggregate's id; None: nothing."""
    if key == aggregate.id or shape_of(aggregate.__class__).options.keys == "any":
        return None
    name, has = aggregate.__class__.__name__, "no key" if key is None else f"the key {key!r}"
    return (
        f"{type} of {name} {aggregate.id!r} has {has}, so who subscribes does not see the events of one {name} in their order. Give "
        f'it the id: key="..." at the event. Or say that it is meant: class {name}(Aggregate, keys="any").'
    )


def _look_at_keys(shape: Shape, aggregate: Aggregate, records: Sequence[Record]) -> None:
    """Told once of each type, since it may be meant: what is published is ordered by its key, and not by its stream."""
    for record in records:
        if record.key != aggregate.id and record.channel is not None and record.type not in shape.odd_keys:
            shape.odd_keys.add(record.type)
            log.warning("%s", odd_key(aggregate, record.type, record.key))


def saved(aggregate: Aggregate) -> None:
    """It is stored, or will be with the unit that it was added to."""
    standing = aggregate._spine
    standing.pending, standing.records = [], None


def check(aggregates: Sequence[Any]) -> None:
    for one in aggregates:
        if not isinstance(one, Aggregate):
            raise SpineError(f"save() takes aggregates, and {one!r:.80} is none.")
    if len(aggregates) > 1 and len({id(one) for one in aggregates}) < len(aggregates):
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
