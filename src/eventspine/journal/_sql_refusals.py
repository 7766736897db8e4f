"""What can refuse a unit, judged by what is known of all that the units of its group name; nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import Conflict, Fenced
from ._sql_known import Known
from .cursors import only
from .port import Append, Record, Unit, standing


def fenced(unit: Unit, known: Known) -> Fenced | None:
    for fence in unit.fences:
        if known.epochs.get(fence[0]) != fence[1]:
            return Fenced(
                f"The lease {fence.lease!r} is no longer held with epoch {fence.epoch}: another process has taken over.",
                lease=fence.lease,
                epoch=fence.epoch,
                current=known.epochs.get(fence.lease),
            )
    for done in unit.done:
        if known.generations.get(done.subscription) != done.generation:
            return Fenced(
                f"The cursor of subscription {done.subscription} is no longer at generation {done.generation}: "
                "it was rewound, paused, renamed or retired. Load the subscription again.",
                subscription=done.subscription,
                generation=done.generation,
                current=known.generations.get(done.subscription),
            )
    return None


def does_more(unit: Unit) -> bool:
    """More than to say what is finished, which may be said twice."""
    return bool(unit.statements or unit.appends or unit.puts or unit.changes or unit.timers or unit.notes)


def is_repetition(unit: Unit, known: Known) -> bool:
    """All that it finishes is finished already."""
    ends = _ends(unit, known)
    return next(ends, False) and all(ends)


def finished_in_part(unit: Unit, known: Known) -> Fenced | None:
    """A run of which some is finished can be neither applied nor passed: its owner's knowledge is older than the cursor."""
    if len(unit.done) == 1 and not unit.marks and len(unit.done[0].ranges) == 1:
        return None  # the usual unit; it has no parts
    if not any(_ends(unit, known)):
        return None
    return Fenced("Some of what this unit finishes has been finished meanwhile. Load the subscription again.")


def _ends(unit: Unit, known: Known) -> Iterator[bool]:
    for subscription, partition, ranges, _, feed in unit.done:
        if ranges:
            yield from known.coming((subscription, feed, partition)).ends(ranges)
    for subscription, origin, channel, slot, ranges in unit.marks:
        if ranges:
            yield from known.mark((subscription, origin, channel, slot)).ends(ranges)


def is_dropped(unit: Unit, known: Known) -> bool:
    """What its feed stood at is finished by now."""
    ends = [
        end
        for put in standing(unit)
        for end in known.coming((put.subscription, put.feed, put.partition)).ends([only(put.record.position)])
    ]
    return bool(ends) and all(ends)


def changed_meanwhile(unit: Unit, known: Known) -> Fenced | None:
    for change in unit.changes:
        state = known.states.get(change.number, "gone")
        if state not in change.while_state:
            return Fenced(
                f"Delivery {change.number} is {state}: somebody replayed, dropped or settled it meanwhile.",
                delivery=change.number,
                state=state,
            )
    return None


def is_published(unit: Unit, known: Known) -> bool:
    """A unit that finishes nothing is known by its events."""
    if unit.fences or unit.done or unit.marks or unit.changes:
        return False
    ids = [record.id for append in unit.appends for record in append.records]
    return bool(ids) and all(id in known.ids for id in ids)


def conflict(appends: Sequence[Append], known: Known) -> Conflict | None:
    if len(appends) == 1 and _is_where_expected(appends[0], known):
        return None  # the usual unit
    versions: dict[tuple[str, str], int] = {}
    for append in appends:
        if append.stream is None:
            continue
        stream = (append.service, append.stream)
        head = known.heads.get(stream)
        version = versions.get(stream, head.version if head else 0)
        new = not_yet_in(append, known)
        if append.expected not in (None, version) and (new or not append.records):
            return Conflict(
                f"The stream {append.stream!r} is at version {version}, not {append.expected}. Load it again and decide again.",
                stream=append.stream,
                expected=append.expected,
                version=version,
            )
        versions[stream] = version + len(new)
    return None


def _is_where_expected(append: Append, known: Known) -> bool:
    head = known.heads.get((append.service, append.stream or ""))
    return append.expected is None or append.expected == (head.version if head else 0)


def not_yet_in(append: Append, known: Known) -> list[Record]:
    return list({record.id: record for record in append.records if record.id not in known.ids}.values())
