"""Reading: for each lease of a partition a reader of its own, which begins after the journal's position, and an anchor.

Pulsar deletes what every durable subscription has acknowledged; a reader holds nothing back. So each consumer has a
durable subscription that does, the anchor: no message is ever taken through it, and its mark follows what the journal has,
in an unbroken row. It is of the type Failover, to which many may be attached and acknowledge: an owner that hangs and has lost its
lease is in nobody's way, and can acknowledge nothing but what the journal has.

    reader (from the journal's position) ── fetch ── the journal has it ── settle ── anchor: may be deleted

A position is the whole of a message id in 63 bits, so that it grows along a partition:

    ledger 31 bits │ entry 21 bits │ index within its batch 11 bits

Pulsar numbers ledgers across a cluster, each holds 50,000 entries by default or ten minutes' worth, and clients make batches
of 1,000. Of a message beyond the 2,097,151st entry of a ledger, or the 2,046th index of a batch, the position stays at the
last that can be told: after a restart those after it come again, and are known by their numbers or ids. A ledger beyond 2^31
can't be read, and says so."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import _pulsar
import pulsar

from ..errors import BrokerError
from ._pulsar_client import OK, Link, Settings, quietly
from .port import FETCH_BYTES, KEPT_BYTES_MAX, Fetched, Start, weight_of

CONTENT_TYPE = "content-type"
LEDGER_BITS, ENTRY_BITS, INDEX_BITS = 31, 21, 11
ENTRY_MAX, INDEX_MAX = 2**ENTRY_BITS - 1, 2**INDEX_BITS - 2
HEARTBEAT_S = 3.0
ANSWER_S = 5.0  # within which one is answered
EARLIEST = _pulsar.MessageId.earliest


def position_of(id: _pulsar.MessageId) -> int:
    """From 1, so that 0 is before all."""
    return position(id.ledger_id(), id.entry_id(), id.batch_index())


def position(ledger: int, entry: int, index: int) -> int:
    """An entry or index of -1 stands before the first one."""
    if ledger < 0:
        return 0
    if ledger >> LEDGER_BITS:
        raise BrokerError(f"Ledger {ledger:,} of this Pulsar is beyond {2**LEDGER_BITS:,}: positions end there.")
    if entry > ENTRY_MAX:
        entry, index = ENTRY_MAX, INDEX_MAX
    start = ledger << (ENTRY_BITS + INDEX_BITS)
    return start if entry < 0 else start + (entry << INDEX_BITS) + min(max(index, 0), INDEX_MAX) + 1


def entry_of(position: int) -> tuple[int, int]:
    """Ledger and entry in which this position is; -1: before the first."""
    ledger, rest = position >> (ENTRY_BITS + INDEX_BITS), position & (2 ** (ENTRY_BITS + INDEX_BITS) - 1)
    return ledger, (rest - 1) >> INDEX_BITS if rest else -1


class PulsarIntake:
    def __init__(self, link: Link, topics: Sequence[str], consumer: str, feed: str) -> None:
        self.feed = feed
        self.link = link
        self.consumer = consumer
        self.news = asyncio.Event()
        self._topics = topics
        self._partitions: dict[int, _Partition] = {}
        self._turn = 0
        self._paused = False
        self._failure: BrokerError | None = None
        self._listening = asyncio.create_task(self._listen(), name="eventspine-pulsar-heartbeat")

    def assigned(self) -> frozenset[int]:
        return frozenset(range(len(self._topics)))

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int | None:
        one = _Partition(self, partition, self._topics[partition])
        try:
            begun = await one.open(after, start)
        except BaseException:
            await one.close()
            raise
        self._partitions[partition] = one
        return begun

    async def end(self, partition: int) -> None:
        if (one := self._partitions.pop(partition, None)) is not None:
            await one.close()

    # --- what came --------------------------------------------------------------------------------------------------

    def fail(self, error: BrokerError) -> None:
        self._failure = self._failure or error
        self.news.set()

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        taken = self._take(most)
        if not taken and wait_s > 0:
            self.news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self.news.wait()
            except TimeoutError:
                pass
            taken = self._take(most)
        return taken

    def _take(self, most: int) -> list[Fetched]:
        """From each partition in turn; nothing in here waits."""
        taken: list[Fetched] = []
        if self._failure is not None:
            raise self._failure
        if self._paused:
            return taken
        numbers, left = sorted(self._partitions), FETCH_BYTES
        self._turn += 1
        for turn in range(len(numbers)):
            if len(taken) < most and left > 0:
                left -= self._partitions[numbers[(turn + self._turn) % len(numbers)]].take(taken, most, left)
        return taken

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        """The anchors follow."""
        by_partition: dict[int, list[Fetched]] = {}
        for one in fetched:
            by_partition.setdefault(one.partition, []).append(one)
        for number, some in by_partition.items():
            if (partition := self._partitions.get(number)) is not None:
                partition.settle(some)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.news.set()

    async def lag(self) -> int | None:
        """Pulsar counts batches rather than messages: so many at least, and 0 only if there are none."""
        return sum(await asyncio.gather(*(one.lag() for one in self._partitions.values())))

    # --- still there? -----------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """The client says nothing of a connection that went silent, and of one that broke only that it tries again."""
        while self._failure is None:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await asyncio.gather(*(one.heartbeat() for one in list(self._partitions.values())))
            except BrokerError as error:
                self.fail(error)

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        partitions, self._partitions = list(self._partitions.values()), {}
        await asyncio.gather(*(one.close() for one in partitions))
        await self.link.close()


class _Partition:
    """Its reader is asked for what it has, and to call when it has something again; never both at once."""

    def __init__(self, intake: PulsarIntake, number: int, topic: str) -> None:
        self.number = number
        self.topic = topic
        self.after = 0  # the position of the last message that was handed out
        self.anchor: Any = None
        self._intake = intake
        self._link = intake.link
        self._loop = asyncio.get_running_loop()
        self._reader: Any = None
        self._since_ms = 0  # until the first message
        self._called: Any = None  # the message that the reader called with
        self._waits = False  # for its call
        self._closed = False
        self._serial = 0
        self._out: deque[tuple[int, Any]] = (
            deque()
        )  # serials and ids handed out, in order, until all before are settled
        self._settled: set[object] = set()  # serials
        self._heard = time.monotonic()

    # --- opened and closed ------------------------------------------------------------------------------------------

    async def open(self, after: int | None, start: Start) -> int | None:
        self.anchor = await self._link.consumer(self.topic, self._intake.consumer, anchored())
        last = await self.last()
        if after is None and start == "now":
            after = position_of(last)
        self.after = after or 0
        self._reader = await self._link.reader(self.topic, _start(self.after), _reading(self._link.settings))
        if after is None and isinstance(start, datetime):
            self._since_ms = int(start.timestamp() * 1000)
            what = f"{self.topic} can't be read from {start.isoformat()}"
            await self._link.ask(self._reader.seek_async, self._since_ms, what=what)
        self._release_before(last)
        self._wait()
        return None if self._since_ms else self.after  # that time is found again

    def _release_before(self, last: _pulsar.MessageId) -> None:
        """The last owner may have stored more than it could acknowledge, "now" passes all there is, and of a batch only
        the whole is acknowledged."""
        ledger, entry = entry_of(self.after)
        if self.after == 0:
            return
        if self.after != position_of(last):
            entry -= 1
        if entry >= 0:
            self._acknowledge(_pulsar.MessageId(-1, ledger, entry, -1))

    async def close(self) -> None:
        self._closed = True
        for one in (self._reader, self.anchor):
            if one is not None and not self._link.silent:
                await quietly(self._link.ask(one.close_async, what="closing", within_s=1.0))

    # --- read -------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        self._waits = True
        self._reader.read_next_async(self._call)

    def _call(self, result: Any, message: Any) -> None:  # on a thread of the client
        try:
            self._loop.call_soon_threadsafe(self._came, result, message)
        except RuntimeError:
            pass  # the loop is closed; nobody reads any more

    def _came(self, result: Any, message: Any) -> None:
        self._waits = False
        if result == OK:
            self._called = message
            self._heard = time.monotonic()
            self._intake.news.set()
        elif not self._closed:
            self._intake.fail(
                BrokerError(f"{self._link.settings.url.shown}: {self.topic} can't be read: {result.name}")
            )

    def take(self, taken: list[Fetched], most: int, bytes_most: int) -> int:
        """How much that was, of bytes."""
        read, timeout, size = self._reader.read_next, pulsar.Timeout, 0
        if self._waits:
            return size
        message, self._called = self._called, None
        try:
            while True:
                if message is not None and (fetched := self._fetched(message)) is not None:
                    taken.append(fetched)
                    size += weight_of(fetched)
                if len(taken) >= most or size >= bytes_most:
                    break
                message = read(0)
        except timeout:
            self._wait()
        except _pulsar.PulsarException as error:
            self._intake.fail(BrokerError(f"{self._link.settings.url.shown}: {self.topic} can't be read: {error}"))
        return size

    def _fetched(self, message: Any) -> Fetched | None:
        id = message.message_id()
        here, time_ms = position_of(id), message.publish_timestamp()
        if here < self.after or (here == self.after and not _beyond(id)):
            return None  # the rest of the batch that it began in, or once more after the connection broke
        if self._since_ms:
            if time_ms < self._since_ms:
                return None
            self._since_ms = 0
        self.after = here
        self._serial += 1
        self._out.append((self._serial, id))
        key, headers = _named(message)
        content_type, length = headers.pop(CONTENT_TYPE, ""), message.length()
        data, left_out = (message.data(), 0) if length <= KEPT_BYTES_MAX else (b"", length)
        return Fetched(
            self.number, here, key, headers, content_type, data, time_ms * 1000, self._serial, left_out, _beyond(id)
        )

    # --- settled ----------------------------------------------------------------------------------------------------

    def settle(self, fetched: Sequence[Fetched]) -> None:
        """What is held in memory, until what it waits for comes, holds back what came after it too."""
        self._settled.update(one.token for one in fetched)
        last = None
        while self._out and self._out[0][0] in self._settled:
            serial, last = self._out.popleft()
            self._settled.discard(serial)
        if last is not None:
            self._acknowledge(last)

    def _acknowledge(self, id: Any) -> None:
        """What is lost of it, the next makes up for."""
        self.anchor.acknowledge_cumulative_async(id, _nothing)

    # --- looked at --------------------------------------------------------------------------------------------------

    async def last(self) -> _pulsar.MessageId:
        ask = self.anchor.get_last_message_id_async
        what = f"{self.topic} does not say where it ends"
        id: _pulsar.MessageId = await self._link.ask(
            ask, what=what, within_s=min(ANSWER_S, self._link.settings.timeout_s)
        )
        self._heard = time.monotonic()
        return id

    async def heartbeat(self) -> None:
        if time.monotonic() - self._heard >= HEARTBEAT_S and not self._closed:
            await self.last()

    async def lag(self) -> int:
        last = await self.last()
        if position_of(last) <= self.after or (self._since_ms and not await self._available()):
            return 0
        ledger, entry = entry_of(self.after)
        entries: int = last.entry_id() - entry if ledger == last.ledger_id() else last.entry_id() + 1
        return max(1, entries)

    async def _available(self) -> bool:
        ask = self._reader.has_message_available_async
        return bool(await self._link.ask(ask, what=f"{self.topic} does not say whether it has more"))


def anchored() -> Any:
    """Holds back deletion, and takes nothing."""
    made = _pulsar.ConsumerConfiguration()
    made.consumer_type(_pulsar.ConsumerType.Failover)
    made.receiver_queue_size(0)
    made.subscription_initial_position(_pulsar.InitialPosition.Earliest)
    return made


def _reading(settings: Settings) -> Any:
    made = _pulsar.ReaderConfiguration()
    made.reader_name("eventspine")
    made.receiver_queue_size(settings.prefetch)
    made.start_message_id_inclusive(True)
    made.crypto_failure_action(_pulsar.ConsumerCryptoFailureAction.CONSUME)  # else it is passed over, without a word
    return made


def _start(after: int) -> _pulsar.MessageId:
    """The whole entry in which that position is: what we have of it is passed over here, by the position."""
    ledger, entry = entry_of(after)
    return EARLIEST if after == 0 else _pulsar.MessageId(-1, ledger, max(entry, 0), -1)


def _beyond(id: _pulsar.MessageId) -> int:
    """Which it is, where its position can't say; else 0."""
    entry, index = int(id.entry_id()), int(id.batch_index())
    return entry << 32 | max(index, 0) if entry > ENTRY_MAX or index > INDEX_MAX else 0


def _named(message: Any) -> tuple[bytes | None, dict[str, str]]:
    """What is not UTF-8 can't be read through this client; without it, it is no event, and kept as it came."""
    try:
        headers: dict[str, str] = message.properties()
        key: str = message.partition_key()
    except UnicodeDecodeError:
        return None, {}
    return key.encode() if key else None, headers


def _nothing(*_: Any) -> None:
    """See `_acknowledge`."""
