"""What a journal and a backup of it hold of the same events: the only way to find a letter that became another inside an
event's data, since neither SQLite nor we keep checksums of rows. The backup has one, its seal (`_sqlite_seal`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from . import _sql_read as read, _sqlite_file as file, forks
from ._sqlite_restore import _open

PAGE = 500
_ROWS = f"/*spine*/ select {read.RECORD} from spine_events where position > ? order by position limit ?"
_SAME = f"/*spine*/ select {read.RECORD} from spine_events where position between ? and ?"


class Compared(NamedTuple):
    events: int  # that both have
    differ: list[int]  # their positions
    same_journal: bool


def compare(backup: Path, place: Path, *, busy_s: float = 30.0) -> Compared:
    """Column for column, a page in memory. Positions that only one of them has are no difference: one is newer, and retention may
    have been at the other. Nor is another event at a position, where one of them was restored since the other was made."""
    with (
        forks.inside_sqlite(),
        closing(_open(backup, busy_s)) as copy,
        closing(file.connect(place, busy_s=busy_s, readonly=True)) as live,
    ):
        kept, ours = _identity(copy), _identity(live)
        if kept[0] != ours[0]:
            return Compared(0, [], same_journal=False)
        events, differ = 0, list[int]()
        for one, other in _pairs(copy, live):
            if kept == ours or one[1] == other[1]:
                events += 1
                differ += [one[0]] if one != other else []
        return Compared(events, differ, same_journal=True)


def _identity(connection: sqlite3.Connection) -> tuple[str | None, str | None]:
    query = "/*spine*/ select name, value from spine_meta where name in ('id', 'incarnation')"
    found: dict[str, str] = dict(connection.execute(query).fetchall())
    return found.get("id"), found.get("incarnation")


def _pairs(copy: sqlite3.Connection, live: sqlite3.Connection) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    after = 0
    while rows := copy.execute(_ROWS, (after, PAGE)).fetchall():
        there = {row[0]: row for row in live.execute(_SAME, (rows[0][0], rows[-1][0])).fetchall()}
        yield from ((row, there[row[0]]) for row in rows if row[0] in there)
        after = rows[-1][0]
