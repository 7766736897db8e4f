"""nats-py by hand, and FastStream on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from eventspine.brokers.port import Message

from ..parcels import CHANNEL, Parcel, decode
from . import READ, Handle, Peer, peers


class Twin:
    prefix = "ce-"
    keeps = True

    def __init__(self, url: str, partitions: int) -> None:
        self.url = url.partition("/?")[0]
        self.partitions = partitions
        self._client: Client
        self._js: JetStreamContext

    async def open(self) -> None:
        self._client = await nats.connect(self.url)
        self._js = self._client.jetstream(timeout=30, publish_async_max_pending=100_000)

    async def close(self) -> None:
        await self._client.close()

    async def send(self, messages: Sequence[Message]) -> None:
        await asyncio.gather(*[await self._hand_over(message) for message in messages])

    async def _hand_over(self, message: Message) -> asyncio.Future[Any]:
        headers = dict(message.headers) | {"content-type": message.content_type, "Nats-Msg-Id": message.id}
        subject = f"{message.channel}.p{message.slot % self.partitions}"
        return await self._js.publish_async(subject, message.data, headers=headers)

    async def stock(self, messages: Sequence[Message]) -> None:
        """It is there already."""

    async def receive(self, count: int, handle: Handle) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.ALL, deliver_policy=DeliverPolicy.ALL, max_ack_pending=10_000)
        consumer = await self._js.pull_subscribe(f"{CHANNEL}.*", stream=CHANNEL, config=config)
        while count > 0:
            batch = await consumer.fetch(min(READ, count), timeout=30)
            for message in batch:
                await handle(decode(message.data))
            await batch[-1].ack()
            count -= len(batch)
        await consumer.unsubscribe()

    @asynccontextmanager
    async def listening(self, handle: Handle) -> AsyncIterator[None]:
        async def take(message: Msg) -> None:
            await handle(decode(message.data))
            await message.ack()

        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, deliver_policy=DeliverPolicy.NEW)
        heard = await self._js.subscribe(f"{CHANNEL}.*", stream=CHANNEL, cb=take, config=config, manual_ack=True)
        yield
        await heard.unsubscribe()

    def peer(self) -> Peer | None:
        return FastStream(self.url, self.partitions) if peers.there("nats") else None


class FastStream:
    batches = True

    def __init__(self, url: str, partitions: int) -> None:
        self.url, self.partitions = url, partitions

    async def send(self, events: Sequence[Parcel]) -> None:
        from faststream.nats import NatsBroker

        async with NatsBroker(self.url, logger=None) as broker:
            for start in range(0, len(events), 1000):
                some = events[start : start + 1000]
                await asyncio.gather(
                    *(
                        broker.publish(body, f"{CHANNEL}.p{event.number % self.partitions}", stream=CHANNEL, timeout=30)
                        for event, body in zip(some, peers.bodies_of(some), strict=True)
                    )
                )

    async def receive(self, count: int, *, batch: bool) -> None:
        """One handler for each message, acknowledged after it; or, with `batch`, one for a list."""
        from faststream.nats import JStream, NatsBroker, PullSub

        broker, handlers = NatsBroker(self.url, logger=None), peers.Handlers(count)
        source = broker.subscriber(
            f"{CHANNEL}.*",
            stream=JStream(CHANNEL, declare=False),
            deliver_policy=DeliverPolicy.ALL,
            pull_sub=PullSub(batch_size=READ, batch=batch),
        )
        source(handlers.chosen(batch=batch))
        async with broker:
            await broker.start()
            await handlers.finished.wait()


def twin(url: str, partitions: int) -> Twin:
    return Twin(url, partitions)
