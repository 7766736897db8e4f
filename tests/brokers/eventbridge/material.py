"""What tests of EventBridge with SQS are made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import botocore.session
from botocore.config import Config

from eventspine.brokers.binding import incoming
from eventspine.brokers.eventbridge import EventBridgeBroker, from_url
from eventspine.brokers.port import Fetched, Message, Needs
from eventspine.testing.servers import Server

WAIT_S = 30.0
NEEDS = Needs(["orders"], [("orders", "stock.orders")])


def url_of(endpoint: str, bus: str, **options: Any) -> str:
    given = {"endpoint": endpoint, "poll_s": 1, "timeout_s": 5, **options}
    return f"eventbridge://key:secret@us-east-1/{bus}?" + "&".join(f"{name}={value}" for name, value in given.items())


@asynccontextmanager
async def broker_at(endpoint: str, bus: str, needs: Needs = NEEDS, **options: Any) -> AsyncIterator[EventBridgeBroker]:
    broker = from_url(url_of(endpoint, bus, **options))
    await broker.open()
    try:
        await broker.apply(needs)
        yield broker
    finally:
        await broker.close()


@cache
def raw(server: Server, service: str) -> Any:
    """Another program's client."""
    return botocore.session.get_session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="other",
        aws_secret_access_key="other",
        config=Config(retries={"total_max_attempts": 1}),
    )


def message(number: int, slot: int = 0, data: bytes | None = None, **headers: str) -> Message:
    own = {
        "specversion": "1.0",
        "id": f"018c0000-0000-7000-8000-{number:012x}",
        "source": "shop",
        "type": "orders.Placed",
        "sequence": f"{number:020d}",
        "spineslot": str(slot),
        "spineorigin": "a-journal.1",
        "partitionkey": f"key {slot}",
    }
    found = {f"ce-{name}": value for name, value in {**own, **headers}.items()}
    content = json.dumps({"number": number}, separators=(",", ":")).encode() if data is None else data
    return Message("orders", slot, f"key {slot}", own["id"], found, "application/json", content)


def number_of(fetched: Fetched) -> int:
    arrived = incoming(fetched, "orders", "ce-", 1)
    assert arrived.number is not None
    return arrived.number.number


async def fetch(intake: Any, count: int) -> list[Fetched]:
    found: list[Fetched] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await intake.fetch(100, 0.2)
    return found


async def begun(broker: EventBridgeBroker, consumer: str = "stock.orders", start: Any = "now") -> Any:
    intake = await broker.intake("orders", consumer, lambda: None)
    for partition in sorted(intake.assigned()):
        await intake.begin(partition, after=None, start=start, epoch=1)
    return intake


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


def all_of(queue_url: str, sqs: Any) -> list[str]:
    """What is in a queue; it is taken out."""
    found: list[str] = []
    while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages"):
        for one in messages:
            found.append(one["Body"])
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=one["ReceiptHandle"])
    return found
