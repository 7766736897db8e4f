"""The consumer, and the thread that it belongs to: a member of a group that reads only what it was told to.

The group says which partitions are ours; each is read from the position that `begin` names, and not before. To have one
assigned by the group and to read it are two things in librdkafka, and nothing is ever paused or sought: those are lost
in it when they come close upon an assignment, and the partition then stands still for good (its issues 2190, 2256, 5591).
A consumer that is slow is a member all the same: it polls, whatever else it has to do.

Messages that the topic does not have any more are reported and passed; a topic that ends before our position is not what
it was, and ends the reading, as everything does that is not going to get better by itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from operator import methodcaller
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.cimpl import TIMESTAMP_NOT_AVAILABLE

from ..errors import BrokerError
from ..wording import plural
from ._kafka_client import (
    AWAY,
    CONTENT_TYPE,
    FORBIDDEN,
    GONE,
    PREFIX,
    REFUSED,
    Cluster,
    Complaints,
    Topic,
    code_of,
    config_of,
    made,
    settle,
)
from ._kafka_shelf import Shelf
from ._kafka_url import Settings
from .binding import text_of
from .port import Fetched, Start

log = logging.getLogger("eventspine.broker.kafka")
T = TypeVar("T")
AT_ONCE = 1000
POLL_S = 0.05
HURRY_S = 0.2  # after a command: more of them are on their way, as a rule
PATIENCE_S = 1.0  # full for so long: stop reading; what librdkafka had fetched ahead is then fetched again
COMMIT_S = 0.5
LOOK_S = 2.0
ASKED_S = 2.0  # for which it is still so where a partition begins
UNPACKED_BYTES_MAX = 100_000_000  # librdkafka's own, of a batch
ASK_AGAIN_S = 0.1
OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
NOT_KNOWN_YET = frozenset(  # a partition has another leader than it had, or that leader's count has moved on
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.FENCED_LEADER_EPOCH,
     KafkaError.UNKNOWN_LEADER_EPOCH}
)  # fmt: skip


def consumer_config(settings: Settings, group: str, complaints: Complaints) -> dict[str, Any]:
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
        complaints,
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


class Reader(threading.Thread):
    def __init__(
        self,
        cluster: Cluster,
        topic: Topic,
        group: str,
        identity: str,
        shelf: Shelf,
        changed: Callable[[], None],
        came: Callable[[], None],
    ) -> None:
        super().__init__(name=f"eventspine-kafka-{group}", daemon=True)
        self.assigned: frozenset[int] = frozenset()
        self.held_back = False
        self.room = threading.Event()  # something was taken from the shelf, or is asked of us
        self._cluster = cluster
        self._topic = topic
        self._identity = identity
        self._shelf = shelf
        self._changed = changed
        self._came = came
        self._complaints = Complaints(cluster.settings)
        self._consumer: Consumer = made(
            Consumer, cluster.settings, consumer_config(cluster.settings, group, self._complaints)
        )
        self._orders: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._gate = threading.Lock()  # between a last order and the end of the thread
        self._full_since: float | None = None
        self._reading: set[int] = set()
        self._starts: dict[tuple[Start, int], int] = {}  # by start and partition, asked for all at once
        self._starts_until = 0.0
        self._holding = False  # nothing is read, for want of room
        self._hurry_until = 0.0
        self._stuck_at: dict[int, int] = {}  # partitions, with the offset of a batch that can't be unpacked
        self._commit_at = 0.0
        self._stopping = threading.Event()
        self._gone = False
        self._failure: BrokerError | None = None

    # --- from the event loop ----------------------------------------------------------------------------------------

    async def order(self, order: Callable[[], T]) -> T:
        """Have it done in this thread, soon."""
        return await asyncio.wrap_future(self.tell(order))

    def tell(self, order: Callable[[], T]) -> Future[T]:
        answer: Future[T] = Future()
        with self._gate:
            if not self._gone:
                self._orders.put((order, answer))
                self.room.set()  # in case it waits for that
                return answer
        answer.set_exception(self._over())
        return answer

    def _over(self) -> BrokerError:
        return self._failure or BrokerError(f"The intake of {self._topic.name!r} is closed.")

    def fail(self, error: BrokerError) -> None:
        """Reading ends, and `check` says why."""
        self._failure = self._failure or error
        self._came()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        self._stopping.set()
        self.room.set()

    # --- the thread -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._consumer.subscribe(
                [self._topic.name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set() and self._failure is None:
                self._obey()
                self._show(monotonic())
                self._hold(self._should_hold())
                self._poll()
                if self._complaints.cut:
                    self._look()
        except Exception as error:  # noqa: BLE001  whatever it is, the event loop has to hear of it
            self.fail(self._as_ours(error))
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
                order, answer = self._orders.get_nowait()
            except Empty:
                return
            if answer.set_running_or_notify_cancel():
                settle(answer, lambda: self._done(order))  # noqa: B023  at once
            self._hurry_until = monotonic() + HURRY_S

    def _done(self, order: Callable[[], T]) -> T:
        if self._gone:
            raise self._over()
        try:
            done = order()
        except Exception as error:
            raise self._as_ours(error) from error
        self.check()
        return done

    def _place(self, partition: int, offset: int = 0) -> TopicPartition:
        return TopicPartition(self._topic.name, partition, offset)

    def begin(self, partition: int, after: int | None, start: Start) -> int:
        """The offset from which it reads."""
        offset = self._first(partition, start) if after is None else after
        if partition in self.assigned:  # else it was taken from us meanwhile, and `changed` has said so
            self._shelf.begin(partition, offset)
            if not self._holding:
                self._read([partition])
        return offset

    def _first(self, partition: int, start: Start) -> int:
        if partition >= self._topic.partitions:
            return 0  # it was added while we read the others: nothing of it is from before
        if isinstance(start, datetime):
            found = self._start(partition, start, round(start.timestamp() * 1000))
            if found >= 0:
                return found
            start = "now"  # nothing is as late as that
        return self._start(partition, start, OFFSET_BEGINNING if start == "earliest" else OFFSET_END)

    def _start(self, partition: int, start: Start, time_ms: int) -> int:
        """Asked for all that were assigned with it: a question waits behind a request for messages that is on its way, and the
        first partition that is begun makes one."""
        if monotonic() > self._starts_until:
            self._starts.clear()
        if (start, partition) not in self._starts:
            found = self._offsets(sorted({partition, *self.assigned} - self._reading), time_ms)
            self._starts |= {(start, one): offset for one, offset in found.items()}
            self._starts_until = monotonic() + ASKED_S
        return self._starts.pop((start, partition))

    def ends(self, partitions: Sequence[int]) -> dict[int, int]:
        return self._offsets(partitions, OFFSET_END) if partitions else {}

    def _offsets(self, partitions: Sequence[int], time_ms: int) -> dict[int, int]:
        """Of the first messages that are as late; -1 where none is. Waits, though not for ever."""
        limit_s = self._cluster.settings.timeout_s
        give_up = monotonic() + limit_s
        while True:
            asked = [self._place(partition, time_ms) for partition in partitions]
            try:
                return _found(self._consumer.offsets_for_times(asked, timeout=limit_s))
            except KafkaException as error:
                if code_of(error) not in NOT_KNOWN_YET or monotonic() > give_up or self._stopping.wait(ASK_AGAIN_S):
                    raise
            self._consumer.list_topics(self._topic.name, timeout=limit_s)  # who leads it now

    def end(self, partition: int) -> None:
        self._read_no_more([partition])

    def _read(self, partitions: Iterable[int]) -> None:
        new = {partition: self._shelf.next_of(partition) for partition in partitions if partition not in self._reading}
        places = [self._place(partition, offset) for partition, offset in new.items() if offset is not None]
        self._consumer.incremental_assign(places)
        self._reading |= {place.partition for place in places}

    def _read_no_more(self, partitions: Iterable[int]) -> None:
        read = self._reading & {*partitions}
        self._reading -= read
        self._consumer.incremental_unassign([self._place(partition) for partition in read])

    def _should_hold(self) -> bool:
        if self.held_back:
            return True
        if not self._shelf.full:
            self._full_since = None
            return False
        now = monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since > PATIENCE_S:
            return True
        self.room.wait(POLL_S)
        self.room.clear()
        return self._holding

    def _hold(self, hold: bool) -> None:
        if hold != self._holding:
            self._holding = hold
            (self._read_no_more if hold else self._read)(self._shelf.partitions)

    def _poll(self) -> None:
        if self._full_since is not None and not self._holding:
            return  # there is no room: neither wait for more nor take it
        first = self._consumer.poll(0.001 if monotonic() < self._hurry_until else POLL_S)
        if first is None:
            return
        # `consume` alone would wait until there are as many.
        messages = [first, *self._consumer.consume(AT_ONCE - 1, 0)]
        wrong = [(error, message) for message in messages if (error := message.error()) is not None]
        del first
        if self._shelf.put(_fetched_of(messages)):
            self._came()
        for error, message in wrong:  # only now: what is done about them may poll again
            self._wrong(error, message)

    def _show(self, now: float) -> None:
        """How far we are, to whoever looks at the group; with whose journal it is."""
        if now < self._commit_at:
            return
        self._commit_at = now + COMMIT_S
        if settled := self._shelf.settled():
            topic = self._topic.name
            places = [TopicPartition(topic, number, offset, self._identity) for number, offset in settled.items()]
            try:
                self._consumer.commit(offsets=places, asynchronous=True)
            except KafkaException as error:
                log.debug("positions of %s were not committed: %s", topic, error.args[0].str())

    # --- what the group says ----------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        consumer.incremental_assign([])  # heard; `begin` says from where
        self._starts.clear()
        self.assigned |= {place.partition for place in places}
        self._changed()

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._commit_at = 0.0
        self._show(monotonic())
        self._on_lost(consumer, places)

    def _on_lost(self, _: Consumer, places: list[TopicPartition]) -> None:
        partitions = {place.partition for place in places}
        self.assigned -= partitions
        self._shelf.forget(partitions)
        self._read_no_more(partitions)
        self._changed()

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def _wrong(self, error: KafkaError, message: Message) -> None:
        code = error.code()
        if code in OUT_OF_RANGE:
            self._out_of_range(int(message.partition() or 0))
        elif code == KafkaError._BAD_COMPRESSION:
            self._not_unpacked(int(message.partition() or 0), int(message.offset() or 0), error)
        elif code in GONE:
            self.fail(self._cluster.error(f"the topic {self._topic.name!r} is not what it was", error))
        elif code in FORBIDDEN or code in REFUSED:
            self.fail(self._cluster.error(f"reading the topic {self._topic.name!r}", error))
        elif error.fatal():
            self.fail(self._cluster.error("the consumer broke", error))
        else:  # librdkafka goes on by itself, or a connection is gone, which is looked into
            log.debug("reading %s: %s", self._topic.name, self._cluster.settings.masked(error.str()))
            self._complaints.cut |= code in AWAY

    def _out_of_range(self, partition: int) -> None:
        wanted = self._shelf.next_of(partition)
        if wanted is None:
            return
        low, high = self._consumer.get_watermark_offsets(
            self._place(partition), timeout=self._cluster.settings.timeout_s
        )
        if wanted > high:
            raise BrokerError(
                f"Partition {partition} of the topic {self._topic.name!r} ends at offset {high:,}, and this journal has read up "
                f"to {wanted:,}: the cluster has lost what it had, or was restored. Make the topic anew under another name "
                "(prefix=), or let its publisher fill it up to there before this service reads on.",
                partition=partition,
                wanted=wanted,
                end=high,
            )
        if wanted >= low:
            raise BrokerError(f"The topic {self._topic.name!r} is not what it was, and is looked at anew.")
        log.error(
            "%s gone from partition %d of the topic %s: offsets %d to %d were deleted before they were read, by its "
            "retention as a rule. It goes on at %d; raise retention.ms there.",
            plural(low - wanted, "message is", "messages are"), partition, self._topic.name, wanted, low - 1, low,
        )  # fmt: skip
        self._read_no_more([partition])
        self.begin(partition, low, "earliest")

    def _not_unpacked(self, partition: int, offset: int, error: KafkaError) -> None:
        """Of a batch its length is known only once it is unpacked, so what follows it in this partition can't be had."""
        if self._stuck_at.get(partition) == offset:
            return
        self._stuck_at[partition] = offset
        log.error(
            "partition %d of the topic %s stands still at offset %d, where a batch can't be unpacked: it is damaged, or larger "
            "than %s bytes (%s). Others go on. Have Kafka delete it, with kafka-delete-records.sh up to behind the batch; "
            "what is gone by then is passed, and said to be.",
            partition, self._topic.name, offset, f"{UNPACKED_BYTES_MAX:,}", self._cluster.settings.masked(error.str()),
        )  # fmt: skip

    def _look(self) -> None:
        """A connection broke: whether any broker still answers. Waits, not long where none is left to ask."""
        limit_s = LOOK_S if self._complaints.down else self._cluster.settings.timeout_s
        self._complaints.cut = self._complaints.down = False
        if self._complaints.refused:
            return self.fail(BrokerError(f"{self._cluster.settings.shown} lets us not in: {self._complaints.refused}"))
        try:
            self._consumer.list_topics(self._topic.name, timeout=min(limit_s, self._cluster.settings.timeout_s))
        except KafkaException as error:
            self.fail(self._cluster.error(f"the connection is gone ({self._complaints.last})", error.args[0]))
        return None

    def _leave(self) -> None:
        self._stopping.set()
        try:
            self._commit_at = 0.0
            self._show(monotonic())
            self._consumer.close()
        except (KafkaException, RuntimeError) as error:
            log.debug("leaving the group of %s: %s", self._topic.name, error)
        with self._gate:
            self._gone = True
        self._obey()


def _found(places: Sequence[TopicPartition]) -> dict[int, int]:
    for place in places:
        if place.error is not None:
            raise KafkaException(place.error)
    return {place.partition: int(place.offset) for place in places}


def _fetched_of(messages: list[Message]) -> Iterator[Fetched]:
    """Each is let go as soon as it is read: it keeps a tuple for each of its headers, and thousands of these at once are what
    the collector of cycles is called for, and goes through."""
    messages.reverse()
    while messages:
        message = messages.pop()
        if message.error() is None:
            yield _fetched(message)


def _fetched(message: Message) -> Fetched:
    headers = _named(message)
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


# Not called as a method: of one with a name that is no text the client returns what is none and has an error set, which
# the interpreter's short way of calling methods does not look for. The process would die of it.
_pairs_of = methodcaller("headers")


def _named(message: Message) -> dict[str, str]:
    """Where a name is no text, the client has none of them: then it is no event, and kept without them."""
    try:
        pairs: Any = _pairs_of(message) or ()  # of text and bytes, or None
        return {name: value.decode() for name, value in pairs}
    except SystemError:
        return {}
    except (UnicodeDecodeError, AttributeError):  # another's: bytes that are no text, or none at all
        return {name: text_of(value or b"", name, PREFIX) for name, value in pairs}
