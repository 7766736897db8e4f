"""CloudEvents on NATS, with the official SDK and a raw client on the other side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import nats
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from nats.aio.client import Client

from eventspine import Delivery, Event, Service, Spine
from eventspine.testing.servers import Server

WAIT_S = 60.0


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int


@pytest.fixture
async def other(nats_server: Server) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def test_we_read_what_others_made_with_the_sdk(nats_server: Server, other: Client):
    """NATS' binding writes attributes as that of HTTP does: as headers named ce-…, percent-encoded."""
    prefix = f"t{uuid4().hex[:10]}."
    handled: list[tuple[Placed, Any]] = []
    service: Service[None] = Service("stock", publishes=[])

    @service.on(Placed, start="earliest")
    async def take(event: Placed, delivery: Delivery) -> None:
        handled.append((event, delivery.envelope))

    attributes = {"source": "//other", "type": "orders.Placed", "partitionkey": "Zoë", "tenant": "Søn & Co"}
    binary = to_binary_event(
        CloudEvent(
            {**attributes, "id": "no uuid", "datacontenttype": "application/json"}, {"customer": "Zoë", "number": 1}
        ),
        JSONFormat(),
    )
    whole = to_structured_event(
        CloudEvent({**attributes, "id": "another"}, {"customer": "Zoë", "number": 2}), JSONFormat()
    )
    async with Spine("memory://", broker=f"{nats_server.url}/?prefix={prefix}") as spine, spine.running(service):
        for one in (binary, whole):
            await other.jetstream().publish(f"{prefix}orders.p0", one.body, headers=one.headers)
        async with asyncio.timeout(WAIT_S):
            while len(handled) < 2:
                await asyncio.sleep(0.01)
    assert [Placed(customer="Zoë", number=1), Placed(customer="Zoë", number=2)] == [event for event, _ in handled]
    for _, envelope in handled:
        assert ("//other", "Zoë") == (envelope.source, envelope.key)
        assert "Søn & Co" == envelope.attributes()["tenant"]


async def test_others_read_what_we_publish_with_the_sdk(nats_server: Server, other: Client):
    prefix = f"t{uuid4().hex[:10]}."
    url = f"{nats_server.url}/?prefix={prefix}"
    async with Spine("memory://", service=Service("shop", publishes="orders"), broker=url) as spine:
        receipt = await spine.publish(Placed(customer="Zoë", number=7))
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    found = await other.jetstream().subscribe(f"{prefix}orders.*", ordered_consumer=True)
                    break
                except nats.js.errors.NotFoundError:  # the spine makes the stream
                    await asyncio.sleep(0.05)
            message = await found.next_msg(timeout=WAIT_S)
    event = from_binary_event(HTTPMessage(dict(message.headers or {}), message.data), JSONFormat())
    assert (receipt.id, "orders.Placed", "shop") == (event.get_id(), event.get_type(), event.get_source())
    assert "Zoë" == event.get_extension("partitionkey")
    assert {"customer": "Zoë", "number": 7} == event.get_data()
