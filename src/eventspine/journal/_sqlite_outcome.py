"""Whether a group was committed, when COMMIT itself could not say.

A group is one transaction, so one thing that it alone wrote tells for all of it: an event that it inserted, a cursor or
mark that it moved, or a note at its new version. The turn lock is still held, so no other process of ours has written since. Where a group
wrote none of them, nobody can say.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from .notes import Place

if TYPE_CHECKING:
    from ._sql_known import NoteHead


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


def note_trace(notes: Mapping[Place, NoteHead], now_us: int) -> Trace | None:
    """Of a note that is there afterwards, at a version that it was not at before."""
    for place, note in notes.items():
        if note.version not in (0, note.stored) and (note.until_us is None or note.until_us >= now_us):
            query = "/*spine*/ select 1 from spine_notes where service = ? and kind = ? and key = ? and version = ?"
            return Trace(query, (*place, note.version))
    return None


def was_committed(cursor: sqlite3.Cursor, trace: Trace | None) -> bool | None:
    """None: it can't be told."""
    if trace is None:
        return None
    return cursor.execute(trace.sql, trace.values).fetchone() is not None
