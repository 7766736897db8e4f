"""Reading a topic as a member of a consumer group, from positions that the journal has.

The group says which partitions are ours; where they begin and how far they have come is the journal's. A partition that
was assigned is paused until `begin` has sought its position, so nothing is read that nobody asked for. Offsets are
committed in the background, with the journal's identity, for whoever looks at the group's lag; they are never read.

Kafka counts from 0, a journal's cursors from 1: the position of a message is its offset + 1, which is also what a group
commits for it. So "after 0" is from the very first.

    thread      poll ── drop what was not begun ── buffer, while there is room; else pause, and stay a member
    event loop  fetch ── settle ── (thread) commit the prefix that is settled

A position that the topic does not have any more is an error that names the gap. It is never skipped in silence."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec
from confluent_kafka.cimpl import OFFSET_END, TIMESTAMP_NOT_AVAILABLE

from ..errors import BrokerError
from ._kafka_client import EARLIEST, FORBIDDEN, GONE, LATEST, REFUSED, Cluster, Complaints, Topic, config_of, made
from .port import Fetched, Start

log = logging.getLogger("eventspine.broker.kafka")
AT_ONCE = 1000
BUFFER_MESSAGES = 4000
BUFFER_BYTES = 8 * 1024 * 1024
POLL_S = 0.05
HURRY_S = 0.2  # after a command: more of them are on their way, as a rule
PATIENCE_S = 1.0  # full for so long: pause at the broker; what librdkafka had fetched ahead is then fetched again
COMMIT_S = 0.5
SEEK_S = 5.0
CONTENT_TYPE = "content-type"
Answered = Callable[[BrokerError | None], None]


class KafkaIntake:
    """Made by `opened`, which has started its thread."""

    def __init__(self, cluster: Cluster, topic: Topic, group: str, identity: str, changed: Callable[[], None]) -> None:
        self.feed = f"kafka:{cluster.id}/{topic.name}/{topic.id}"
        self._cluster = cluster
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()  # something to fetch, or a failure
        self._paused = False
        self._reader = _Reader(cluster, topic, group, identity, self._tell(changed), self._tell(self._came.set))

    def _tell(self, call: Callable[[], None]) -> Callable[[], None]:
        def tell() -> None:
            try:
                self._loop.call_soon_threadsafe(call)
            except RuntimeError:
                pass  # the loop is closed: nobody is left to be told

        return tell

    # --- partitions -------------------------------------------------------------------------------------------------

    def assigned(self) -> frozenset[int]:
        return self._reader.assigned

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int:
        """The position after which it reads."""
        if after is None:
            after = await self._first(partition, start)
        await self._ask(lambda: self._reader.begin(partition, after))
        return after

    async def _first(self, partition: int, start: Start) -> int:
        if isinstance(start, datetime):
            found = await self._where(partition, OffsetSpec.for_timestamp(round(start.timestamp() * 1000)))
            if found >= 0:
                return found
            start = "now"  # nothing is as late as that
        return await self._where(partition, EARLIEST if start == "earliest" else LATEST)

    async def _where(self, partition: int, spec: OffsetSpec) -> int:
        return (await self._cluster.offsets(self._topic.name, [partition], spec))[partition]

    async def end(self, partition: int) -> None:
        self._reader.forget([partition])
        self._reader.order(lambda: self._reader.quiet(partition), lambda _: None)

    async def _ask(self, order: Callable[[], None]) -> None:
        """Have the thread do it."""
        answer: asyncio.Future[BrokerError | None] = self._loop.create_future()

        def answered(error: BrokerError | None) -> None:
            self._tell(lambda: None if answer.done() else answer.set_result(error))()

        self._reader.order(order, answered)
        if (error := await answer) is not None:
            raise error

    # --- messages ---------------------------------------------------------------------------------------------------

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        self._came.clear()
        found = () if self._paused else self._reader.take(most)
        if not found:
            self._reader.check()
            if wait_s > 0:
                await self._wait(wait_s)
                found = () if self._paused else self._reader.take(most)
        return found

    async def _wait(self, wait_s: float) -> None:
        alarm = self._loop.call_later(wait_s, self._came.set)
        try:
            await self._came.wait()
        finally:
            alarm.cancel()

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        self._reader.settle(fetched)

    def pause(self) -> None:
        self._paused = self._reader.held_back = True

    def resume(self) -> None:
        self._paused = self._reader.held_back = False
        self._came.set()

    async def lag(self) -> int | None:
        reading = self._reader.next_offsets()
        ends = await self._cluster.offsets(self._topic.name, list(reading), LATEST)
        return sum(max(0, ends[partition] - offset) for partition, offset in reading.items())

    async def close(self) -> None:
        """Leave the group. A broker that is away is told nothing, and finds out."""
        give_up = self._loop.time() + self._cluster.settings.timeout_s
        self._reader.stop()
        while self._reader.is_alive() and self._loop.time() < give_up:  # noqa: ASYNC110  of a thread
            await asyncio.sleep(0.01)


class _Reading:
    """A partition that was begun."""

    __slots__ = ("handed", "next", "settled", "to_commit")

    def __init__(self, offset: int) -> None:
        self.next = offset  # of the next message
        self.handed: deque[int] = deque()  # positions that are out and not settled, in order
        self.settled: set[int] = set()  # of these, those before which others are still out
        self.to_commit: int | None = offset  # so that the group shows it

    def settle(self, position: int) -> None:
        if not self.handed or position < self.handed[0]:
            return  # handed over before the partition was begun anew
        if self.handed[0] == position:
            self.to_commit = self.handed.popleft()
        else:
            self.settled.add(position)
        while self.settled and self.handed and self.handed[0] in self.settled:
            self.to_commit = self.handed.popleft()
            self.settled.discard(self.to_commit)


class _Reader(threading.Thread):
    """The consumer, and the thread that it belongs to. `_lock` guards what both sides touch: the buffer and the readings."""

    def __init__(
        self,
        cluster: Cluster,
        topic: Topic,
        group: str,
        identity: str,
        changed: Callable[[], None],
        came: Callable[[], None],
    ) -> None:
        super().__init__(name=f"eventspine-kafka-{group}", daemon=True)
        self.assigned: frozenset[int] = frozenset()
        self.held_back = False
        self._cluster = cluster
        self._topic = topic
        self._identity = identity
        self._changed = changed
        self._tell_came = came
        self._complaints = Complaints(cluster.settings)
        self._consumer: Consumer = made(Consumer, cluster.settings, self._config(group))
        self._orders: SimpleQueue[tuple[Callable[[], None], Answered]] = SimpleQueue()
        self._lock = threading.Lock()
        self._buffer: deque[Fetched] = deque()
        self._bytes = 0
        self._readings: dict[int, _Reading] = {}
        self._room = threading.Event()
        self._full_since: float | None = None
        self._holding = False  # all that was begun is paused at the broker
        self._hurry_until = 0.0
        self._commit_at = 0.0
        self._stopping = False
        self._gone = False
        self._failure: BrokerError | None = None
        self.start()

    def _config(self, group: str) -> dict[str, Any]:
        settings = self._cluster.settings
        session_ms = round(settings.session_s * 1000)
        of_protocol: dict[str, Any] = {"group_protocol": "consumer"}  # the broker has the other settings then
        if settings.group_protocol == "classic":
            of_protocol = {
                "partition_assignment_strategy": "cooperative-sticky",
                "session_timeout_ms": session_ms,
                "heartbeat_interval_ms": max(100, session_ms // 4),
            }
        return config_of(
            settings,
            self._complaints,
            group_id=group,
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="error",  # never to where nobody asked to be
            isolation_level="read_committed",
            check_crcs=True,
            fetch_wait_max_ms=100,  # a partition that is begun waits for the request that is on its way
            fetch_error_backoff_ms=100,
            fetch_queue_backoff_ms=5,  # 1 s by default: a reader that is faster than the queue stood still for that long
            queued_min_messages=20_000,
            queued_max_messages_kbytes=16 * 1024,
            topic_metadata_refresh_interval_ms=30_000,
            **of_protocol,
        )

    # --- from the event loop ----------------------------------------------------------------------------------------

    def order(self, order: Callable[[], None], answered: Answered) -> None:
        with self._lock:
            if not self._gone:
                self._orders.put((order, answered))
                self._room.set()  # in case it waits for that
                return
        answered(self._failure or BrokerError(f"The intake of {self._topic.name!r} is closed."))

    def take(self, most: int) -> Sequence[Fetched]:
        with self._lock:
            buffer = self._buffer
            found = [buffer.popleft() for _ in range(min(most, len(buffer)))]
            for one in found:
                self._bytes -= len(one.data)
                self._readings[one.partition].handed.append(one.position)
        if found:
            self._room.set()
        return found

    def settle(self, fetched: Sequence[Fetched]) -> None:
        with self._lock:
            for one in fetched:
                if (reading := self._readings.get(one.partition)) is not None:
                    reading.settle(one.position)

    def forget(self, partitions: Sequence[int]) -> None:
        """Nothing of these is handed over any more."""
        with self._lock:
            for partition in partitions:
                self._readings.pop(partition, None)
            self._buffer = deque(one for one in self._buffer if one.partition in self._readings)
            self._bytes = sum(len(one.data) for one in self._buffer)

    def next_offsets(self) -> dict[int, int]:
        with self._lock:
            waiting = {one.partition: one.position - 1 for one in reversed(self._buffer)}
            return {partition: waiting.get(partition, reading.next) for partition, reading in self._readings.items()}

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._stopping = True
        self._room.set()

    # --- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._consumer.subscribe(
                [self._topic.name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping and self._failure is None:
                self._obey()
                self._commit(monotonic())
                self._hold(self._should_hold())
                self._poll()
                if self._complaints.cut:
                    self._look()
        except Exception as error:  # noqa: BLE001  whatever it is, the event loop has to hear of it
            self._fail(self._as_ours(error))
        self._leave()

    def _as_ours(self, error: Exception) -> BrokerError:
        if isinstance(error, BrokerError):
            return error
        said = error.args[0] if isinstance(error, KafkaException) else None
        what = f"reading the topic {self._topic.name!r}"
        return self._cluster.error(what, said) if said is not None else BrokerError(f"{what}: {error!r}")

    def _obey(self) -> None:
        while True:
            try:
                order, answered = self._orders.get_nowait()
            except Empty:
                return
            try:
                if not self._gone:
                    order()
            except Exception as error:  # noqa: BLE001  the answer to whoever asked
                answered(self._as_ours(error))
            else:
                answered(self._failure)
            self._hurry_until = monotonic() + HURRY_S

    def begin(self, partition: int, offset: int) -> None:
        place = TopicPartition(self._topic.name, partition, offset)
        if not self._sought(place):
            return  # it was taken from us meanwhile, and `changed` has said so
        with self._lock:
            self._readings[partition] = _Reading(offset)
        if not self._holding:
            self._consumer.resume([place])

    def _sought(self, place: TopicPartition) -> bool:
        give_up = monotonic() + SEEK_S
        while place.partition in self.assigned:
            try:
                self._consumer.seek(place)
            except KafkaException as error:
                # librdkafka starts a partition in the background, and seeks in none that has not been started.
                if (
                    error.args[0].code() not in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS)
                    or monotonic() > give_up
                ):
                    raise
            else:
                return True
            self._poll()
        return False

    def quiet(self, partition: int) -> None:
        if partition in self.assigned:
            self._consumer.pause([TopicPartition(self._topic.name, partition)])

    def _should_hold(self) -> bool:
        if self.held_back:
            return True
        if len(self._buffer) < BUFFER_MESSAGES and self._bytes < BUFFER_BYTES:
            self._full_since = None
            return False
        now = monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since > PATIENCE_S:
            return True
        self._room.wait(POLL_S)
        self._room.clear()
        return self._holding

    def _hold(self, hold: bool) -> None:
        if hold != self._holding:
            places = [TopicPartition(self._topic.name, partition) for partition in self._readings]
            (self._consumer.pause if hold else self._consumer.resume)(places)
            self._holding = hold

    def _poll(self) -> None:
        if self._full_since is not None and not self._holding:
            return  # there is no room: neither wait for more nor take it
        first = self._consumer.poll(0.001 if monotonic() < self._hurry_until else POLL_S)
        if first is None:
            return
        messages = [
            first,
            *self._consumer.consume(AT_ONCE - 1, 0),
        ]  # `consume` alone would wait until there are as many
        good = []
        for message in messages:
            if (error := message.error()) is not None:
                self._wrong(error, message)
            else:
                good.append(message)
        self._keep(good)

    def _keep(self, messages: Sequence[Message]) -> None:
        found = [_fetched(message) for message in messages]
        with self._lock:
            was_empty = not self._buffer
            for one in found:
                reading = self._readings.get(one.partition)
                if reading is not None and one.position > reading.next:  # else nobody asked for it
                    reading.next = one.position
                    self._buffer.append(one)
                    self._bytes += len(one.data)
            wake = was_empty and bool(self._buffer)
        if wake:
            self._tell_came()

    def _commit(self, now: float, *, wait: bool = False) -> None:
        if now < self._commit_at and not wait:
            return
        self._commit_at = now + COMMIT_S
        places = []
        with self._lock:
            for partition, reading in self._readings.items():
                if reading.to_commit is not None:
                    places.append(TopicPartition(self._topic.name, partition, reading.to_commit, self._identity))
                    reading.to_commit = None
        if places:
            try:
                self._consumer.commit(offsets=places, asynchronous=True)
            except KafkaException as error:
                log.debug("positions of %s were not committed: %s", self._topic.name, error.args[0].str())

    # --- what the group says ----------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        # The end is where nothing comes from; `begin` seeks.
        ours = [TopicPartition(place.topic, place.partition, OFFSET_END) for place in places]
        consumer.incremental_assign(ours)
        if ours:
            consumer.pause(ours)
        self.assigned |= {place.partition for place in places}
        self._changed()

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._commit(monotonic(), wait=True)
        self._on_lost(consumer, places)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = [place.partition for place in places]
        self.assigned -= set(partitions)
        self.forget(partitions)
        consumer.incremental_unassign(places)
        self._changed()

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def _wrong(self, error: KafkaError, message: Message) -> None:
        code, partition = error.code(), message.partition()
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            if partition in self._readings:
                self._fail(self._gap(int(partition or 0)))
        elif code in GONE:
            self._fail(self._cluster.error(f"the topic {self._topic.name!r} is not what it was", error))
        elif code in FORBIDDEN or code in REFUSED:
            self._fail(self._cluster.error(f"reading the topic {self._topic.name!r}", error))
        elif error.fatal():
            self._fail(self._cluster.error("the consumer broke", error))
        else:  # librdkafka goes on by itself, or a connection is gone, which is looked into
            log.debug("reading %s: %s", self._topic.name, self._cluster.settings.masked(error.str()))
            self._complaints.cut |= code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)

    def _gap(self, partition: int) -> BrokerError:
        place = TopicPartition(self._topic.name, partition)
        wanted = self._readings[partition].next
        try:
            low, high = self._consumer.get_watermark_offsets(place, timeout=self._cluster.settings.timeout_s)
        except KafkaException as error:
            return self._cluster.error(
                f"partition {partition} of {self._topic.name!r} does not have {wanted}", error.args[0]
            )
        details = {"partition": partition, "wanted": wanted, "first": low, "end": high}
        if wanted < low:
            return BrokerError(
                f"{low - wanted:,} messages of partition {partition} of the topic {self._topic.name!r} are gone: offsets "
                f"{wanted:,} to {low - 1:,} were deleted, by its retention as a rule, before this journal had read them. "
                "Nothing is skipped in silence: raise retention.ms there, and rewind the intake to where it should go on.",
                **details,
            )
        return BrokerError(
            f"Partition {partition} of the topic {self._topic.name!r} ends at offset {high:,}, and this journal has read up "
            f"to {wanted:,}: the cluster has lost what it had, or was restored. Rewind the intake to where it should go on.",
            **details,
        )

    def _look(self) -> None:
        """A connection broke: whether any broker still answers. Blocks, and is bounded."""
        self._complaints.cut = False
        if self._complaints.refused:
            return self._fail(BrokerError(f"{self._cluster.settings.shown} lets us not in: {self._complaints.refused}"))
        try:
            self._consumer.list_topics(self._topic.name, timeout=self._cluster.settings.timeout_s)
        except KafkaException as error:
            self._fail(self._cluster.error(f"the connection is gone ({self._complaints.last})", error.args[0]))
        return None

    def _fail(self, error: BrokerError) -> None:
        self._failure = self._failure or error
        self._tell_came()

    def _leave(self) -> None:
        self._stopping = True
        try:
            self._commit(monotonic(), wait=True)
            self._consumer.close()
        except (KafkaException, RuntimeError) as error:
            log.debug("leaving the group of %s: %s", self._topic.name, error)
        with self._lock:
            self._gone = True
        self._obey()


def _fetched(message: Message) -> Fetched:
    pairs: list[tuple[str, str | bytes | None]] = message.headers() or []  # type: ignore[assignment]  # never a dict here
    headers = {name: _text(value) for name, value in pairs}
    kind, time_ms = message.timestamp()
    return Fetched(
        message.partition() or 0,
        (message.offset() or 0) + 1,
        message.key(),
        headers,
        headers.pop(CONTENT_TYPE, ""),
        message.value() or b"",
        0 if kind == TIMESTAMP_NOT_AVAILABLE else time_ms * 1000,
    )


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
