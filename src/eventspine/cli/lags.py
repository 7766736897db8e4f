"""How far a subscription is behind: the events that it wants and has not come to yet, counted up to a bound.

An event that failed is not behind: it is a delivery of its own, parked or dead, and the cursor has passed it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from ..journal.pages import feed
from ..journal.port import Cursor, Journal, Record, Subscription
from ..wording import plural
from .standings import finished

COUNT_MAX = 10_000

Cursors = Mapping[tuple[int, int], Cursor]


class Lag(NamedTuple):
    events: int
    more: bool  # there are more than were counted
    position: int = 0  # it has come to all that it wants up to here

    def __str__(self) -> str:
        return f"{self.events:,}+" if self.more else f"{self.events:,}"

    @property
    def in_words(self) -> str:
        return f"{self} events" if self.more else plural(self.events, "event")


def positions(subscription: Subscription, cursors: Cursors) -> list[int]:
    return [row.position for (number, _), row in cursors.items() if number == subscription.number]


async def lag(journal: Journal, subscription: Subscription, cursors: Cursors, upto: int) -> Lag:
    """Reads only what is beyond the hindmost cursor, of the channels and types that are wanted."""
    hindmost = min(positions(subscription, cursors), default=upto)
    count, position = 0, upto
    async for record in _wanted(journal, subscription, hindmost, upto):
        if not finished(subscription, record, cursors):
            count += 1
            position = min(position, record.position - 1)
            if count > COUNT_MAX:
                return Lag(COUNT_MAX, True, position)
    return Lag(count, False, position)


async def any_finished(journal: Journal, subscription: Subscription, cursors: Cursors, after: int, upto: int) -> bool:
    """Whether it has come to any event in there, also one that failed."""
    furthest = max((row.beyond[-1][1] if row.beyond else row.position for row in cursors.values()), default=0)
    async for record in _wanted(journal, subscription, after, min(upto, furthest)):
        if finished(subscription, record, cursors):
            return True
    return False


def _wanted(journal: Journal, subscription: Subscription, after: int, upto: int) -> AsyncIterator[Record]:
    types = [type for type, _ in subscription.types] or None
    return feed(journal, after, upto, channels=subscription.channels, types=types)
