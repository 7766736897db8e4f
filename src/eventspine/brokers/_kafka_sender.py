"""Sending: an idempotent producer with acks=all, and one answer for each message.

librdkafka tries again by itself, in order and without repeating, until `timeout_s` is over. What it then could not say is
unknown: the message may be there. So it is, sooner, when no broker is left to answer: what is on its way may still get there
before whoever asked sends it again, and nothing more is put behind it until a broker answers. A producer that librdkafka
declares broken is replaced by the next send.

Answers come in a thread of their own, and reach the event loop once per batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from ..errors import BrokerError, MessageRefused
from ._kafka_client import FORBIDDEN, GONE, Cluster, Complaints, config_of, in_thread, made
from ._kafka_url import Settings
from .port import Sent

log = logging.getLogger("eventspine.broker.kafka")
BATCH_BYTES = 256 * 1024  # well below what any topic takes: a batch that is too large is refused with all that is in it
LINGER_MS = 5.0  # what many messages wait for one another; a few wait for nothing
FEW = 64
POLL_S = 0.2
LOOK_S = 1.0  # that a broker has for an answer after all of them were away
REFUSED = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP})


class Said(Protocol):
    """An error as librdkafka has it."""

    def code(self) -> int: ...
    def name(self) -> str: ...
    def str(self) -> str: ...


class Unsaid:
    """One that librdkafka did not say. A KafkaError that is made in Python is not whole, and ends the process sooner or later."""

    def __init__(self, code: int, text: str) -> None:
        self._code, self._text = code, text

    def code(self) -> int:
        return self._code

    def name(self) -> str:
        return self._text

    def str(self) -> str:
        return self._text


class Outgoing(NamedTuple):
    topic: str
    partition: int
    key: bytes | None
    headers: dict[
        str, str | bytes | None
    ]  # and no list of pairs, each of which the collector of cycles would go through
    data: bytes


class Sender:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._producer: _Producing | None = None

    async def send(self, messages: Sequence[Outgoing]) -> list[Sent]:
        answers = await self._sent(messages)
        doubtful = [n for n, error in enumerate(answers) if self._in_company(error, messages[n])]
        for n in doubtful:  # a batch was refused as a whole: one by one it shows whose fault that is
            answers[n] = (await self._sent([messages[n]]))[0]
        return [
            None if error is None else await self._meaning(error, message)
            for error, message in zip(answers, messages, strict=True)
        ]

    async def _sent(self, messages: Sequence[Outgoing]) -> list[Said | None]:
        producer = self._producer
        if producer is None or producer.complaints.fatal:
            producer = self._producer = _Producing(self._cluster)
        batch = _Batch(len(messages))
        if producer.complaints.down and not await producer.is_back():
            return list(batch.answers)
        for number, message in enumerate(messages):
            producer.produce(message, partial(batch.answered, number))
        # librdkafka answers within its own limit; should it not, nobody waits for ever.
        await producer.answered(batch, 2 * self._cluster.settings.timeout_s + 5)
        return list(batch.answers)

    @property
    def away(self) -> bool:
        """No broker was left to ask, as last heard."""
        return self._producer is not None and self._producer.complaints.down

    @staticmethod
    def _in_company(error: Said | None, message: Outgoing) -> bool:
        return error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and len(message.data) < BATCH_BYTES

    async def _meaning(self, error: Said, message: Outgoing) -> Exception:
        settings = self._cluster.settings
        code, topic, why = error.code(), message.topic, settings.masked(error.str())
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            return await self._too_large(message)
        if code in REFUSED:
            return MessageRefused(f"The topic {topic!r} takes no such message: {why}", code=error.name())
        complaints = self._producer.complaints if self._producer else None
        if complaints is not None and complaints.fatal:
            code, why = complaints.fatal_code, complaints.fatal
        if code in FORBIDDEN:
            why = f"{why}. Grant WRITE on it to this user"
        elif code in GONE:
            why = f"{why}. `spine topology plan` shows what is missing"
        elif code == KafkaError._MSG_TIMED_OUT:
            last = complaints.last if complaints is not None else ""
            limit = "" if self.away else f" within {settings.timeout_s:g} s"
            why = f"no answer{limit}" + (f" ({last})" if last else "")
        return BrokerError(f"{settings.shown}: sending to the topic {topic!r}: {why}.", code=error.name())

    async def _too_large(self, message: Outgoing) -> MessageRefused:
        size, most = len(message.data), self._cluster.settings.message_bytes_max
        limit = int((await self._cluster.config(message.topic)).get("max.message.bytes", most))
        return MessageRefused(
            f"{size:,} bytes of data and what surrounds them are more than the {limit:,} that the topic {message.topic!r} "
            f"takes. Raise max.message.bytes there and message_bytes_max in the URL (now {most:,}), or publish less at once.",
            size_bytes=size,
            limit_bytes=limit,
        )

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.close(self._cluster.settings.timeout_s)
            self._producer = None


class _Batch:
    """Messages that are asked about together. `answered` is called in the producer's thread."""

    UNKNOWN = Unsaid(KafkaError._MSG_TIMED_OUT, "no answer")

    def __init__(self, size: int) -> None:
        self.answers: list[Said | None] = [self.UNKNOWN] * size
        self._left = size
        self._loop = asyncio.get_running_loop()
        self.all_there: asyncio.Future[None] = self._loop.create_future()
        if not size:
            self.all_there.set_result(None)

    def answered(self, number: int, error: Said | None, message: object = None) -> None:
        self.answers[number] = error
        self._left -= 1
        if not self._left:
            self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._done)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def give_up(self) -> None:
        """Whose answer has not come is unknown."""
        self._left = -1  # nobody counts any more
        self._tell()

    def _done(self) -> None:
        if not self.all_there.done():
            self.all_there.set_result(None)


def producer_config(settings: Settings, complaints: Complaints) -> dict[str, Any]:
    return config_of(
        settings,
        complaints,
        acks="all",
        enable_idempotence=True,
        message_timeout_ms=round(settings.timeout_s * 1000),
        compression_codec=settings.compression,
        linger_ms=LINGER_MS,
        batch_size=BATCH_BYTES,
        message_max_bytes=max(settings.message_bytes_max, BATCH_BYTES) + 64 * 1024,  # key, headers; Kafka decides
        topic_metadata_refresh_interval_ms=60_000,
    )


class _Producing:
    def __init__(self, cluster: Cluster) -> None:
        settings = cluster.settings
        self.complaints = Complaints(settings)
        self._batches: set[_Batch] = set()  # that are waited for
        self._producer: Producer = made(Producer, settings, producer_config(settings, self.complaints))
        self._closing = False
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventspine-kafka-producer", daemon=True)
        self._thread.start()

    def produce(self, message: Outgoing, answered: Any) -> None:
        """Into librdkafka's queue, without waiting."""
        try:
            self._producer.produce(
                message.topic,
                value=message.data,
                key=message.key,
                partition=message.partition,
                on_delivery=answered,
                headers=message.headers,
            )
        except KafkaException as error:
            answered(error.args[0])
        except BufferError:
            answered(Unsaid(KafkaError._QUEUE_FULL, "the queue to it is full"))

    async def answered(self, batch: _Batch, limit_s: float) -> None:
        """All of it is in the queue, and somebody waits."""
        self._batches.add(batch)
        self._work.set()
        await asyncio.wait([batch.all_there], timeout=limit_s)
        self._batches.discard(batch)

    async def is_back(self) -> bool:
        """Whether a broker answers again."""
        try:
            await in_thread(partial(self._producer.list_topics, timeout=LOOK_S), "eventspine-kafka-look")
        except KafkaException:
            return False
        self.complaints.down = False
        return True

    def _run(self) -> None:
        while not self._closing:
            try:
                self._serve()
            except KafkaException as error:  # it is broken for good
                self.complaints.heard(error.args[0])
            if self.complaints.down:
                self._let_go()
            if self.complaints.fatal:
                self._give_up()
                return  # replaced by the next send

    def _serve(self) -> None:
        waiting = len(self._producer)
        if waiting > FEW:
            self._producer.poll(0.01)
        elif waiting:
            self._producer.flush(0.01)  # as poll, and nothing lingers meanwhile: 0.3 ms instead of 6
        else:
            self._work.wait(POLL_S)
            self._work.clear()
            self._producer.poll(0)

    def _let_go(self) -> None:
        for batch in list(self._batches):
            batch.give_up()

    def _give_up(self) -> None:
        """Everybody has an answer, though it is not known what became of their message."""
        self._producer.purge()
        while len(self._producer) and not self._closing:
            try:
                self._producer.poll(0.01)
            except KafkaException as error:
                log.debug("giving up a producer: %s", error)

    async def close(self, limit_s: float) -> None:
        """What is on its way gets there, as far as the time reaches, and unless nobody is there to take it."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + limit_s
        while len(self._producer) and self._thread.is_alive() and loop.time() < give_up:
            if self.complaints.down:
                break
            await asyncio.sleep(0.01)
        self._closing = True
        self._work.set()
        while self._thread.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
