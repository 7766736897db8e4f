"""What the accepted units of a group write, collected first and then written in as few statements as possible."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, groupby
from typing import Any, NamedTuple

from ._records import encode_record
from ._sql_known import Coming, Known, among
from ._sqlite_outcome import Trace, cursor_trace, event_trace, mark_trace, note_trace
from .cursors import encode
from .port import Change, Note, Put, Record, StartMark, Timer, Unit, Verdict

EVENTS = (
    "/*spine*/ insert into spine_events (id, channel, slot, key, type, version, time_us, recorded_us, source, correlation,"
    " causation, hops, meta, data) values (?,?,?,?,?,?,?,?,?,?,?,?,?,?) on conflict (id) do nothing"
)
_STREAMS = (
    "/*spine*/ insert into spine_streams (number, service, name, version) values (?,?,?,?)"
    " on conflict (number) do update set version = excluded.version"
)
_STREAM_EVENTS = "/*spine*/ insert into spine_stream_events (stream, version, position) values (?,?,?)"
_STREAM_EVENT = (
    "/*spine*/ insert into spine_stream_events (stream, version, position)"
    " select ?, ?, position from spine_events where id = ?"
)
_PUT = (
    "/*spine*/ insert into spine_deliveries (subscription, feed, partition, position, slot, key, state, attempts, due_us,"
    " reason, error, traceback, late, deaths, first_us, last_us, event_id, record)"
    " values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
    " on conflict (subscription, feed, partition, position) do update set state = excluded.state,"
    " attempts = excluded.attempts, due_us = excluded.due_us, reason = excluded.reason, error = excluded.error,"
    " traceback = excluded.traceback, late = excluded.late, deaths = case when"
    " spine_deliveries.deaths > excluded.deaths then spine_deliveries.deaths else excluded.deaths end,"
    " first_us = case when spine_deliveries.state = 'settled' then excluded.first_us else spine_deliveries.first_us end,"
    " last_us = excluded.last_us, record = excluded.record"
    " returning number"
)
_NUMBER = (
    "/*spine*/ select number from spine_deliveries"
    " where subscription = ? and feed = ? and partition = ? and position = ?"
)
_CHANGE = (
    "/*spine*/ update spine_deliveries set first_us = case when attempts = 0 and ? > 0 then ? else first_us end,"
    " state = coalesce(?, state), attempts = coalesce(?, attempts),"
    " deaths = coalesce(?, deaths), due_us = coalesce(?, due_us), reason = coalesce(?, reason),"
    " error = coalesce(?, error), traceback = coalesce(?, traceback), late = coalesce(?, late), last_us = ?"
    " where number = ?"
)
_GONE = "/*spine*/ delete from spine_deliveries where number = ?"
_START = (
    "/*spine*/ insert into spine_starts (subscription, feed, partition, position, times, alone) values (?,?,?,?,?,?)"
    " on conflict (subscription, feed, partition, position) do update set times = excluded.times, alone = excluded.alone"
)
_CLEAR = "/*spine*/ delete from spine_starts where subscription = ? and feed = ? and partition = ? and position = ?"
_TIMER = (
    "/*spine*/ insert into spine_timers (id, due_us, record) select ?, ?, ?"
    " where not exists (select 1 from spine_events where id = ?) on conflict (id) do nothing"
)
_CANCEL = "/*spine*/ delete from spine_timers where id = ?"
_CURSOR = (
    "/*spine*/ insert into spine_cursors (subscription, feed, partition, position, beyond) values (?,?,?,?,?)"
    " on conflict (subscription, feed, partition) do update set position = excluded.position, beyond = excluded.beyond"
)
_MARK = (
    "/*spine*/ insert into spine_marks (subscription, origin, channel, slot, upto, beyond) values (?,?,?,?,?,?)"
    " on conflict (subscription, origin, channel, slot) do update set upto = excluded.upto, beyond = excluded.beyond"
)
_NOTE = (
    "/*spine*/ insert into spine_notes (service, kind, key, version, value, until_us) values (?,?,?,?,?,?)"
    " on conflict (service, kind, key) do update set version = excluded.version, value = excluded.value,"
    " until_us = excluded.until_us"
)
_NO_NOTE = "/*spine*/ delete from spine_notes where service = ? and kind = ? and key = ?"
_ENDED_NOTES = (
    "/*spine*/ delete from spine_notes where (service, kind, key) in"
    " (select service, kind, key from spine_notes where until_us < ? order by until_us limit ?)"
)


NULL = float("nan")  # which SQLite stores as NULL
_UNASKED = (float, bytearray)
AT_ONCE = (64, 16, 4, 1)  # rows to a statement: few sizes, so that statements stay cached


class Repeated(Exception):
    """What was taken for new without asking is in the feed: all of the group is judged again, and asked of first."""


class Step(NamedTuple):
    sql: str
    values: tuple[Any, ...]
    verdict: Verdict | None = None  # told how many timers were cancelled, or the number of the delivery


class Placed(NamedTuple):
    """Records of one verdict: `count` of plan.records from `start`; `ids` where some may be in the feed already."""

    verdict: Verdict
    start: int
    ids: list[bytes]
    repeats: bool  # when all were in the feed before, the unit is a repetition


class StreamRows(NamedTuple):
    """Events that follow one another in a stream. `version`: of the first; `at`: which of plan.records the first is."""

    stream: int
    version: int
    ids: list[bytes]
    at: int


class Plan:
    __slots__ = (
        "_head",
        "_now_us",
        "ending_notes",
        "first",
        "last",
        "placed",
        "public",
        "records",
        "steps",
        "stream_rows",
        "timers",
        "touched",
    )

    def __init__(self, now_us: int, head: int) -> None:
        self._now_us, self._head = now_us, head
        self.records: list[tuple[Any, ...]] = []
        self.first = 0  # the position of the first of them, when all were new
        self.last = head  # where the feed ends
        self.placed: list[Placed] = []
        self.stream_rows: list[StreamRows] = []
        self.touched: set[tuple[str, str]] = set()  # streams
        self.steps: list[Step] = []
        self.ending_notes = 0
        self.public = self.timers = False

    # --- collecting -------------------------------------------------------------------------------------------------

    def append(self, verdict: Verdict, unit: Unit, new: list[Record] | None, now_us: int) -> None:
        """`new`: the records to insert, where the unit has streams; None: all of the unit's."""
        records = [record for append in unit.appends for record in append.records]
        if not records:
            return
        start = len(self.records) if new is None or len(new) == len(records) else -1
        self.records += [(*record[1:8], now_us, *record[9:]) for record in (records if new is None else new)]
        repeats = not (unit.done or unit.marks or unit.fences or unit.changes)
        self.placed.append(Placed(verdict, start, [record[1] for record in records], repeats))

    def look_up(self, verdict: Verdict, unit: Unit) -> None:
        """Of a repetition: what the first unit wrote, also when that was a moment ago in this group."""
        ids = [record.id for append in unit.appends for record in append.records]
        if ids:
            self.placed.append(Placed(verdict, -1, ids, False))
        for put in unit.puts:
            self.steps.append(Step(_NUMBER, (put.subscription, put.feed, put.partition, put.record.position), verdict))

    def put(self, put: Put, verdict: Verdict) -> None:
        record, now_us = put.record, self._now_us
        values = (
            put.subscription, put.feed, put.partition, record.position, record.slot, record.key, put.state, put.attempts,
            put.due_us, put.reason, put.error, put.traceback, int(put.late), put.deaths, now_us, now_us, record.id,
            encode_record(record),
        )  # fmt: skip
        self.steps.append(Step(_PUT, values, verdict))

    def change(self, change: Change) -> None:
        late = None if change.late is None else int(change.late)
        if change.state == "gone":
            self.steps.append(Step(_GONE, (change.number,)))
        else:
            values = (change.attempts, self._now_us, *change[1:8], late, self._now_us, change.number)
            self.steps.append(Step(_CHANGE, values))

    def start(self, mark: StartMark) -> None:
        place = (mark.subscription, mark.feed, mark.partition, mark.position)
        self.steps.append(Step(_START, (*place, mark.times, mark.alone)) if mark.times else Step(_CLEAR, place))

    def timer(self, timer: Timer) -> None:
        self.steps.append(Step(_TIMER, (timer.record.id, timer.due_us, encode_record(timer.record), timer.record.id)))
        self.timers = True

    def cancel(self, id: bytes, verdict: Verdict) -> None:
        self.steps.append(Step(_CANCEL, (id,), verdict))

    def note(self, note: Note, version: int) -> None:
        if note.value is None:
            self.steps.append(Step(_NO_NOTE, note[:3]))
        else:
            self.steps.append(Step(_NOTE, (*note[:3], version, note.value, note.until_us)))
        self.ending_notes += note.until_us is not None

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, cursor: sqlite3.Cursor, known: Known) -> Trace | None:
        """Gives something that only this group can have written, if there is any."""
        trace: Trace | None = None
        if self.records or self.placed:
            trace = self._write_events(cursor, known)
        if self.touched:
            self._write_streams(cursor, known)
        for sql, steps in groupby(self.steps, key=lambda step: step.sql):
            _write_steps(cursor, sql, list(steps))
        if self.ending_notes:  # two go for one that comes, so that they never pile up
            cursor.execute(_ENDED_NOTES, (self._now_us, 2 * self.ending_notes + 8))
        trace = trace or note_trace(known.notes, self._now_us)
        if marked := _moved(known.marks):
            write_rows(cursor, _MARK, marked)
            trace = mark_trace(marked[0])
        if moved := _moved(known.cursors):
            write_rows(cursor, _CURSOR, moved)
            trace = cursor_trace(moved[0])
        return trace

    def _write_events(self, cursor: sqlite3.Cursor, known: Known) -> Trace | None:
        inserted, last = 0, 0
        if self.records:
            inserted = write_rows(cursor, EVENTS, _bindable(self.records))
            last = cursor.lastrowid or 0
        self.last = last if inserted else self._head
        first = last - inserted + 1
        self.first = first if inserted == len(self.records) else 0
        self.public = inserted > 0 and any(record[1] is not None for record in self.records)
        if known.trusting and inserted < len(self.records):
            raise Repeated
        if inserted == len(self.records) and all(placed.start >= 0 for placed in self.placed):
            for placed in self.placed:
                begin = first + placed[1]
                placed[0].positions = [*range(begin, begin + len(placed[2]))]
            return event_trace(self.records[0][0])
        return self._look_up(cursor)

    def _look_up(self, cursor: sqlite3.Cursor) -> Trace | None:
        """Some were in the feed already, or twice in this group: ask for each by its id."""
        ids = {id for placed in self.placed for id in placed.ids}
        positions = dict(among(cursor, "select id, position from spine_events where id in", ids))
        claimed: set[bytes] = set()
        for placed in self.placed:
            verdict = placed.verdict
            verdict.positions = [positions[id] for id in placed.ids if id in positions]
            old = all(id in claimed or positions.get(id, 0) <= self._head for id in placed.ids)
            if placed.repeats and placed.ids and old:
                verdict.kind = "repeated"
            claimed.update(placed.ids)
        return next((event_trace(id) for id, position in positions.items() if position > self._head), None)

    def _write_streams(self, cursor: sqlite3.Cursor, known: Known) -> None:
        heads = [(known.heads[stream], stream) for stream in self.touched]
        write_rows(cursor, _STREAMS, [(head.number, *stream, head.version) for head, stream in heads])
        if self.first:
            rows = [
                (stream, version + n, self.first + at + n)
                for stream, version, ids, at in self.stream_rows
                for n in range(len(ids))
            ]
            write_rows(cursor, _STREAM_EVENTS, rows)
        else:  # one that came twice in this group is in a row of its own
            for stream, version, ids, _ in self.stream_rows:
                cursor.executemany(_STREAM_EVENT, [(stream, version + n, id) for n, id in enumerate(ids)])


def _moved(places: Mapping[Any, Coming]) -> list[tuple[Any, ...]]:
    """Rows of the cursors or marks that accepted units have moved."""
    rows = []
    for place, coming in places.items():
        if coming.accepted and (folded := coming.folded()) != (coming.position, coming.beyond):
            rows.append((*place, folded[0], encode(folded[1])))
    return rows


def _write_steps(cursor: sqlite3.Cursor, sql: str, steps: list[Step]) -> None:
    if steps[0].verdict is None:
        cursor.executemany(sql, [step.values for step in steps])
        return
    for step in steps:
        assert step.verdict is not None
        rows = cursor.execute(sql, step.values).fetchall()
        if sql is not _CANCEL:
            step.verdict.numbers += [row[0] for row in rows]
        else:
            step.verdict.cancelled += cursor.rowcount


def _bindable(records: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    """Not where the program itself has had one of these types adapted, which would be asked again."""
    if any((kind, sqlite3.PrepareProtocol) in sqlite3.adapters for kind in _UNASKED):
        return records
    return [_bound(*record) for record in records]


def _bound(
    id: bytes, channel: str | None, slot: int, key: str | None, type: str, version: int, time_us: int, recorded_us: int,
    source: str, correlation: str | None, causation: str | None, hops: int, meta: bytes | None, data: bytes,
) -> tuple[Any, ...]:  # fmt: skip
    """The row in types that Python gives to SQLite as they are. Of bytes and None it asks first whether somebody adapts
    them, which for all those of a row takes longer than to insert it."""
    return (
        bytearray(id), NULL if channel is None else channel, slot, NULL if key is None else key, type, version, time_us,
        recorded_us, source, NULL if correlation is None else correlation, NULL if causation is None else causation, hops,
        NULL if meta is None else bytearray(meta), bytearray(data),
    )  # fmt: skip


def write_rows(cursor: sqlite3.Cursor, sql: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """`executemany` with many rows to a statement; how many were written. Python gives up its lock for each
    statement, and gets it back late when other threads are busy; so a row is no statement of its own."""
    written = start = 0
    while (left := len(rows) - start) > 0:
        count = next(size for size in AT_ONCE if size <= left)
        values = rows[start] if count == 1 else [*chain.from_iterable(rows[start : start + count])]
        cursor.execute(_many(sql, count), values)
        written += cursor.rowcount
        start += count
    return written


@cache
def _many(sql: str, count: int) -> str:
    before, _, after = sql.partition("values (")
    row, _, after = after.partition(")")
    return f"{before}values {', '.join([f'({row})'] * count)}{after}"
