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
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ..errors import BrokerError
from ._kafka_client import Cluster, Topic
from ._kafka_reader import Reader
from .port import Fetched, Start

log = logging.getLogger("eventspine.broker.kafka")
MESSAGES_MAX = 4000  # on the shelf
BYTES_MAX = 8 * 1024 * 1024
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
        self._reader = Reader(
            cluster, topic, group, identity, self._shelf, self._telling(changed), self._telling(self._came.set)
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


class Shelf:
    """Messages between the two threads, and for each partition that was begun how far it is read and settled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[Fetched] = deque()
        self._bytes = 0
        self._partitions: dict[int, _Partition] = {}

    @property
    def partitions(self) -> list[int]:
        with self._lock:
            return list(self._partitions)

    def begin(self, partition: int, offset: int) -> None:
        with self._lock:
            self._partitions[partition] = _Partition(offset)

    def forget(self, partitions: Iterable[int]) -> None:
        """Nothing of these is handed over any more."""
        with self._lock:
            for partition in partitions:
                self._partitions.pop(partition, None)
            self._messages = deque(one for one in self._messages if one.partition in self._partitions)
            self._bytes = sum(len(one.data) for one in self._messages)

    @property
    def full(self) -> bool:
        return len(self._messages) >= MESSAGES_MAX or self._bytes >= BYTES_MAX

    def put(self, messages: Iterable[Fetched]) -> bool:
        """Whether somebody may be waiting for that."""
        with self._lock:
            was_empty = not self._messages
            for one in messages:
                partition = self._partitions.get(one.partition)
                if partition is not None and one.position > partition.next:  # else nobody asked for it
                    partition.next = one.position
                    self._messages.append(one)
                    self._bytes += len(one.data)
            return was_empty and bool(self._messages)

    def take(self, most: int) -> Sequence[Fetched]:
        with self._lock:
            messages = self._messages
            found = [messages.popleft() for _ in range(min(most, len(messages)))]
            for one in found:
                self._bytes -= len(one.data)
                self._partitions[one.partition].out.append(one.position)
            return found

    def settle(self, fetched: Iterable[Fetched]) -> None:
        with self._lock:
            for one in fetched:
                if (partition := self._partitions.get(one.partition)) is not None:
                    partition.settle(one.position)

    def next_of(self, partition: int) -> int | None:
        """The offset that is read next; None where nothing was begun."""
        with self._lock:
            found = self._partitions.get(partition)
            return None if found is None else found.next

    def places(self) -> dict[int, int]:
        """The offset of the next message that is not handed over, by partition."""
        with self._lock:
            waiting = {one.partition: one.position - 1 for one in reversed(self._messages)}
            return {number: waiting.get(number, one.next) for number, one in self._partitions.items()}

    def settled(self) -> dict[int, int]:
        """What the group may be shown that it was not shown yet, by partition."""
        with self._lock:
            moved = {number: one for number, one in self._partitions.items() if one.prefix != one.shown}
            for one in moved.values():
                one.shown = one.prefix
            return {number: one.prefix for number, one in moved.items()}


class _Partition:
    __slots__ = ("ahead", "next", "out", "prefix", "shown")

    def __init__(self, offset: int) -> None:
        self.next = offset  # of the next message
        self.out: deque[int] = deque()  # positions that are handed over and not settled, in order
        self.ahead: set[int] = set()  # of these, the settled ones before which others are not
        self.prefix = offset  # up to here all is settled
        self.shown = -1  # of it, what the group was shown

    def settle(self, position: int) -> None:
        if not self.out or position < self.out[0]:
            return  # handed over before the partition was begun anew
        self.ahead.add(position)
        while self.out and self.out[0] in self.ahead:
            self.prefix = self.out.popleft()
            self.ahead.discard(self.prefix)
