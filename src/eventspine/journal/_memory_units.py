"""One unit against the tables: everything that can refuse it is asked first, then all of it happens.

Fences come first, whoever asks: a repetition by an owner that was fenced meanwhile is `fenced`. Then repetition, then
what a unit expects of streams and stored deliveries.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from ..errors import Conflict, Fenced, UnitFailed
from . import notes
from ._memory_tables import Tables
from .asking import refuse_appends, refuse_weight
from .cursors import only
from .port import Append, Change, Delivery, Put, StartMark, Unit, Verdict, standing

NO_SQL = (
    "The memory journal keeps no tables, so a handler can't use SQL on it. "
    'Use a SQLite journal: Spine("sqlite:///spine.db"); in a test, a file in a temporary folder, such as '
    'Spine(f"sqlite:///{tmp_path}/spine.db").'
)


def commit_unit(tables: Tables, unit: Unit, now_us: int) -> Verdict:
    if unit.fences or unit.done or unit.marks or unit.changes:
        fenced = _fenced(tables, unit)
        if fenced:
            return Verdict("fenced", error=fenced)
        if _does_more(unit):
            ends = _ends(tables, unit)
            if _is_repetition(ends):
                return _repeat(tables, unit)
            if fenced := _finished_in_part(ends):
                return Verdict("fenced", error=fenced)
            if unit.puts and _is_dropped(tables, unit):
                return _repeat(tables, unit)
        elif not (unit.starts or unit.cancels):  # nearly all units: there is nothing else in them
            _finish(tables, unit)
            return Verdict("done")
        fenced = _changed_meanwhile(tables, unit)
        if fenced:
            return Verdict("fenced", error=fenced)
    elif unit.appends and _is_published(tables, unit):
        return _first_result(tables, unit)
    if unfit := refuse_weight(unit) or refuse_appends(unit.appends):
        return Verdict("failed", error=unfit)
    conflict = _conflict(tables, unit.appends)
    if conflict:
        return Verdict("conflict", error=conflict)
    if unit.notes and (refused := notes.refuse(unit.notes, tables.note_version)):
        return Verdict("conflict" if isinstance(refused, Conflict) else "failed", error=refused)
    if unit.statements:  # the last that can refuse the unit
        run = tables.run_statements
        error = UnitFailed(NO_SQL) if run is None else run(unit.statements)
        if error:
            return Verdict("failed", error=error)
    return _apply(tables, unit, now_us)


def rings(unit: Unit) -> bool:
    """Whether others may have more to read after it."""
    return bool(unit.appends or unit.timers)


# --- what can refuse a unit ---------------------------------------------------------------------------------------


def _fenced(tables: Tables, unit: Unit) -> Fenced | None:
    for fence in unit.fences:
        lease = tables.leases.get(fence.lease)
        if lease is None or lease.epoch != fence.epoch:
            return Fenced(
                f"The lease {fence.lease!r} is no longer held with epoch {fence.epoch}: another process has taken over.",
                lease=fence.lease,
                epoch=fence.epoch,
                current=lease and lease.epoch,
            )
    for done in unit.done:
        subscription = tables.subscriptions.get(done.subscription)
        if subscription is None or subscription.generation != done.generation:
            return Fenced(
                f"The cursor of subscription {done.subscription} is no longer at generation {done.generation}: "
                "it was rewound, paused, renamed or retired. Load the subscription again.",
                subscription=done.subscription,
                generation=done.generation,
                current=subscription and subscription.generation,
            )
    return None


def _does_more(unit: Unit) -> bool:
    """More than to say what is finished, which may be said twice."""
    return bool(unit.appends or unit.statements or unit.puts or unit.changes or unit.timers or unit.notes)


def _is_repetition(ends: Sequence[bool]) -> bool:
    """All that it finishes is finished already."""
    return bool(ends) and all(ends)


def _finished_in_part(ends: Sequence[bool]) -> Fenced | None:
    """A run of which some is finished can be neither applied nor passed: its owner's knowledge is older than the cursor."""
    if not any(ends):
        return None
    return Fenced("Some of what this unit finishes has been finished meanwhile. Load the subscription again.")


def _ends(tables: Tables, unit: Unit) -> list[bool]:
    ends: list[bool] = []
    for done in unit.done:
        ends += tables.ends(done.subscription, done.feed, done.partition, done.ranges)
    for seen in unit.marks:
        ends += tables.marked_ends(seen)
    return ends


def _is_dropped(tables: Tables, unit: Unit) -> bool:
    """What its feed stood at is finished by now."""
    ends = [
        end
        for put in standing(unit)
        for end in tables.ends(put.subscription, put.feed, put.partition, [only(put.record.position)])
    ]
    return bool(ends) and all(ends)


def _is_published(tables: Tables, unit: Unit) -> bool:
    """A unit that finishes nothing is known by its events."""
    for append in unit.appends:
        for record in append.records:
            if record.id not in tables.by_id:
                return False
    return any(append.records for append in unit.appends)


def _changed_meanwhile(tables: Tables, unit: Unit) -> Fenced | None:
    for change in unit.changes:
        row = tables.deliveries.get(change.number)
        if row is None or row.state not in change.while_state:
            return Fenced(
                f"Delivery {change.number} is {row.state if row else 'gone'}: somebody replayed, dropped or settled it meanwhile.",
                delivery=change.number,
                state=row and row.state,
            )
    return None


def _conflict(tables: Tables, appends: Sequence[Append]) -> Conflict | None:
    versions: dict[tuple[str, str], int] = {}
    for append in appends:
        if append.stream is None:
            continue
        name = (append.service, append.stream)
        version = versions.get(name, len(tables.streams.get(name, ())))
        new = {record.id for record in append.records if record.id not in tables.by_id}
        if append.expected not in (None, version) and (new or not append.records):
            return Conflict(
                f"The stream {append.stream!r} is at version {version}, not {append.expected}. "
                "Load it again and decide again.",
                stream=append.stream,
                expected=append.expected,
                version=version,
            )
        versions[name] = version + len(new)
    return None


# --- what a unit does ---------------------------------------------------------------------------------------------


def _repeat(tables: Tables, unit: Unit) -> Verdict:
    """What it did is done; what its owner has passed, and that it runs no more, is still news."""
    _finish(tables, unit)
    for mark in unit.starts:
        if not mark.times:
            _mark(tables, mark)
    return _first_result(tables, unit)


def _finish(tables: Tables, unit: Unit) -> None:
    for done in unit.done:
        tables.fold(done.subscription, done.feed, done.partition, done.ranges)
    for seen in unit.marks:
        tables.mark(seen)


def _first_result(tables: Tables, unit: Unit) -> Verdict:
    """The answer that the first, identical unit got."""
    verdict = Verdict("repeated")
    for append in unit.appends:
        verdict.positions += [tables.by_id[record.id] for record in append.records if record.id in tables.by_id]
        if append.stream is not None:
            verdict.versions.append(_version(tables, append))
    keys = [(put.subscription, put.feed, put.partition, put.record.position) for put in unit.puts]
    verdict.numbers = [tables.delivery_at[key] for key in keys if key in tables.delivery_at]
    return verdict


def _apply(tables: Tables, unit: Unit, now_us: int) -> Verdict:
    verdict = Verdict("done")
    for append in unit.appends:
        _append(tables, append, now_us, verdict)
    _finish(tables, unit)
    for put in unit.puts:
        verdict.numbers.append(_put(tables, put, now_us))
    for change in unit.changes:
        _change(tables, change, now_us)
    for mark in unit.starts:
        _mark(tables, mark)
    for id in unit.cancels:
        verdict.cancelled += tables.timers.pop(id, None) is not None
    for timer in unit.timers:
        tables.set_timer(timer)
    for note in unit.notes:
        tables.write_note(note)
    if unit.notes and any(note.until_us is not None for note in unit.notes):
        tables.remove_ended_notes(now_us)
    return verdict


def _append(tables: Tables, append: Append, now_us: int, verdict: Verdict) -> None:
    head = len(tables.feed)
    verdict.positions += tables.append(append.records, now_us)
    if append.stream is not None:
        stream = tables.streams.setdefault((append.service, append.stream), [])
        stream += range(head + 1, len(tables.feed) + 1)
        appended = len(tables.feed) > head
        verdict.versions.append(len(stream) if appended else _version(tables, append))


def _version(tables: Tables, append: Append) -> int:
    """The version of the last of these events in its stream, else the stream's own."""
    stream = tables.streams.get((append.service, append.stream or ""), [])
    if append.records:
        position = tables.by_id.get(append.records[-1].id, 0)
        index = bisect_left(stream, position)
        if index < len(stream) and stream[index] == position:
            return index + 1
    return len(stream)


def _put(tables: Tables, put: Put, now_us: int) -> int:
    record = put.record
    at = (put.subscription, put.feed, put.partition, record.position)
    number = tables.delivery_at.get(at)
    if number is None:
        number = tables.delivery_last = tables.delivery_last + 1
        tables.delivery_at[at] = number
        before = None
    else:
        before = tables.deliveries[number]
    tables.deliveries[number] = Delivery(
        number,
        put.subscription,
        put.partition,
        record.position,
        record.slot,
        record.key,
        put.state,
        put.attempts,
        max(put.deaths, before.deaths if before else 0),
        put.due_us,
        put.reason,
        put.error,
        put.traceback,
        put.late,
        before.first_us if before and before.state != "settled" else now_us,
        now_us,
        record,
        put.feed,
    )
    return number


def _change(tables: Tables, change: Change, now_us: int) -> None:
    if change.state == "gone":
        if change.number in tables.deliveries:
            tables.remove_delivery(change.number)
        return
    given: dict[str, Any] = {
        name: value for name, value in zip(_CHANGED, change[1:9], strict=True) if value is not None
    }
    if change.attempts and not tables.deliveries[change.number].attempts:
        given["first_us"] = now_us
    tables.deliveries[change.number] = tables.deliveries[change.number]._replace(last_us=now_us, **given)


_CHANGED = Change._fields[1:9]  # state to late


def _mark(tables: Tables, mark: StartMark) -> None:
    starts = tables.starts.setdefault((mark.subscription, mark.feed, mark.partition), {})
    if mark.times:
        starts[mark.position] = mark.times, mark.alone
    else:
        starts.pop(mark.position, None)
