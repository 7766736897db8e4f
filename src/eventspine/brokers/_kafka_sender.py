"""Sending: an idempotent producer with acks=all, and one answer for each message.

librdkafka tries again by itself, in order and without repeating, until `timeout_s` is over. What it then could not say is
unknown: the message may be there. A producer that librdkafka declares broken is replaced by the next send.

Answers come in a thread of their own, and reach the event loop once per batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from ..errors import BrokerError, MessageRefused
from ._kafka_client import FORBIDDEN, GONE, Cluster, Complaints, config_of, made
from .port import Sent

BATCH_BYTES = 256 * 1024  # well below what any topic takes: a batch that is too large is refused with all that is in it
LINGER_MS = 5.0  # what many messages wait for one another; a few wait for nothing
FEW = 64
POLL_S = 0.2
REFUSED = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP})


class Outgoing(NamedTuple):
    topic: str
    partition: int
    key: bytes | None
    headers: list[tuple[str, str | bytes | None]]
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
        return [self._meaning(error, message) for error, message in zip(answers, messages, strict=True)]

    async def _sent(self, messages: Sequence[Outgoing]) -> list[KafkaError | None]:
        producer = self._producer
        if producer is None or producer.complaints.fatal:
            producer = self._producer = _Producing(self._cluster)
        batch = _Batch(len(messages))
        for number, message in enumerate(messages):
            producer.produce(message, partial(batch.answered, number))
        producer.go()
        # librdkafka answers within its own limit; should it not, nobody waits for ever.
        await asyncio.wait([batch.all_there], timeout=2 * self._cluster.settings.timeout_s + 5)
        return list(batch.answers)

    @staticmethod
    def _in_company(error: KafkaError | None, message: Outgoing) -> bool:
        return error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and len(message.data) < BATCH_BYTES

    def _meaning(self, error: KafkaError | None, message: Outgoing) -> Sent:
        if error is None:
            return None
        settings = self._cluster.settings
        code, topic, why = error.code(), message.topic, settings.masked(error.str())
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            return MessageRefused(
                f"{len(message.data):,} bytes of data and what surrounds them are more than the topic {topic!r} takes. Raise "
                f"max.message.bytes there and message_bytes_max in the URL (now {settings.message_bytes_max:,}), or publish "
                "less at once.",
                size_bytes=len(message.data),
            )
        if code in REFUSED:
            return MessageRefused(f"The topic {topic!r} takes no such message: {why}", code=error.name())
        if code in FORBIDDEN:
            why = f"{why}. Grant WRITE on it to this user"
        elif code in GONE:
            why = f"{why}. `spine topology plan` shows what is missing"
        elif code == KafkaError._MSG_TIMED_OUT:
            last = self._producer.complaints.last if self._producer else ""
            why = f"no answer within {settings.timeout_s:g} s" + (f" ({last})" if last else "")
        return BrokerError(f"{settings.shown}: sending to the topic {topic!r}: {why}.", code=error.name())

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.close(self._cluster.settings.timeout_s)
            self._producer = None


class _Batch:
    """Messages that are asked about together. `answered` is called in the producer's thread."""

    UNKNOWN = KafkaError(KafkaError._MSG_TIMED_OUT)

    def __init__(self, size: int) -> None:
        self.answers: list[KafkaError | None] = [self.UNKNOWN] * size
        self._left = size
        self._loop = asyncio.get_running_loop()
        self.all_there: asyncio.Future[None] = self._loop.create_future()
        if not size:
            self.all_there.set_result(None)

    def answered(self, number: int, error: KafkaError | None, message: object = None) -> None:
        self.answers[number] = error
        self._left -= 1
        if not self._left:
            try:
                self._loop.call_soon_threadsafe(self._done)
            except RuntimeError:
                pass  # the loop is closed: nobody waits

    def _done(self) -> None:
        if not self.all_there.done():
            self.all_there.set_result(None)


class _Producing:
    def __init__(self, cluster: Cluster) -> None:
        settings = cluster.settings
        self.complaints = Complaints(settings)
        own = config_of(
            settings,
            self.complaints,
            acks="all",
            enable_idempotence=True,
            message_timeout_ms=round(settings.timeout_s * 1000),
            compression_codec=settings.compression,
            linger_ms=LINGER_MS,
            batch_size=BATCH_BYTES,
            message_max_bytes=max(settings.message_bytes_max, BATCH_BYTES) + 64 * 1024,  # key, headers; Kafka decides
            topic_metadata_refresh_interval_ms=60_000,
        )
        self._producer: Producer = made(Producer, settings, own)
        self._closing = False
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="eventspine-kafka-producer", daemon=True)
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
            answered(KafkaError(KafkaError._QUEUE_FULL))

    def go(self) -> None:
        """All of a batch is in the queue."""
        self._work.set()

    def _poll(self) -> None:
        producer = self._producer
        while not self._closing:
            waiting = len(producer)
            if waiting > FEW:
                producer.poll(0.01)
            elif waiting:
                producer.flush(0.01)  # as poll, and nothing lingers meanwhile: 0.3 ms instead of 6
            elif self.complaints.fatal:
                return  # replaced, and everybody has an answer
            else:
                self._work.wait(POLL_S)
                self._work.clear()
                producer.poll(0)

    async def close(self, limit_s: float) -> None:
        """What is on its way gets there, as far as the time reaches."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + limit_s
        while len(self._producer) and self._thread.is_alive() and loop.time() < give_up:  # noqa: ASYNC110  of a thread
            await asyncio.sleep(0.01)
        self._closing = True
        self._work.set()
        while self._thread.is_alive():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
