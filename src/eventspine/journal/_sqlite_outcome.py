"""Whether a group was committed, when COMMIT itself could not say.

A group is one transaction, so one thing that it alone wrote tells for all of it: an event that it inserted, or a
cursor or mark that it moved. The turn lock is still held, so no other process of ours has written since. Where a group
wrote none of them, nobody can say.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple


class Trace(NamedTuple):
    """One thing that a group wrote: a query that finds it when it is stored, and nothing when it is not."""

    sql: str
    values: tuple[object, ...]


def event_trace(id: bytes) -> Trace:
    return Trace("/*spine*/ select 1 from spine_events where id = ?", (id,))


def cursor_trace(row: tuple[object, ...]) -> Trace:
    return Trace(
        "/*spine*/ select 1 from spine_cursors"
        " where subscription = ? and feed = ? and partition = ? and position = ? and beyond is ?",
        row,
    )


def mark_trace(row: tuple[object, ...]) -> Trace:
    return Trace(
        "/*spine*/ select 1 from spine_marks"
        " where subscription = ? and origin = ? and channel = ? and slot = ? and upto = ? and beyond is ?",
        row,
    )


def was_committed(cursor: sqlite3.Cursor, trace: Trace | None) -> bool | None:
    """None: it can't be told."""
    if trace is None:
        return None
    return cursor.execute(trace.sql, trace.values).fetchone() is not None
