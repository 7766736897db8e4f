"""An intake of a topic: positions are the journal's, partitions the group's, and messages pass from the reader's thread to
the event loop over a shelf.

Kafka counts from 0, a journal's cursors from 1: the position of a message is its offset + 1, which is also what a group
commits for it. So "after 0" is from the very first.

    thread      poll ── drop what was not begun ── shelf, while there is room; else stop reading, and stay a member
    event loop  fetch ── settle ── (thread) commit the prefix that is settled, for whoever looks at the group

What is committed is never read: it may be behind, and nothing rests on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from ..errors import BrokerError
from ._kafka_client import Cluster, Topic
from ._kafka_reader import Reader
from ._kafka_shelf import Shelf
from .port import Fetched, Start

log = logging.getLogger("eventspine.broker.kafka")
WATCH_S = 5.0


class KafkaIntake:
    def __init__(self, cluster: Cluster, topic: Topic, group: str, identity: str, changed: Callable[[], None]) -> None:
        self.feed = f"kafka:{cluster.id}/{topic.name}/{topic.id}"
        self._cluster = cluster
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()  # something to fetch, or a failure
        self._paused = False
        self._shelf = Shelf()

        def reassigned() -> None:
            changed()
            self._came.set()  # whoever waits for messages is to look at that first

        self._reader = Reader(
            cluster, topic, group, identity, self._shelf, self._telling(reassigned), self._telling(self._came.set)
        )
        self._reader.start()
        self._watching = asyncio.create_task(self._watch(), name="eventspine-kafka-topic")

    def _telling(self, call: Callable[[], None]) -> Callable[[], None]:
        def tell() -> None:
            try:
                self._loop.call_soon_threadsafe(call)
            except RuntimeError:
                pass  # the loop is closed: nobody is left to be told

        return tell

    async def _watch(self) -> None:
        """A topic that is deleted and made anew goes by the same name, and librdkafka reads on in it as if nothing were."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                topic = (await self._cluster.described([self._topic.channel]))[self._topic.channel]
            except BrokerError as error:
                log.debug("looking for the topic %s: %s", self._topic.name, error)
                continue
            if topic is None or str(topic.topic_id) != self._topic.id:
                self._reader.fail(BrokerError(f"The topic {self._topic.name!r} was deleted; what it had is gone."))

    # --- partitions -------------------------------------------------------------------------------------------------

    def assigned(self) -> frozenset[int]:
        return self._reader.assigned

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int:
        return await self._reader.order(lambda: self._reader.begin(partition, after, start))

    async def end(self, partition: int) -> None:
        self._shelf.forget([partition])
        self._reader.tell(lambda: self._reader.end(partition))

    # --- messages ---------------------------------------------------------------------------------------------------

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        self._came.clear()
        found = self._take(most)
        if not found:
            self._reader.check()
            if wait_s > 0:
                await self._wait(wait_s)
                found = self._take(most)
        return found

    def _take(self, most: int) -> Sequence[Fetched]:
        found = () if self._paused else self._shelf.take(most)
        if found:
            self._reader.room.set()
        return found

    async def _wait(self, wait_s: float) -> None:
        alarm = self._loop.call_later(wait_s, self._came.set)
        try:
            await self._came.wait()
        finally:
            alarm.cancel()

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        self._shelf.settle(fetched)

    def pause(self) -> None:
        self._paused = self._reader.held_back = True

    def resume(self) -> None:
        self._paused = self._reader.held_back = False
        self._came.set()

    async def lag(self) -> int | None:
        reading = self._shelf.places()
        ends = await self._reader.order(lambda: self._reader.ends(list(reading)))
        return sum(max(0, ends[partition] - offset) for partition, offset in reading.items())

    async def close(self) -> None:
        """Leave the group. A broker that is away is told nothing, and finds out."""
        give_up = self._loop.time() + self._cluster.settings.timeout_s
        self._watching.cancel()
        self._reader.stop()
        while self._reader.is_alive() and self._loop.time() < give_up:  # noqa: ASYNC110  of a thread
            await asyncio.sleep(0.01)
