"""aio-pika by hand, and FastStream on it. A queue keeps what was published since it was made, so that which is read by hand is
stocked for each measurement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from eventspine.brokers._rabbitmq_keys import KEYS
from eventspine.brokers.port import Message

from ..parcels import CHANNEL, Parcel, decode
from . import READ, Handle, Peer, peers

QUEUE = "by-hand"
QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}


class Twin:
    prefix = "cloudEvents:"
    keeps = False

    def __init__(self, url: str) -> None:
        self.url = url.partition("?")[0]
        self._connection: Any
        self._channel: AbstractChannel
        self._exchange: AbstractExchange

    async def open(self) -> None:
        self._connection = await aio_pika.connect(self.url)
        self._channel = await self._connection.channel(publisher_confirms=True)
        self._exchange = await self._channel.get_exchange(CHANNEL, ensure=False)

    async def close(self) -> None:
        await self._connection.close()

    async def send(self, messages: Sequence[Message]) -> None:
        await asyncio.gather(*(self._exchange.publish(_built(one), KEYS[one.slot]) for one in messages))

    async def stock(self, messages: Sequence[Message]) -> None:
        await self._channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        directly = self._channel.default_exchange
        await asyncio.gather(*(directly.publish(_built(one), QUEUE) for one in messages))

    async def receive(self, count: int, handle: Handle) -> None:
        channel, came = await self._reading(2 * READ)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=QUORUM)
        await queue.consume(came.put)
        while count > 0:
            batch = [await came.get()]
            while len(batch) < READ and not came.empty():
                batch.append(came.get_nowait())
            for message in batch:
                await handle(decode(message.body))
            await batch[-1].ack(multiple=True)
            count -= len(batch)
        await channel.close()

    async def _reading(self, prefetch: int) -> tuple[AbstractChannel, asyncio.Queue[AbstractIncomingMessage]]:
        channel = await self._connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        return channel, asyncio.Queue()

    @asynccontextmanager
    async def listening(self, handle: Handle) -> AsyncIterator[None]:
        channel, _ = await self._reading(READ)
        queue: AbstractQueue = await channel.declare_queue("listens", durable=True, arguments=QUORUM)
        await queue.bind(self._exchange, "#")

        async def take(message: AbstractIncomingMessage) -> None:
            await handle(decode(message.body))
            await message.ack()

        await queue.consume(take)
        yield
        await queue.delete(if_unused=False, if_empty=False)
        await channel.close()

    def peer(self) -> Peer | None:
        return FastStream(self.url) if peers.there("rabbit") else None


def _built(message: Message) -> aio_pika.Message:
    return aio_pika.Message(
        message.data,
        headers=dict(message.headers),
        content_type=message.content_type,
        message_id=message.id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


class FastStream:
    batches = False  # it has none on RabbitMQ

    def __init__(self, url: str) -> None:
        self.url = url

    async def send(self, events: Sequence[Parcel]) -> None:
        from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange

        exchange = RabbitExchange(CHANNEL, type=ExchangeType.FANOUT, durable=True, declare=False)
        async with RabbitBroker(self.url, logger=None) as broker:
            for start in range(0, len(events), 1000):
                some = events[start : start + 1000]
                await asyncio.gather(
                    *(
                        broker.publish(body, exchange=exchange, routing_key=KEYS[event.number % 960], persist=True)
                        for event, body in zip(some, peers.bodies_of(some), strict=True)
                    )
                )

    async def receive(self, count: int, *, batch: bool) -> None:
        from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

        handlers = peers.Handlers(count)
        broker = RabbitBroker(self.url, logger=None, default_channel=Channel(prefetch_count=READ))
        broker.subscriber(RabbitQueue(QUEUE, QueueType.QUORUM, durable=True))(handlers.chosen(batch=batch))
        async with broker:
            await broker.start()
            await handlers.finished.wait()


def twin(url: str, _partitions: int) -> Twin:
    return Twin(url)
