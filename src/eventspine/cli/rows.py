"""A subscription as commands tell of it: how far it is behind, and what is stored for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from ..journal.port import Journal, Subscription
from .lags import Lag, lag, positions
from .rates import Rate
from .standings import cursors_of


class Row(NamedTuple):
    subscription: Subscription
    lag: Lag
    stored: Counter[str]  # deliveries by state

    @property
    def unfinished(self) -> int:
        """As a refused registration counts them."""
        return self.to_handle.events + self.stored["dead"]

    @property
    def to_handle(self) -> Lag:
        """By a running service, without anybody's doing."""
        return self.lag._replace(events=self.lag.events + self.stored["parked"] + self.stored["held"])


async def rows(journal: Journal, stored: list[Subscription]) -> AsyncIterator[Row]:
    head = await journal.head()
    cursors = await cursors_of(journal, stored)
    for subscription in stored:
        # Not the cursors' own position: that of a partition without events stays where it was until somebody passes it.
        if subscription.state == "retired":
            behind = Lag(0, False, min(positions(subscription, cursors), default=0))
        else:
            behind = await lag(journal, subscription, cursors, head)
        yield Row(subscription, behind, await counts(journal, subscription))


async def counts(journal: Journal, subscription: Subscription) -> Counter[str]:
    found: Counter[str] = Counter()
    after = 0
    while page := await journal.deliveries(
        subscriptions=[subscription.number], states=["parked", "dead", "held"], after=after, records=False
    ):
        found.update(row.state for row in page)
        after = page[-1].number
    return found


def view(row: Row, rate: Rate | None = None) -> dict[str, Any]:
    subscription = row.subscription
    return {
        "service": subscription.service,
        "name": subscription.name,
        "state": subscription.state,
        "order": subscription.order,
        "on_dead": subscription.on_dead,
        "channels": subscription.channels,
        "types": [{"type": type, "version": version} for type, version in subscription.types],
        "position": row.lag.position,
        "lag": row.lag.events,
        "lag_is_bound": row.lag.more,
        "rate": None if rate is None else round(rate.events_s, 3),
        "parked": row.stored["parked"],
        "dead": row.stored["dead"],
        "held": row.stored["held"],
        "unfinished": row.unfinished,
        "generation": subscription.generation,
    }
