"""confluent-kafka by hand: its synchronous producer and consumer, each call on a thread. FastStream on the same library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from eventspine.brokers.port import Message

from ..parcels import CHANNEL, Parcel, decode
from . import READ, Handle, Peer, peers


class Twin:
    prefix = "ce_"
    keeps = True

    def __init__(self, url: str, partitions: int) -> None:
        self.servers = url.partition("://")[2].partition("?")[0].strip("/")
        self.partitions = partitions
        self._producer: Producer

    async def open(self) -> None:
        self._producer = Producer(
            {"bootstrap.servers": self.servers, "acks": "all", "enable.idempotence": True, "linger.ms": 1}
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._producer.flush, 10)

    async def send(self, messages: Sequence[Message]) -> None:
        await asyncio.to_thread(self._send, messages)

    def _send(self, messages: Sequence[Message]) -> None:
        failed: list[Any] = []
        left = len(messages)

        def answered(error: Any, _: Any) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                failed.append(error)

        for message in messages:
            self._producer.produce(
                message.channel, message.data, key=message.key, partition=message.slot % self.partitions,
                headers=[*message.headers.items(), ("content-type", message.content_type)], on_delivery=answered,
            )  # fmt: skip
        while left:
            self._producer.poll(0.1)
        if failed:
            raise RuntimeError(str(failed[0]))

    def _consumer(self, start: str) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": uuid4().hex,
                "enable.auto.commit": False,
                "auto.offset.reset": start,
                "fetch.queue.backoff.ms": 10,
            }
        )
        at = -2 if start == "earliest" else -1
        consumer.assign([TopicPartition(CHANNEL, n, at) for n in range(self.partitions)])
        return consumer

    async def stock(self, messages: Sequence[Message]) -> None:
        """It is there already."""

    async def receive(self, count: int, handle: Handle) -> None:
        consumer = self._consumer("earliest")
        while count > 0:
            batch = await asyncio.to_thread(consumer.consume, READ, 1.0)
            for message in batch:
                await handle(decode(message.value() or b""))
            if batch:
                await asyncio.to_thread(consumer.commit, asynchronous=False)
            count -= len(batch)
        await asyncio.to_thread(consumer.close)

    @asynccontextmanager
    async def listening(self, handle: Handle) -> AsyncIterator[None]:
        consumer = self._consumer("latest")

        async def listen() -> None:
            while True:
                message = await asyncio.to_thread(consumer.poll, 0.2)
                if message is not None and message.error() is None:
                    await handle(decode(message.value() or b""))

        listening = asyncio.create_task(listen())
        await asyncio.sleep(2)  # until it has found where "now" is
        yield
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await asyncio.to_thread(consumer.close)

    def peer(self) -> Peer | None:
        return FastStream(self.servers, self.partitions) if peers.there("confluent") else None


class FastStream:
    batches = True

    def __init__(self, servers: str, partitions: int) -> None:
        self.servers, self.partitions = servers, partitions

    async def send(self, events: Sequence[Parcel]) -> None:
        from faststream.confluent import KafkaBroker

        async with KafkaBroker(self.servers, logger=None, acks="all") as broker:
            for start in range(0, len(events), 1000):
                some = events[start : start + 1000]
                await asyncio.gather(
                    *(
                        broker.publish(
                            body, CHANNEL, key=event.parcel.encode(), partition=event.number % self.partitions
                        )
                        for event, body in zip(some, peers.bodies_of(some), strict=True)
                    )
                )

    async def receive(self, count: int, *, batch: bool) -> None:
        """One handler for each message, with its offset committed after it; or, with `batch`, one for a list."""
        from faststream import AckPolicy
        from faststream.confluent import KafkaBroker

        broker, handlers = KafkaBroker(self.servers, logger=None), peers.Handlers(count)
        source = broker.subscriber(
            CHANNEL, group_id=uuid4().hex, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK,
            batch=batch, max_records=READ if batch else None,
        )  # fmt: skip
        source(handlers.chosen(batch=batch))
        async with broker:
            await broker.start()
            await handlers.finished.wait()


def twin(url: str, partitions: int) -> Twin:
    return Twin(url, partitions)
