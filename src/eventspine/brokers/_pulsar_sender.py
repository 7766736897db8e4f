"""Sending: a producer for each partition, with an answer for each message.

A partition's messages go in the order in which they were given. After a broken connection the client sends again by itself
what had no answer, under its producer's name and the sequence ids of before, and a topic with deduplication drops what it has
already. Those ids are of the client's own making. Ours could not be used for it: a producer's have to grow, so a message that
was lost could not be sent again after the next one had arrived; Pulsar would answer that it has it, and drop it. Whoever takes
over, or sends again after a time-out, sends under the relay's numbers, which readers know a repetition by.

Of a producer only what lets go of the interpreter's lock is called: `send_async` and `is_connected`. Its `flush_async` and
`close_async` (3.13) keep it while they wait for a lock of the producer's, which a thread of the client has that waits for the
interpreter's, to let go of a callback: for ever. It is closed with its client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

import _pulsar
import pulsar

from ..errors import BrokerError, MessageRefused
from ._pulsar_client import COMPRESSION, HINTS, OK, Link, Settings
from .port import Message, Sent

CONTENT_TYPE = "content-type"
PENDING_MAX = 20_000  # messages without an answer, a partition
BATCH_BYTES = 1_048_576
BATCH_MESSAGES = 1000
MOMENT_S = 0.2  # without a connection, which nobody need hear of
GONE_S = 1.0  # after which the client is given up
LOOK_S = 0.05
BATCH_WAIT_MS = 1  # for more of the same batch
REFUSED = {_pulsar.Result.MessageTooBig, _pulsar.Result.InvalidMessage}


class Sender:
    def __init__(self, link: Link) -> None:
        self.link = link
        self._producers: dict[str, Any] = {}  # by topic
        self._making = asyncio.Lock()
        self._away_since = 0.0

    async def send(self, messages: Sequence[tuple[str, Message]]) -> Sequence[Sent]:
        """Each to the topic given with it."""
        producers = await self._ready({topic for topic, _ in messages})
        connected = [one for one in producers.values() if not isinstance(one, BrokerError)]
        if not await self._connected(connected, MOMENT_S):
            return [self._away()] * len(messages)  # and nothing of it is on its way
        self._away_since = 0.0
        page = _Page(len(messages))
        for number, (topic, message) in enumerate(messages):
            producer = producers[topic]
            if isinstance(producer, BrokerError):
                page.answer(number, producer)
            else:
                producer.send_async(_built(message), partial(page.answered, number))
        await self._answered(page, connected)
        return [self._sent(one) for one in page.answers]

    async def _connected(self, producers: Sequence[Any], within_s: float) -> bool:
        """Or again, in that time: a topic that moves to another broker is away for a moment."""
        give_up = monotonic() + within_s
        while not all(one.is_connected() for one in producers):
            if monotonic() > give_up:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _answered(self, page: _Page, producers: Sequence[Any]) -> None:
        """Until all are, time is over, or the connection has been broken for a while."""
        give_up = monotonic() + self.link.settings.timeout_s + 2.0
        while not await page.wait(2 * LOOK_S) and monotonic() < give_up:
            if not await self._connected(producers, GONE_S):
                return

    def _away(self) -> BrokerError:
        """Said at once; the client tries again ever more seldom, so that after a while another is the quicker way."""
        self._away_since = self._away_since or monotonic()
        if monotonic() - self._away_since > GONE_S:
            self.link.silent = True
        return BrokerError(f"{self.link.settings.url.shown} is not connected.")

    async def _ready(self, topics: set[str]) -> Mapping[str, Any]:
        async with self._making:
            missing = [topic for topic in topics if topic not in self._producers]
            configured = _configured(self.link.settings)
            made = await asyncio.gather(
                *(self.link.producer(topic, configured) for topic in missing), return_exceptions=True
            )
        answers = dict(zip(missing, made, strict=True))
        for topic, one in answers.items():
            if not isinstance(one, BaseException):
                self._producers[topic] = one
            elif not isinstance(one, BrokerError):
                raise one
        return answers | {topic: self._producers[topic] for topic in topics if topic in self._producers}

    def _sent(self, answer: Any) -> Sent:
        shown = self.link.settings.url.shown
        if answer == OK:
            return None
        if isinstance(answer, BrokerError):
            return answer
        if answer in REFUSED:
            return MessageRefused(
                f"Pulsar refused it ({answer.name}): it is larger than its maxMessageSize, or damaged"
            )
        if answer is None or answer in {_pulsar.Result.Timeout, _pulsar.Result.AlreadyClosed}:
            self.link.silent = True
            return BrokerError(f"{shown} did not acknowledge a message in {self.link.settings.timeout_s:g} s.")
        return BrokerError(f"{shown} did not take a message: {answer.name}{HINTS.get(answer.name, '')}")


class _Page:
    """Answers come on threads of the client, and wake who waits once: when all are there."""

    def __init__(self, count: int) -> None:
        self.answers: list[Any] = [None] * count  # a result of the client, an error of ours, or none
        self._came: list[int] = []  # appending and counting is safe from several threads
        self._loop = asyncio.get_running_loop()
        self._all = asyncio.Event()

    def answered(self, number: int, result: Any, _id: Any) -> None:
        self.answer(number, result)

    def answer(self, number: int, answer: Any) -> None:
        self.answers[number] = answer
        self._came.append(number)
        if len(self._came) == len(self.answers):
            try:
                self._loop.call_soon_threadsafe(self._all.set)
            except RuntimeError:
                pass  # the loop is closed; nobody waits any more

    async def wait(self, most_s: float) -> bool:
        """Whether all have an answer; what has none is unknown."""
        if len(self._came) < len(self.answers):
            try:
                async with asyncio.timeout(most_s):
                    await self._all.wait()
            except TimeoutError:
                return False
        return True


def _configured(settings: Settings) -> Any:
    made = _pulsar.ProducerConfiguration()
    made.send_timeout_millis(int(settings.timeout_s * 1000))
    made.block_if_queue_full(False)
    made.max_pending_messages(PENDING_MAX)
    made.batching_enabled(True)
    made.batching_max_messages(BATCH_MESSAGES)
    made.batching_max_allowed_size_in_bytes(BATCH_BYTES)
    made.batching_max_publish_delay_ms(BATCH_WAIT_MS)
    made.batching_type(pulsar.BatchingType.KeyBased if settings.by_slot else pulsar.BatchingType.Default)
    made.compression_type(COMPRESSION[settings.compression])
    return made


def _built(message: Message) -> Any:
    builder = _pulsar.MessageBuilder()
    builder.content(message.data)
    builder.ordering_key(str(message.slot))
    if message.key is not None:
        builder.partition_key(message.key)
    for name, value in message.headers.items():
        builder.property(name, value)
    if message.content_type:
        builder.property(CONTENT_TYPE, message.content_type)
    return builder.build()
