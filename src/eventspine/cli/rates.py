"""How fast subscriptions get on: measured by looking twice, with nothing kept while events are handled.

Between two looks a cursor has moved over events. Those that the subscription wants are counted: handled, or set aside
because they failed. Events that it only passed are not. A rewind in between counts for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ..journal.pages import feed
from ..journal.port import WHOLE_FEED, Cursor, Journal, Subscription
from ..journal.processes import is_gone
from .lags import COUNT_MAX, Cursors
from .standings import cursors_of, finished
from .times import now_us

NEAR = 50_000  # positions: cursors that moved within so many are read in one go


class Rate(NamedTuple):
    """Events a second."""

    events_s: float
    more: bool = False  # there were more than were counted

    def __str__(self) -> str:
        shown = f"{self.events_s:,.1f}" if self.events_s < 10 else f"{self.events_s:,.0f}"
        return f"{shown.removesuffix('.0')}/s{'+' if self.more else ''}"


class Look(NamedTuple):
    at_us: int
    head: int
    cursors: Cursors


async def look(journal: Journal, subscriptions: Sequence[Subscription]) -> Look:
    return Look(now_us(), await journal.head(), await cursors_of(journal, subscriptions))


async def rates(journal: Journal, subscriptions: Sequence[Subscription], before: Look, after: Look) -> dict[int, Rate]:
    """By number of the subscription."""
    span_s = max(1e-3, (after.at_us - before.at_us) / 1e6)
    found = {}
    for subscription in subscriptions:
        count = await _finished_between(journal, subscription, before.cursors, after.cursors)
        found[subscription.number] = Rate(min(count, COUNT_MAX) / span_s, count > COUNT_MAX)
    return found


async def measured(journal: Journal, subscriptions: Sequence[Subscription], window_s: float) -> dict[int, Rate] | None:
    """Over so many seconds from now on; None where none were given. Where nobody is at work, nothing needs watching."""
    if not window_s:
        return None
    if all(is_gone(process) for process in await journal.processes()):
        return {row.number: Rate(0.0) for row in subscriptions}
    before = await look(journal, subscriptions)
    await asyncio.sleep(window_s)
    return await rates(journal, subscriptions, before, await look(journal, subscriptions))


async def _finished_between(journal: Journal, subscription: Subscription, before: Cursors, after: Cursors) -> int:
    """At most one more than are counted."""
    moved = {}
    for place, cursor in after.items():
        was = before.get(place)
        if place[0] == subscription.number and was is not None and cursor != was and cursor.position >= was.position:
            moved[place[1]] = (was.position, _end(cursor))
    count = 0
    for partitions, start, end in _together(moved):
        wanted = {"channels": subscription.channels, "types": [type for type, _ in subscription.types] or None}
        some = None if WHOLE_FEED in partitions else partitions
        async for record in feed(journal, start, end, partitions=some, **wanted):
            count += finished(subscription, record, after) and not finished(subscription, record, before)
            if count > COUNT_MAX:
                return count
    return count


def _end(cursor: Cursor) -> int:
    return max([cursor.position, *(upto for _, upto in cursor.beyond)])


def _together(moved: dict[int, tuple[int, int]]) -> list[tuple[list[int], int, int]]:
    """What to read, as (partitions, start, end): all in one go, unless they are far apart."""
    if not moved:
        return []
    start, end = min(start for start, _ in moved.values()), max(end for _, end in moved.values())
    if end - start <= NEAR:
        return [(list(moved), start, end)]
    return [([partition], *span) for partition, span in moved.items()]
