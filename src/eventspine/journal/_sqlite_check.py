"""Is the file whole? Reads every page and every row of ours, changes nothing, and waits for no lock.

SQLite's own check finds pages that don't fit together. It can't find a bit that turned inside a value, so rows are read
as the engine reads them, and what can be computed is compared: the slot with the key, cursors with the end of the feed.
What is left, a letter that became another inside an event's data, only a backup can tell (`_sqlite_compare`): there is no checksum of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from importlib.resources import files

import msgspec

from ..keys import slot_of_id, slot_of_key
from ..wording import plural
from . import _sql_read as read
from ._records import decode_record
from .migrations import run_script

TOLD = 20  # of SQLite's own complaints
PAGE = 1_000


def check(cursor: sqlite3.Cursor) -> list[str]:
    """What is damaged, in words; empty when nothing is."""
    found: list[str] = []
    for look in (_pages, _schema, _events, _sequence, _streams, _cursors, _deliveries, _timers, _subscriptions):
        try:
            found += look(cursor)
        except (sqlite3.Error, msgspec.MsgspecError, ValueError, TypeError, LookupError) as error:
            found.append(f"{look.__name__[1:]} can't be read: {type(error).__name__}: {error}")
    return found


def _pages(cursor: sqlite3.Cursor) -> Iterator[str]:
    for (line,) in cursor.execute(f"/*spine*/ pragma integrity_check({TOLD})").fetchall():
        if line != "ok":
            yield f"SQLite: {line}"


def _schema(cursor: sqlite3.Cursor) -> Iterator[str]:
    there = _shape(cursor)
    with sqlite3.connect(":memory:", isolation_level=None) as pattern:
        ours = pattern.cursor()
        run_script(ours, files(__package__ or "").joinpath("schema.sql").read_text(encoding="utf-8"))
        wanted = _shape(ours)
        ours.close()
    pattern.close()
    for name, columns in wanted.items():
        if name not in there:
            yield f"{name} is missing."
        elif missing := [column for column in columns if column not in there[name]]:
            yield f"{name} has no {', '.join(missing)}: it is another program's, or damaged."


def _shape(cursor: sqlite3.Cursor) -> dict[str, set[str]]:
    query = "/*spine*/ select name from sqlite_master where type in ('table', 'index') and name like 'spine\\_%' escape '\\'"
    names = [name for (name,) in cursor.execute(query).fetchall()]
    columns = "/*spine*/ select name from pragma_table_info(?)"
    return {name: {column for (column,) in cursor.execute(columns, (name,))} for name in names}


def _events(cursor: sqlite3.Cursor) -> Iterator[str]:
    after, wrong = 0, []
    while rows := _some_events(cursor, after):
        wrong += [row[0] for row in rows if not _fits(*row)]
        after = rows[-1][0]
    if wrong:
        yield f"{plural(len(wrong), 'event is', 'events are')} not what was written, the first at position {wrong[0]}."


def _some_events(cursor: sqlite3.Cursor, after: int) -> list[tuple[int, bytes, int, str | None]]:
    # All columns are read, since a text that is no UTF-8 any more is found by reading it; only these are looked at.
    query = f"/*spine*/ select {read.RECORD} from spine_events where position > ? order by position limit ?"
    return [(row[0], row[1], row[3], row[4]) for row in cursor.execute(query, (after, PAGE)).fetchall()]


def _fits(position: object, id: object, slot: object, key: object) -> bool:
    if not isinstance(position, int) or not isinstance(id, bytes):
        return False
    return slot == (slot_of_id(id) if key is None else slot_of_key(str(key)))


def _sequence(cursor: sqlite3.Cursor) -> Iterator[str]:
    row = cursor.execute("/*spine*/ select seq from sqlite_sequence where name = 'spine_events'").fetchone()
    head = read.head(cursor)
    if (row[0] if row else 0) < head:
        yield f"sqlite_sequence is behind the feed, which ends at {head}: positions would be given out twice."


def _streams(cursor: sqlite3.Cursor) -> Iterator[str]:
    """They may begin later; from there on each version has its event, up to the last."""
    query = (
        "/*spine*/ select count(*), min(name) from spine_streams s where version <> coalesce("
        "(select max(version) from spine_stream_events where stream = s.number), 0) or exists (select 1 from spine_stream_events v"
        " where v.stream = s.number and not exists (select 1 from spine_events e where e.position = v.position)) or"
        " (select max(version) - min(version) + 1 - count(*) from spine_stream_events where stream = s.number) <> 0"
    )
    count, name = cursor.execute(query).fetchone()
    if count:
        yield f"{plural(count, 'stream lacks', 'streams lack')} events between their first and their last, such as {name}."


def _cursors(cursor: sqlite3.Cursor) -> Iterator[str]:
    head = max(read.head(cursor), _highest(cursor))
    numbers = [number for (number,) in cursor.execute("/*spine*/ select number from spine_subscriptions").fetchall()]
    for row in read.cursors(cursor, numbers):
        ends = [row.position, *(upto for _, upto in row.beyond)]
        if not row.feed and (max(ends) > head or sorted(ends) != ends):
            yield (
                f"The cursor of subscription {row.subscription} in partition {row.partition} is at {max(ends)}, and the feed "
                f"ends at {head}: events behind it would be passed."
            )


def _highest(cursor: sqlite3.Cursor) -> int:
    """The last position that was ever given out; its event may be deleted."""
    row = cursor.execute("/*spine*/ select seq from sqlite_sequence where name = 'spine_events'").fetchone()
    return int(row[0]) if row else 0


def _deliveries(cursor: sqlite3.Cursor) -> Iterator[str]:
    yield from _records(cursor, "spine_deliveries", "number")


def _timers(cursor: sqlite3.Cursor) -> Iterator[str]:
    yield from _records(cursor, "spine_timers", "hex(id)")


def _records(cursor: sqlite3.Cursor, table: str, name: str) -> Iterator[str]:
    wrong = []
    for row, record in cursor.execute(f"/*spine*/ select {name}, record from {table}"):
        try:
            decode_record(record)
        except (msgspec.MsgspecError, TypeError, ValueError):
            wrong.append(row)
    if wrong:
        yield f"{plural(len(wrong), 'row')} of {table} can't be read, the first {wrong[0]}."


def _subscriptions(cursor: sqlite3.Cursor) -> Sequence[str]:
    """Reading them is all: what can't be read raises."""
    read.subscriptions(cursor, None)
    read.processes(cursor)
    read.leases(cursor)
    return ()
