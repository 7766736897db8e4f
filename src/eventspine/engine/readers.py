"""Readers: one fetch for all subscriptions of a service that are at the same place.

A subscription that is elsewhere (it has just been added, was rewound, or is too slow for the others) reads alone and
joins a reader when they meet. A reader that is behind another stops exactly where the other stands, so that they can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import JournalError

if TYPE_CHECKING:
    from .host import Host
    from .subscription import Subscription

log = logging.getLogger("eventspine.engine")
PAGE = 500  # records at most in one fetch
ROOM = 256  # a fetch for less is not worth its while
PAUSE_S = 0.5  # after trouble with the journal


class Reader:
    def __init__(self, readers: Readers, subscriptions: list[Subscription], position: int, *, whole: bool) -> None:
        self.readers = readers
        self.subscriptions = subscriptions
        self.position = position
        self.whole = whole  # all partitions, for order="feed"
        self.changed = asyncio.Event()
        self.room = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"spine-reader-{readers.host.service.name}")

    async def _run(self) -> None:
        while self.subscriptions:
            try:
                await self._read()
            except JournalError as error:
                log.error("reading the feed: %s", error)  # noqa: TRY400 -- the message says what to do; no trace is needed
                await self.readers.host.clock.sleep(PAUSE_S)

    async def _read(self) -> None:
        """Fetch while the set of subscriptions stays the same."""
        host = self.readers.host
        members = tuple(self.subscriptions)
        channels = {kind.context for member in members for kind in member.handler.types}
        types = {name for member in members for name in member.readers}
        intake = host.broker.intake(host.service.name, sorted(channels), sorted(types), after=self.position)
        if not self.whole:
            await intake.assign(host.partitions)
        try:
            while members == tuple(self.subscriptions):
                if not (capacity := await self._capacity()):
                    continue
                self.changed.clear()
                page = await intake.fetch(records_max=min(PAGE, capacity), upto=self.readers.next_beyond(self))
                self.position = page.scanned
                for member in members:
                    member.admit(page.records, page.scanned)
                self.readers.meet(self)
                if page.told or not page.more:
                    await self.changed.wait()
        finally:
            await intake.close()

    async def _capacity(self) -> int:
        """Room for this many records; a member without room is left to read alone, or waited for."""
        full = [member for member in self.subscriptions if member.capacity < ROOM]
        if not full:
            return min(member.capacity for member in self.subscriptions)
        if len(full) < len(self.subscriptions):
            self.readers.part(self, full)
            return 0
        self.room.clear()
        await self.room.wait()
        return 0


class Readers:
    def __init__(self, host: Host) -> None:
        self.host = host
        self._readers: list[Reader] = []

    async def rebuild(self, subscriptions: Iterable[Subscription]) -> None:
        """Start again from what each subscription has admitted; admitting twice is harmless."""
        await self.stop()
        places: dict[tuple[int, bool], list[Subscription]] = {}
        for subscription in subscriptions:
            if subscription.parts:
                start = min(part.scanned for part in subscription.parts.values())
                places.setdefault((start, subscription.whole), []).append(subscription)
        for (position, whole), members in places.items():
            self._readers.append(Reader(self, members, position, whole=whole))

    async def stop(self) -> None:
        tasks = [reader.task for reader in self._readers]
        self._readers.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        for reader in self._readers:
            reader.changed.set()

    def room(self) -> None:
        for reader in self._readers:
            if not reader.room.is_set():
                reader.room.set()

    def failed(self) -> BaseException | None:
        """Why a reader has ended that should not have."""
        for reader in self._readers:
            if reader.subscriptions and reader.task.done() and not reader.task.cancelled():
                return reader.task.exception() or RuntimeError("a reader ended")
        return None

    def next_beyond(self, reader: Reader) -> int | None:
        """Where the nearest reader ahead stands."""
        ahead = [other.position for other in self._others(reader) if other.position > reader.position]
        return min(ahead, default=None)

    def meet(self, reader: Reader) -> None:
        for other in self._others(reader):
            if other.position == reader.position:
                self._readers.remove(other)
                other.task.cancel()
                reader.subscriptions += other.subscriptions
                other.subscriptions = []

    def part(self, reader: Reader, members: list[Subscription]) -> None:
        for member in members:
            reader.subscriptions.remove(member)
            self._readers.append(Reader(self, [member], reader.position, whole=reader.whole))

    def _others(self, reader: Reader) -> list[Reader]:
        return [other for other in self._readers if other is not reader and other.whole == reader.whole]
