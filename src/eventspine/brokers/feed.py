"""The embedded broker: a journal's own feed, read by the services that share the journal.

Publishing appends to the feed, so there is nothing to relay: an event is carried once it is remembered. The cursor is
the settlement, and is stored in the unit that finishes a delivery; `settle` and `release` therefore have nothing to
do. What an owner has not finished, the next one reads again from the cursor.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from ..journal.port import OWN_FEED, Journal, Page, Record
from .embedded import Features

EVENT_BYTES_MAX = 1024 * 1024


class FeedBroker:
    """One feed has an order across channels, which other brokers have not and nobody is promised: with `shuffle`, what
    a handler reads of several channels is mixed at random, so that whoever relies on it finds out (R18)."""

    def __init__(self, journal: Journal, *, shuffle: random.Random | None = None) -> None:
        self.journal = journal
        self.shuffle = shuffle
        self.features = Features(
            settles="cursor",
            ordered=True,
            rewinds=True,
            one_feed=True,
            assigns="journal",
            event_bytes_max=EVENT_BYTES_MAX,
            persistent="memory:" not in journal.url,
        )

    def intake(
        self,
        service: str,
        channels: Sequence[str],
        types: Sequence[str],
        *,
        after: int,
    ) -> FeedIntake:
        """No types: all of them."""
        return FeedIntake(self.journal, channels, types, after)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return self.journal.watch(changed)


class FeedIntake:
    feed = OWN_FEED

    def __init__(self, journal: Journal, channels: Sequence[str], types: Sequence[str], after: int) -> None:
        self.position = after
        self._journal = journal
        self._channels = tuple(channels)
        self._types = tuple(types) or None
        self._partitions: Sequence[int] | None = None  # all of them, until told otherwise

    async def fetch(self, *, records_max: int, upto: int | None = None) -> Page:
        if self._partitions == ():
            return Page((), self.position, more=False)
        after = self.position
        page = await self._journal.feed(
            after,
            limit=records_max,
            upto=upto,
            channels=self._channels,
            partitions=self._partitions,
            types=self._types,
        )
        if self.position == after:  # else it was sought elsewhere while the journal was reading
            self.position = page.scanned
        return page

    async def settle(self, records: Sequence[Record]) -> None:
        """Nothing: the cursor has moved with the unit."""

    async def release(self, records: Sequence[Record]) -> None:
        """Nothing: the cursor has not moved."""

    async def assign(self, partitions: Sequence[int]) -> None:
        self._partitions = tuple(partitions)

    async def seek(self, position: int) -> None:
        self.position = position

    async def close(self) -> None:
        """Nothing is held between two fetches."""
