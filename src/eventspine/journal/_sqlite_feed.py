"""The feed in an SQLite file: a page of it, in one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import accumulate
from typing import cast

from . import _sql_read as read
from ._records import Wanted
from ._sqlite_rows import Connection, kept
from .port import Page, Record

_KEPT = kept(read.RECORD)


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
    sql, values = read.feed_query(wanted, _KEPT)
    try:
        connection.keep(cursor, sql, (after, end, *values, limit))
        return _within_bounds(lambda most: read.records_of(connection.fetch(cursor, most)))
    except sqlite3.OperationalError:
        _explain(cursor, after, end, limit, wanted)
        raise


def _explain(cursor: sqlite3.Cursor, after: int, end: int, limit: int, wanted: Wanted) -> None:
    """Raise what is wrong with a row, of which SQLite says no more than that its function has failed."""
    sql, values = read.feed_query(wanted)
    cursor.execute(sql, (after, end, *values, limit)).fetchall()


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
