"""The feed on PostgreSQL, where positions become visible out of order: the appender-token fence.

A position is given out before its transaction commits, so 10 may be visible before 9, and whoever goes on after 10 has lost
9 for ever. A transaction that appends therefore holds the token, a shared advisory lock, from before its first position
until it ends (see _postgres_apply). A reader keeps `decided`: everything up to there is visible now, or never will be.

    rows without a gap after `decided`           decided, as they are seen
    a gap                                        remember the last position there is, and only then who holds the token;
                                                 once none of them is left, everything up to that position is decided

PostgreSQL makes a transaction visible before it lets go of its locks, so what is read after the holders are gone shows all
that they did. Only transactions that append are waited for: whatever else is open in the cluster stalls nobody. One that
has appended and stays open does hold up the feed; `waiting_for` says who that is.

What is decided stays so, for all readers of this process. A page never goes beyond it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from . import _sql_read as read
from ._postgres_schema import Identity
from ._postgres_session import TOKEN
from ._postgres_sql import Cursor
from ._records import Wanted
from .port import Page, Record

STEP = 1_000  # positions that are looked at for gaps at once
WIDER = 4  # times as many positions, where a page is not filled by a quarter
_HOLDERS = (
    "from pg_locks where locktype = 'advisory' and objsubid = 2 and classid = %s and objid = %s and granted"
    " and database = (select oid from pg_database where datname = current_database())"
)
# Rows up to some megabytes of data, and at least one: the driver holds all that a query gives.
_BOUNDED = (
    f"select {read.RECORD} from (select *, sum(octet_length(data)) over (order by position) - octet_length(data) as before"
    " from ({}) as wanted) as measured where before < ? order by position"
)


class Waiting(NamedTuple):
    """A gap, and who may still fill it."""

    upto: int
    since: float  # monotonic
    holders: Sequence[str]  # virtual transactions


class Fence:
    """Shared by all that read in this process."""

    def __init__(self, identity: Identity) -> None:
        self._schema = identity.schema
        self._token = (TOKEN & 0xFFFFFFFF, identity.number & 0xFFFFFFFF)
        self._lock = threading.Lock()
        self._waiting: Waiting | None = None
        self.on = True  # a test switches it off, and sees events lost
        self.decided = 0  # never inside of what one transaction has appended at once
        self._at = 0  # the same, while it is being looked at

    @property
    def waiting_since(self) -> float | None:
        """Since when a gap holds up the feed, in monotonic seconds."""
        waiting = self._waiting
        return waiting.since if waiting else None

    def advance(self, cursor: Cursor) -> bool:
        """Look how far the feed is decided by now; whether that is further than before."""
        with self._lock:
            while self._step(cursor):
                pass
            before, self.decided = self.decided, self._at
            return self.decided > before

    def _step(self, cursor: Cursor) -> bool:
        """Whether it is worth while to look again at once."""
        gone = self._waiting is not None and not self._holding(cursor, self._waiting.holders)
        positions, last = self._seen(cursor)  # one snapshot, taken after the holders were asked for
        if self._waiting is not None and gone:
            self._at, self._waiting = max(self._at, self._waiting.upto), None
        if not self.on:
            self._at = max(self._at, last)
        for position in positions:
            if position == self._at + 1:
                self._at = position
        if last <= self._at:
            return False
        if self._waiting is None:
            holders = self._holders(cursor)  # after the snapshot that saw `last`
            self._waiting = Waiting(last, time.monotonic(), holders)
            return not holders
        return len(positions) == STEP and positions[-1] == self._at

    def _seen(self, cursor: Cursor) -> tuple[list[int], int]:
        positions, last = cursor.run(
            f"select array(select position from {self._schema}.spine_events where position > %s order by position limit %s),"
            f" (select coalesce(max(position), 0) from {self._schema}.spine_events)",
            (self._at, STEP),
        ).fetchone()
        return positions, last

    def _holding(self, cursor: Cursor, holders: Sequence[str]) -> bool:
        query = f"select exists (select 1 {_HOLDERS} and virtualtransaction = any(%s))"
        return bool(cursor.run(query, (*self._token, list(holders))).fetchone()[0])

    def _holders(self, cursor: Cursor) -> list[str]:
        rows = cursor.run(f"select virtualtransaction {_HOLDERS}", self._token).fetchall()
        return [name for (name,) in rows]

    def waiting_for(self, cursor: Cursor) -> list[tuple[int, float]]:
        """Server processes that hold up the feed, and for how many seconds their transactions have been open."""
        waiting = self._waiting
        if waiting is None:
            return []
        query = (
            "select a.pid, extract(epoch from clock_timestamp() - a.xact_start)::float8 from pg_stat_activity a"
            f" where a.pid in (select pid {_HOLDERS} and virtualtransaction = any(%s)) and a.xact_start is not null"
            " order by 2 desc"
        )
        return [(pid, age) for pid, age in cursor.run(query, (*self._token, list(waiting.holders))).fetchall()]


def page(fence: Fence, cursor: Cursor, after: int, limit: int, upto: int | None, wanted: Wanted) -> Page:
    reach = after + max(read.SPAN, limit)
    if fence.decided < (reach if upto is None else min(reach, upto)):
        fence.advance(cursor)
    last = fence.decided
    end = min(reach, last, last if upto is None else upto)
    if end <= after:
        return Page((), after, last > after)
    records, scanned = _records(cursor, after, end, limit, wanted)
    if not records and end < last and end != upto:
        scanned = read.before_next(cursor, end, last if upto is None else min(last, upto))  # type: ignore[arg-type]
    return Page(records, scanned, scanned < last)


def _records(cursor: Cursor, after: int, end: int, limit: int, wanted: Wanted) -> tuple[list[Record], int]:
    """What is wanted of these positions, and up to where; not all of it, where there is much.

    A few positions are asked for at first, and more where they hold little. Asked for all at once, a planner whose figures are
    those of a small table would read every one of them and sort them, for a page of a fortieth."""
    sql, values = read.feed_query(wanted)
    bounded, records, size, span = _BOUNDED.format(sql), list[Record](), 0, limit
    while after < end:
        stop, left = min(end, after + span), limit - len(records)
        some = cursor.execute(bounded, (after, stop, *values, left, read.PAGE_BYTES_MAX - size)).fetchall()
        records += read.records_of(some)
        size += read.data_bytes(some)
        if len(some) == left or size >= read.PAGE_BYTES_MAX:
            return records, records[-1].position
        after, span = stop, span * WIDER
        if len(records) * WIDER >= limit:
            break
    return records, after
