"""Deleting what is old enough, in small transactions; and counting what there is.

What may be deleted is looked for by a reader, a bounded part of the feed at a time. The writer asks the same question
again inside its transaction, of the few rows that were found, since a rewind or a new subscription may have come in
between. What services say, and what has been deleted, are two rows of spine_meta: they are few, and an older release
beside us passes over them.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import Fenced
from . import _sql_read as read
from ._sql_apply import check_version
from .port import OWN_FEED, ChannelSize, Deleted, Fence, Keep, Sweep
from .retention import Facts, held, held_back, kept, said

SPAN = 20_000  # positions that one step may pass
BYTES_MAX = 4 * 1024 * 1024  # of data that one step may delete
COUNTED = 50_000  # rows that are counted one by one
SAMPLE = 2_000  # else so many are looked at

_NEEDED_BY_NOBODY = (
    " not exists (select 1 from spine_stream_events v where v.position = e.position)"
    " and not exists (select 1 from spine_deliveries d where d.event_id = e.id and d.feed = '' and d.state <> 'settled')"
)
_FIND = (
    "/*spine*/ select e.position, length(e.data) from spine_events e"
    f" where e.position > ? and e.position <= ? and e.channel = ? and {_NEEDED_BY_NOBODY}"
    " order by e.position limit ?"
)
_INDEX = "/*spine*/ create index if not exists spine_stream_events_position on spine_stream_events (position)"  # made where something is deleted: who keeps everything need not pay for it
SETTLED = (
    "/*spine*/ delete from spine_deliveries where state = 'settled' and feed = ? and event_id in"
    " (select id from spine_events where position in (select value from json_each(?)))"
)
DELETE = "/*spine*/ delete from spine_events where position in (select value from json_each(?))"


class Found(NamedTuple):
    positions: list[int]
    scanned: int
    more: bool


def find(cursor: sqlite3.Cursor, channel: str, after: int, upto: int, limit: int) -> Found:
    """In one snapshot."""
    cursor.execute("/*spine*/ begin")
    try:
        return _find(cursor, channel, after, upto, limit)
    finally:
        cursor.execute("/*spine*/ rollback")


def _find(cursor: sqlite3.Cursor, channel: str, after: int, upto: int, limit: int) -> Found:
    last = min(upto, read.head(cursor) - 1, _floor(cursor, channel, upto))
    after = max(after, _before_first(cursor, after))
    end = min(last, after + SPAN)
    if end <= after:
        return Found([], after, False)
    positions, size = [], 0
    for position, length in cursor.execute(_FIND, (after, end, channel, limit)).fetchall():
        positions.append(position)
        size += length
        if size >= BYTES_MAX:
            break
    if positions and (size >= BYTES_MAX or len(positions) == limit):
        end = positions[-1]
    return Found(positions, end, end < last)


def _before_first(cursor: sqlite3.Cursor, after: int) -> int:
    """What is there begins after this position."""
    query = "/*spine*/ select coalesce(min(position) - 1, 0) from spine_events where position > ?"
    return int(cursor.execute(query, (after,)).fetchone()[0])


def _floor(cursor: sqlite3.Cursor, channel: str, otherwise: int) -> int:
    subscriptions = read.subscriptions(cursor, None)
    hindmost = held(subscriptions, read.cursors(cursor, [row.number for row in subscriptions]), channel)
    return otherwise if hindmost is None else hindmost.position


def prepare(cursor: sqlite3.Cursor, now_us: int) -> tuple[None, bool]:
    check_version(cursor, now_us)
    cursor.execute(_INDEX)
    return None, False


def sweep(
    cursor: sqlite3.Cursor, channel: str, found: Found, limit: int, fence: Fence | None, now_us: int
) -> tuple[Sweep, bool]:
    check_version(cursor, now_us)
    _check_fence(cursor, fence)
    positions = _find(cursor, channel, found.positions[0] - 1, found.positions[-1], limit).positions
    if positions:
        rows = json.dumps(positions)
        query = "/*spine*/ select recorded_us from spine_events where position = ?"
        recorded_us = cursor.execute(query, (positions[-1],)).fetchone()[0]
        cursor.execute(SETTLED, (OWN_FEED, rows))
        cursor.execute(DELETE, (rows,))
        _note(cursor, Deleted(channel, positions[-1], recorded_us, len(positions)))
    return Sweep(len(positions), found.scanned, found.more), False


def _check_fence(cursor: sqlite3.Cursor, fence: Fence | None) -> None:
    if fence is None:
        return
    row = cursor.execute("/*spine*/ select epoch from spine_leases where name = ?", (fence.lease,)).fetchone()
    if row is None or row[0] != fence.epoch:
        raise Fenced(f"The lease {fence.lease!r} is no longer held with epoch {fence.epoch}.", lease=fence.lease)


def _note(cursor: sqlite3.Cursor, new: Deleted) -> None:
    rows = {row.channel: row for row in deleted(cursor)}
    before = rows.get(new.channel, Deleted(new.channel, 0, 0, 0))
    last = max(before, new, key=lambda row: row.position)
    rows[new.channel] = last._replace(events=before.events + new.events)
    store(cursor, "deleted", [list(row) for _, row in sorted(rows.items())])


# --- two rows of spine_meta -------------------------------------------------------------------------------------------


def keep(cursor: sqlite3.Cursor, service: str, channels: Mapping[str, int | None], now_us: int) -> tuple[None, bool]:
    check_version(cursor, now_us)
    rows = said(keeps(cursor), service, channels, now_us)
    if rows is not None:
        store(cursor, "retention", [list(row) for row in rows])
    return None, False


def keeps(cursor: sqlite3.Cursor) -> list[Keep]:
    return [Keep(*row) for row in stored(cursor, "retention")]


def deleted(cursor: sqlite3.Cursor) -> list[Deleted]:
    return [Deleted(*row) for row in stored(cursor, "deleted")]


def stored(cursor: sqlite3.Cursor, name: str) -> list[list[Any]]:
    row = cursor.execute("/*spine*/ select value from spine_meta where name = ?", (name,)).fetchone()
    rows: list[list[Any]] = json.loads(row[0]) if row else []
    return rows


def store(cursor: sqlite3.Cursor, name: str, rows: list[list[Any]]) -> None:
    cursor.execute(
        "/*spine*/ insert into spine_meta (name, value) values (?, ?) on conflict (name) do update set value = excluded.value",
        (name, json.dumps(rows)),
    )


def facts(cursor: sqlite3.Cursor, now_us: int) -> Facts:
    query = "/*spine*/ select position, recorded_us from spine_events order by position limit 1"
    oldest = cursor.execute(query).fetchone()
    keeps_now = kept(keeps(cursor), now_us)
    due = {channel: read.position_at(cursor, now_us - keep_us) for channel, keep_us in keeps_now.items()}
    subscriptions = read.subscriptions(cursor, None) if due else []
    cursors = read.cursors(cursor, [row.number for row in subscriptions])
    return Facts(oldest, keeps_now, deleted(cursor), held_back(due, subscriptions, cursors))


# --- how much there is ------------------------------------------------------------------------------------------------


def channel_sizes(cursor: sqlite3.Cursor) -> list[ChannelSize]:
    first = _before_first(cursor, 0) + 1
    head = read.head(cursor)
    if head - first < COUNTED:
        query = "/*spine*/ select channel, count(*) from spine_events group by channel"
        return sorted((ChannelSize(name, count, True) for name, count in cursor.execute(query)), key=_by_name)
    return _estimated(cursor, first, head)


def _estimated(cursor: sqlite3.Cursor, first: int, head: int) -> list[ChannelSize]:
    """Of positions drawn at random; those that are deleted count for nobody."""
    draw = random.Random(head)  # the same answer to the same question
    drawn = {draw.randint(first, head) for _ in range(SAMPLE)}
    query = (
        "/*spine*/ select channel, count(*) from spine_events where position in (select value from json_each(?))"
        " group by channel"
    )
    share, positions = (head - first + 1) / len(drawn), json.dumps(sorted(drawn))
    rows = (ChannelSize(name, round(count * share), False) for name, count in cursor.execute(query, (positions,)))
    return sorted(rows, key=_by_name)


def _by_name(row: ChannelSize) -> tuple[bool, str]:
    return row.channel is None, row.channel or ""
