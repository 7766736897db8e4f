"""How far a subscription is behind: the events that it wants and has not come to yet, counted up to a bound.

An event that failed is not behind: it is a delivery of its own, parked or dead, and the cursor has passed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..journal.pages import feed
from ..journal.port import Cursor, Journal, Subscription
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
    wanted = {"channels": subscription.channels, "types": [type for type, _ in subscription.types] or None}
    async for record in feed(journal, hindmost, upto, **wanted):
        if not finished(subscription, record, cursors):
            count += 1
            position = min(position, record.position - 1)
            if count > COUNT_MAX:
                return Lag(COUNT_MAX, True, position)
    return Lag(count, False, position)
