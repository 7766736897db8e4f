"""What is too large for the broker is refused where it is published, with both sizes; nothing is stored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from eventspine import Delivery, Event, Service, Spine
from eventspine.brokers.memory import MemoryBroker, server
from eventspine.errors import EventTooLarge
from eventspine.journal.memory import MemoryJournal


class Placed(Event, context="orders", key="customer"):
    customer: str
    note: str = ""


class Wanted(Event, context="wishes", key="customer"):
    customer: str


storefront = Service("storefront", publishes="orders")
SMALL = 2_000
LARGE = Placed(customer="ann", note="x" * SMALL)


def small_broker() -> MemoryBroker:
    broker = MemoryBroker(server(uuid4().hex))
    broker.features = replace(broker.features, message_bytes_max=SMALL)
    return broker


async def test_both_sizes_are_said_and_nothing_of_the_call_is_stored():
    journal = MemoryJournal()
    async with Spine(journal, service=storefront, broker=small_broker()) as spine:
        with pytest.raises(EventTooLarge, match=r"orders\.Placed is 2,\d\d\d bytes .* takes 2,000 at most") as caught:
            await spine.publish(Placed(customer="ann"), LARGE)
        assert SMALL == caught.value.details["limit_bytes"] < caught.value.details["size_bytes"]
        assert 0 == await journal.head()
        for options in ({"after": timedelta(days=1)}, {"id": str(uuid4())}):
            with pytest.raises(EventTooLarge):
                await spine.publish(LARGE, **options)
        await spine.publish(Placed(customer="ann"))


async def test_headers_count():
    broker = small_broker()
    async with Spine("memory://", service=storefront, broker=broker) as spine:
        with pytest.raises(EventTooLarge):
            await spine.publish(Placed(customer="ann", note="x" * (SMALL - 100)))


class Tagging:
    async def handle(self, event, delivery, proceed):
        return await proceed()

    def publish(self, event, attributes, proceed):
        attributes["tag"] = "x" * SMALL
        return proceed()


async def test_so_do_the_attributes_that_middleware_adds():
    async with Spine("memory://", service=storefront, broker=small_broker(), middleware=[Tagging()]) as spine:
        with pytest.raises(EventTooLarge):
            await spine.publish(Placed(customer="ann"))


async def test_without_a_broker_nothing_is_asked():
    async with Spine("memory://", service=storefront) as spine:
        await spine.publish(LARGE)


async def test_a_handler_that_publishes_too_much_has_failed():
    raised = []
    service = Service("shop", publishes=["wishes", "orders"])

    @service.on(Wanted, start="earliest")
    async def order(event: Wanted, delivery: Delivery) -> None:
        try:
            delivery.publish(LARGE)
        except EventTooLarge as error:
            raised.append(error)

    async with Spine("memory://", service=service, broker=small_broker()) as spine, spine.running(service):
        await spine.publish(Wanted(customer="ann"))
        async with asyncio.timeout(30):
            while not raised:
                await asyncio.sleep(0.01)


async def test_the_limit_of_the_live_broker_counts():
    broker = small_broker()
    async with Spine("memory://", service=storefront, broker=broker) as spine:
        broker.features = replace(broker.features, message_bytes_max=1_000_000)
        await spine.publish(LARGE)
