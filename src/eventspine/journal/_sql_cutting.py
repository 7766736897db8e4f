"""Cutting a stream off in SQL: looked at, judged and deleted in one transaction, so that a process that dies leaves it whole
or cut."""

from __future__ import annotations

import json
import sqlite3

from . import _sql_read as read
from ._sql_apply import Safeguards, check_version
from ._sql_retention import DELETE, store, stored
from .cutting import Old, Open, check_version as check_stream, refuse_needed, summed
from .port import OWN_FEED, Deleted, StreamCut

_OLD = (
    "/*spine*/ select e.position, e.channel, e.slot, e.recorded_us from spine_stream_events v"
    " join spine_events e on e.position = v.position where v.stream = ? and v.version < ? order by v.version"
)
_OPEN = (
    "/*spine*/ select number, subscription, state from spine_deliveries where feed = ? and state <> 'settled' and event_id in"
    " (select e.id from spine_stream_events v join spine_events e on e.position = v.position"
    " where v.stream = ? and v.version < ?) order by number"
)
_DELIVERIES = (  # settled, or of a retired subscription: for others the cut was refused
    "/*spine*/ delete from spine_deliveries where feed = ? and event_id in"
    " (select id from spine_events where position in (select value from json_each(?)))"
)
_VERSIONS = "/*spine*/ delete from spine_stream_events where stream = ? and version < ?"
_FIRST = "/*spine*/ select min(version) from spine_stream_events where stream = ?"


def cut(
    cursor: sqlite3.Cursor,
    service: str,
    stream: str,
    before: int,
    expected: int | None,
    *,
    now_us: int,
    safeguards: Safeguards,
    locking: str,
) -> tuple[StreamCut, bool]:
    """`locking`: what keeps others from appending to it meanwhile."""
    check_version(cursor, now_us)
    query = f"/*spine*/ select number, version from spine_streams where service = ? and name = ?{locking}"
    number, version = cursor.execute(query, (service, stream)).fetchone() or (0, 0)
    check_stream(service, stream, version, before, expected)
    old = [Old(*row) for row in cursor.execute(_OLD, (number, before)).fetchall()]
    if old:
        if safeguards.needs:
            _refuse_needed(cursor, service, stream, number, before, old)
        _delete(cursor, number, before, old)
    first = cursor.execute(_FIRST, (number,)).fetchone()[0]
    return StreamCut(len(old), first or 0), False


def _refuse_needed(cursor: sqlite3.Cursor, service: str, stream: str, number: int, before: int, old: list[Old]) -> None:
    subscriptions = read.subscriptions(cursor, None)
    cursors = read.cursors(cursor, [row.number for row in subscriptions])
    deliveries = [Open(*row) for row in cursor.execute(_OPEN, (OWN_FEED, number, before)).fetchall()]
    refuse_needed(service, stream, old, subscriptions, cursors, deliveries)


def _delete(cursor: sqlite3.Cursor, number: int, before: int, old: list[Old]) -> None:
    positions = json.dumps([event.position for event in old])
    cursor.execute(_DELIVERIES, (OWN_FEED, positions))
    cursor.execute(DELETE, (positions,))
    cursor.execute(_VERSIONS, (number, before))
    store(cursor, "cut_off", [list(row) for row in summed(cut_off(cursor), old)])


def cut_off(cursor: sqlite3.Cursor) -> list[Deleted]:
    return [Deleted(*row) for row in stored(cursor, "cut_off")]
