"""A Pulsar to try things on: its broker opened, messages sent and taken, what the server says of a topic."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import _pulsar
import pulsar
import pytest

from eventspine.brokers import _pulsar_sender, open_broker
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers._pulsar_intake import PulsarIntake
from eventspine.brokers.port import Fetched, Message, Needs, Start
from eventspine.brokers.pulsar import PulsarBroker
from eventspine.testing.servers import Server

WAIT_S = 60.0
CHANNEL = "orders"
CONSUMER = f"stock.{CHANNEL}"
NEEDS = Needs([CHANNEL], [(CHANNEL, CONSUMER)])


def url_of(server: Any, address: str = "", **options: str) -> str:
    """Names that nobody else uses."""
    said = {"admin": server.admin_url, "partitions": "2", "prefix": f"t{uuid4().hex[:10]}.", **options}
    return f"{address or server.url}/public/default?{'&'.join(f'{name}={value}' for name, value in said.items())}"


@asynccontextmanager
async def opened(url: str, needs: Needs = NEEDS) -> AsyncIterator[PulsarBroker]:
    broker = open_broker(url)
    assert isinstance(broker, PulsarBroker)
    await broker.open()
    try:
        await broker.apply(needs)
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def reading(
    broker: PulsarBroker, *, after: dict[int, int] | None = None, start: Start = "earliest"
) -> AsyncIterator[PulsarIntake]:
    intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
    try:
        for partition in sorted(intake.assigned()):
            await intake.begin(partition, after=(after or {}).get(partition), start=start, epoch=1)
        yield intake
    finally:
        await intake.close()


def message(number: int, *, slot: int = 0, data: bytes = b"{}", more: dict[str, str] | None = None) -> Message:
    headers = {"ce_id": str(number), "ce_type": "orders.Placed", **(more or {})}
    return Message(CHANNEL, slot, f"key {slot}", str(number), headers, "application/json", data)


async def sent(broker: PulsarBroker, *messages: Message) -> None:
    assert [None] * len(messages) == list(await broker.send(messages))


async def take(intake: PulsarIntake, count: int, most: int = 1000) -> list[Fetched]:
    found: list[Fetched] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await intake.fetch(min(most, count - len(found)), 0.5)
    return found


def numbers(fetched: list[Fetched]) -> list[int]:
    return [int(one.headers["ce_id"]) for one in fetched]


async def until(true: Callable[[], Any], what: str) -> None:
    """An answer of the server that takes its time."""
    give_up = monotonic() + WAIT_S
    while not await true():
        assert monotonic() < give_up, what
        await asyncio.sleep(0.1)


async def stats(broker: PulsarBroker, partition: int = 0) -> Any:
    topic = f"{broker.settings.topic(CHANNEL)}-partition-{partition}"
    return await Admin(broker.settings).get(f"{topic_path(topic)}/internalStats")


async def anchored_at(broker: PulsarBroker, partition: int = 0) -> tuple[int, ...]:
    """Ledger and entry up to which data may go."""
    cursor = (await stats(broker, partition))["cursors"][CONSUMER]
    return tuple(int(part) for part in cursor["markDeletePosition"].split(":"))


async def sent_somehow(broker: PulsarBroker, *messages: Message) -> None:
    async def done() -> bool:
        return all(answer is None for answer in await broker.send(messages))

    await until(done, "it to be taken")


def batches_of(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is sent when it has so many messages, however long that takes."""
    monkeypatch.setattr(_pulsar_sender, "BATCH_MESSAGES", count)
    monkeypatch.setattr(_pulsar_sender, "BATCH_WAIT_MS", 600_000)


def client_of(server: Server) -> pulsar.Client:
    return pulsar.Client(server.url, logger=pulsar.FileLogger(_pulsar.LoggerLevel.Error, os.devnull))
