"""The feed in an SQLite file: a page of it, in one snapshot."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from itertools import accumulate, islice
from typing import cast

from . import _sql_read as read
from ._records import Wanted
from ._sqlite_rows import Connection, kept
from .port import Page, Record

_KEPT = kept(read.RECORD)
# By position, whatever index somebody has added: SQLite would sort what it finds there, behind what keeps the rows.
_EVENTS = "spine_events not indexed"

# Python runs handlers of signals where one of its functions begins, and sqlite3 drops what a function of SQL raises.
_LOST = (
    "The handler of a signal has raised while the feed was read. What it raised is lost there; this is in its place."
)


def page(cursor: sqlite3.Cursor, after: int, limit: int, upto: int | None, wanted: Wanted) -> Page:
    cursor.execute("/*spine*/ begin")  # one snapshot, so that `scanned` never passes what is not in `records`
    try:
        last = read.head(cursor)
        end = min(last, after + max(read.SPAN, limit))
        if upto is not None:
            end = min(end, upto)
        if end <= after:
            return Page((), after, last > after)
        records, cut = _records(cursor, after, end, limit, wanted)
        if not records and end < last and end != upto:
            end = read.before_next(cursor, end, last if upto is None else min(last, upto))
    finally:
        cursor.connection.rollback()
    if cut or len(records) == limit:
        return Page(records, records[-1].position)
    return Page(records, end, end < last)


def _records(cursor: sqlite3.Cursor, after: int, end: int, limit: int, wanted: Wanted) -> tuple[list[Record], bool]:
    connection = cast("Connection", cursor.connection)
    sql, values = read.feed_query(wanted, _KEPT, _EVENTS)
    try:
        connection.keep(cursor, sql, (after, end, *values, limit))
        return _within_bounds(lambda most: read.records_of(connection.fetch(cursor, most)))
    except sqlite3.OperationalError as error:
        records, cut = _row_by_row(cursor, after, end, limit, wanted)
        # Cut: what is wrong may be with the row behind, which the function had been given.
        if "function" in str(error) and not cut and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt(_LOST) from error
        return records, cut


def _row_by_row(cursor: sqlite3.Cursor, after: int, end: int, limit: int, wanted: Wanted) -> tuple[list[Record], bool]:
    """Where the function has failed, of which SQLite says no more: raises what is wrong with a row, if anything is."""
    sql, values = read.feed_query(wanted, table=_EVENTS)
    cursor.execute(sql, (after, end, *values, limit))
    return _within_bounds(lambda most: read.records_of(islice(cursor, most)))


def _within_bounds(fetch: Callable[[int], list[Record]]) -> tuple[list[Record], bool]:
    """Records up to some megabytes of data, and at least one; whether they were cut."""
    records: list[Record] = []
    size, step, most = 0, 16, read.PAGE_BYTES_MAX
    while some := fetch(step):
        size += read.data_bytes(some)
        records += some
        if size > most:
            fitting = sum(upto <= most for upto in accumulate(len(record.data) for record in records))
            return records[: max(1, fitting)], fitting < len(records)
        # So many that they would fit if they were as large as those before, and few while nothing is known.
        step = max(1, min(step * 4, 4096, (most - size) * len(records) // (size + 1)))
    return records, False
