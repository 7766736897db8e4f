"""Reading the journal: each function takes a cursor, runs a query or two in one snapshot, and leaves none open."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

from ._records import Wanted, decode_record
from .cursors import Range, decode
from .cutting import begins_later
from .port import (
    OWN_FEED,
    PARTITIONS,
    Cursor,
    Delivery,
    Lease,
    Noted,
    Process,
    Record,
    State,
    StreamHead,
    Subscription,
    Timer,
)

PAGE_BYTES_MAX = 8 * 1024 * 1024
SPAN = 20_000  # how many positions one page may pass over, so that no snapshot stays open for long (R20)
RECORD = "position, id, channel, slot, key, type, version, time_us, recorded_us, source, correlation, causation, hops, meta, data"
_HEAD = "/*spine*/ select coalesce(max(position), 0) from spine_events"


def head(cursor: sqlite3.Cursor) -> int:
    return int(cursor.execute(_HEAD).fetchone()[0])


def before_next(cursor: sqlite3.Cursor, after: int, upto: int) -> int:
    """Where the next event stands, just before it: what lies between was deleted, and may be long."""
    query = "/*spine*/ select min(position) - 1 from spine_events where position > ?"
    before = cursor.execute(query, (after,)).fetchone()[0]
    return upto if before is None else min(upto, int(before))


def feed_query(wanted: Wanted, columns: str = RECORD, table: str = "spine_events") -> tuple[str, list[Any]]:
    channels, partitions, types, private = wanted
    where = ["position > ? and position <= ?"]
    values: list[Any] = []
    if channels is not None:
        where.append(f"({_any_of('channel', channels)}{' or channel is null' if private else ''})")
        values += channels
    elif not private:
        where.append("channel is not null")
    if partitions is not None and len(set(partitions)) < PARTITIONS:
        # Not `slot % 16`, which SQL makes negative for a foreign writer's negative slot: nobody would read that event.
        where.append(f"(1 << (slot & {PARTITIONS - 1})) & ? <> 0")
        values.append(sum(1 << partition for partition in set(partitions)))
    if types is not None:
        where.append(_any_of("type", types))
        values += types
    return f"/*spine*/ select {columns} from {table} where {' and '.join(where)} order by position limit ?", values


def _any_of(column: str, values: Sequence[str]) -> str:
    """Of no values none: an intake reads no channel of the feed, and PostgreSQL refuses a list that is empty."""
    return f"{column} in ({','.join('?' * len(values))})" if values else "1 = 0"


_data = itemgetter(14)


def data_bytes(rows: Iterable[Any]) -> int:
    return sum(map(len, map(_data, rows)))


def records_of(rows: Iterable[Any]) -> list[Record]:
    """Each row becomes its record at once, so that the two never exist side by side in their hundreds."""
    return list(map(_new, repeat(Record), rows))


_new: Callable[[type[Record], Any], Record] = tuple.__new__  # half the time of Record(*row)


def position_at(cursor: sqlite3.Cursor, time_us: int) -> int:
    """By halves: recorded_us never goes back along the feed."""
    low, high = 0, head(cursor)
    while low < high:
        middle = (low + high + 1) // 2
        row = cursor.execute(
            "/*spine*/ select position, recorded_us from spine_events where position <= ? order by position desc limit 1",
            (middle,),
        ).fetchone()
        if row is None or row[1] < time_us:
            low = middle
        else:
            high = row[0] - 1
    row = cursor.execute("/*spine*/ select max(position) from spine_events where position <= ?", (low,)).fetchone()
    return int(row[0] or 0)


_STREAM, _FOLDED = (
    f"/*spine*/ select {', '.join(f'e.{column.strip()}' for column in columns.split(','))}, v.version"
    " from spine_streams s join spine_stream_events v on v.stream = s.number join spine_events e on e.position = v.position"
    " where s.service = ? and s.name = ? and v.version > ? order by v.version limit ?"
    for columns in (RECORD, "position, id, type, version, time_us, meta, data")
)


def stream(cursor: sqlite3.Cursor, service: str, name: str, after: int, limit: int) -> list[Record]:
    return records_of([row[:-1] for row in _after(cursor, _STREAM, service, name, after, limit)])


def folded(cursor: sqlite3.Cursor, service: str, name: str, after: int, limit: int) -> list[Record]:
    """Without what a state is not made of: each column takes its time."""
    return [
        _new(Record, (position, id, None, 0, None, type, version, time_us, 0, service, None, None, 0, meta, data))
        for position, id, type, version, time_us, meta, data, _ in _after(cursor, _FOLDED, service, name, after, limit)
    ]


def _after(cursor: sqlite3.Cursor, query: str, service: str, name: str, after: int, limit: int) -> list[Any]:
    rows = cursor.execute(query, (service, name, after, limit)).fetchall()
    if rows and rows[0][-1] != after + 1:
        raise begins_later(service, name, rows[0][-1])
    return rows


def stream_version(cursor: sqlite3.Cursor, service: str, name: str) -> int:
    row = cursor.execute(
        "/*spine*/ select version from spine_streams where service = ? and name = ?", (service, name)
    ).fetchone()
    return int(row[0]) if row else 0


def streams(cursor: sqlite3.Cursor, service: str | None, after: tuple[str, str], limit: int) -> list[StreamHead]:
    query = (
        "/*spine*/ select s.service, s.name, s.version, coalesce(e.type, '') from spine_streams s"
        " left join spine_stream_events v on v.stream = s.number and v.version = s.version"
        " left join spine_events e on e.position = v.position where s.version > 0 and (s.service, s.name) > (?, ?)"
        " and s.service = coalesce(?, s.service) order by s.service, s.name limit ?"
    )
    return [StreamHead(*row) for row in cursor.execute(query, (*after, service, limit)).fetchall()]


def event(cursor: sqlite3.Cursor, id: bytes) -> Record | None:
    rows = cursor.execute(f"/*spine*/ select {RECORD} from spine_events where id = ?", (id,)).fetchall()
    return records_of(rows)[0] if rows else None


def correlated(cursor: sqlite3.Cursor, correlation: str, limit: int) -> list[Record]:
    try:
        first = uuid.UUID(correlation).bytes
    except ValueError:
        first = b""
    return records_of(
        cursor.execute(
            f"/*spine*/ select {RECORD} from spine_events where position in"
            " (select position from spine_events where id = ? union select position from spine_events where correlation = ?)"
            " order by position limit ?",
            (first, correlation, limit),
        ).fetchall()
    )


SUBSCRIPTION = (
    "number, uid, service, name, state, generation, channels, types, ordering, on_dead, republish, created_us"
)


def subscriptions(cursor: sqlite3.Cursor, service: str | None) -> list[Subscription]:
    where = "" if service is None else "where service = ?"
    rows = cursor.execute(
        f"/*spine*/ select {SUBSCRIPTION} from spine_subscriptions {where} order by number",
        () if service is None else (service,),
    ).fetchall()
    return [
        Subscription._make(
            (
                *row[:6],
                tuple(json.loads(row[6])),
                tuple((type, newest) for type, newest in json.loads(row[7])),
                *row[8:],
            )
        )
        for row in rows
    ]


def cursors(cursor: sqlite3.Cursor, numbers: Sequence[int]) -> list[Cursor]:
    rows = cursor.execute(
        "/*spine*/ select subscription, partition, position, beyond, feed from spine_cursors"
        " where subscription in (select value from json_each(?)) order by subscription, feed, partition",
        (json.dumps(list(numbers)),),
    ).fetchall()
    return [
        Cursor(number, partition, position, decode(beyond), feed) for number, partition, position, beyond, feed in rows
    ]


def deliveries(
    cursor: sqlite3.Cursor,
    *,
    subscriptions: Sequence[int] | None,
    states: Sequence[State] | None,
    partitions: Sequence[int] | None,
    numbers: Sequence[int] | None,
    events: Sequence[bytes] | None,
    after: int,
    limit: int,
    records: bool,
) -> list[Delivery]:
    where: list[str] = ["number > ?"]
    values: list[Any] = [after]
    for column, wanted in (
        ("subscription", subscriptions), ("state", states), ("partition", partitions), ("number", numbers),
    ):  # fmt: skip
        if wanted is not None:
            where.append(f"{column} in (select value from json_each(?))")
            values.append(json.dumps(list(wanted)))
    if events is not None:
        where.append(f"event_id in ({','.join('?' * len(events))})" if events else "1 = 0")
        values += events
    if states is not None and "settled" not in states:
        where.append("state <> 'settled'")  # lets the partial index serve
    rows = cursor.execute(
        "/*spine*/ select number, subscription, partition, position, slot, key, state, attempts, deaths, due_us, reason,"
        f" error, traceback, late, first_us, last_us, {'record' if records else 'null'}, feed from spine_deliveries"
        f" where {' and '.join(where)} order by number limit ?",
        (*values, limit),
    ).fetchall()
    return [
        Delivery._make((*row[:13], bool(row[13]), *row[14:16], decode_record(row[16]) if row[16] else None, row[17]))
        for row in rows
    ]


def starts(cursor: sqlite3.Cursor, subscription: int) -> dict[tuple[int, int], tuple[int, int]]:
    rows = cursor.execute(
        "/*spine*/ select partition, position, times, alone from spine_starts where subscription = ? and feed = ?",
        (subscription, OWN_FEED),
    ).fetchall()
    return {(partition, position): (times, alone) for partition, position, times, alone in rows}


def marks(
    cursor: sqlite3.Cursor, subscription: int, origin: str, channel: str
) -> dict[int, tuple[int, Sequence[Range]]]:
    rows = cursor.execute(
        "/*spine*/ select slot, upto, beyond from spine_marks where subscription = ? and origin = ? and channel = ?"
        " order by slot",
        (subscription, origin, channel),
    ).fetchall()
    return {slot: (upto, decode(beyond)) for slot, upto, beyond in rows}


def notes(
    cursor: sqlite3.Cursor, service: str, kind: str, keys: Sequence[str] | None, after: str, limit: int
) -> list[Noted]:
    query = "/*spine*/ select key, version, value from spine_notes where service = ? and kind = ? and key"
    if keys is None:
        rows = cursor.execute(f"{query} > ? order by key limit ?", (service, kind, after, limit)).fetchall()
    else:
        wanted = sorted(set(keys))
        rows = [row for key in wanted for row in cursor.execute(f"{query} = ?", (service, kind, key)).fetchall()][
            :limit
        ]
    return [Noted(*row) for row in rows]


def next_due(cursor: sqlite3.Cursor) -> int | None:
    due: int | None = cursor.execute("/*spine*/ select min(due_us) from spine_timers").fetchone()[0]
    return due


def timers(cursor: sqlite3.Cursor, limit: int) -> list[Timer]:
    rows = cursor.execute(
        "/*spine*/ select due_us, record from spine_timers order by due_us, id limit ?", (limit,)
    ).fetchall()
    return [Timer(due_us, decode_record(record)) for due_us, record in rows]


def processes(cursor: sqlite3.Cursor) -> list[Process]:
    rows = cursor.execute(
        '/*spine*/ select id, service, generation, pid, host, started_us, "window", release, until_us, pid_started'
        " from spine_processes order by started_us, id"
    ).fetchall()
    return [Process(*row) for row in rows]


def leases(cursor: sqlite3.Cursor) -> list[Lease]:
    rows = cursor.execute(
        "/*spine*/ select name, epoch, owner, until_us, unclean from spine_leases order by name"
    ).fetchall()
    return [lease_of(row) for row in rows]


def lease_of(row: Sequence[Any]) -> Lease:
    name, epoch, owner, until_us, unclean = row
    return Lease(name, epoch, owner, until_us, bool(unclean))


def control(cursor: sqlite3.Cursor) -> int:
    row = cursor.execute("/*spine*/ select value from spine_meta where name = 'control'").fetchone()
    return int(row[0]) if row else 0
