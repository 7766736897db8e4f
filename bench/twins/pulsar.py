"""pulsar-client by hand: what it sends is answered on its own threads, and what it receives is waited for on one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pulsar

from eventspine.brokers.port import Message

from ..parcels import CHANNEL, decode
from . import READ, Handle, Peer

TOPIC = f"persistent://public/default/{CHANNEL}"
WAIT_MS = 1000


class Twin:
    prefix = "ce_"
    keeps = True

    def __init__(self, url: str, partitions: int) -> None:
        self.url = url.partition("?")[0].rstrip("/").removesuffix("/public/default")
        self.partitions = partitions
        self._client: pulsar.Client
        self._producers: list[Any] = []

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self._client = pulsar.Client(self.url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        self._producers = [
            self._client.create_producer(
                f"{TOPIC}-partition-{n}",
                batching_enabled=True,
                batching_max_messages=1000,
                batching_max_publish_delay_ms=1,
                max_pending_messages=20_000,
                block_if_queue_full=True,
            )
            for n in range(self.partitions)
        ]

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    async def send(self, messages: Sequence[Message]) -> None:
        loop, finished = asyncio.get_running_loop(), asyncio.Event()
        results: list[Any] = []

        def answered(result: Any, _: Any) -> None:
            results.append(result)
            if len(results) == len(messages):
                loop.call_soon_threadsafe(finished.set)

        for one in messages:
            self._producers[one.slot % self.partitions].send_async(
                one.data, answered, partition_key=one.key, ordering_key=str(one.slot),
                properties={**one.headers, "content-type": one.content_type},
            )  # fmt: skip
        await finished.wait()
        if failed := [one for one in results if one != pulsar.Result.Ok]:
            raise RuntimeError(str(failed[0]))

    async def stock(self, messages: Sequence[Message]) -> None:
        """It is there already."""

    def _consumer(self, start: pulsar.InitialPosition) -> Any:
        return self._client.subscribe(
            [f"{TOPIC}-partition-{n}" for n in range(self.partitions)],
            f"by-hand-{uuid4().hex}",
            consumer_type=pulsar.ConsumerType.Failover,
            initial_position=start,
            receiver_queue_size=READ,
            batch_receive_policy=pulsar.ConsumerBatchReceivePolicy(READ, -1, 20),
        )

    async def receive(self, count: int, handle: Handle) -> None:
        consumer = await asyncio.to_thread(self._consumer, pulsar.InitialPosition.Earliest)
        while count > 0:
            batch = await asyncio.to_thread(consumer.batch_receive)
            last: dict[str, Any] = {}
            for message in batch:
                await handle(decode(message.data()))
                last[message.topic_name()] = message
            for message in last.values():
                await asyncio.to_thread(consumer.acknowledge_cumulative, message)
            count -= len(batch)
        await asyncio.to_thread(consumer.unsubscribe)

    @asynccontextmanager
    async def listening(self, handle: Handle) -> AsyncIterator[None]:
        consumer = await asyncio.to_thread(self._consumer, pulsar.InitialPosition.Latest)

        async def listen() -> None:
            while True:
                try:
                    message = await asyncio.to_thread(consumer.receive, WAIT_MS)
                except pulsar.Timeout:
                    continue
                await handle(decode(message.data()))
                await asyncio.to_thread(consumer.acknowledge, message)

        listening = asyncio.create_task(listen())
        yield
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await asyncio.to_thread(consumer.unsubscribe)

    def peer(self) -> Peer | None:
        return None  # FastStream has no Pulsar


def twin(url: str, partitions: int) -> Twin:
    return Twin(url, partitions)
