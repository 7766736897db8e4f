"""CloudEvents on Kafka, with the official SDK and a raw client on the other side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Consumer, Producer

from eventspine import Delivery, Event, Foreign, Service, Spine
from eventspine.testing.servers import Server

WAIT_S = 60.0


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int


class Place:
    def __init__(self, server: Server) -> None:
        self.address = server.address
        self.prefix = f"t{uuid4().hex[:10]}."
        self.topic = f"{self.prefix}orders"
        self.url = f"{server.url}/?partitions=4&prefix={self.prefix}"
        self.handled: list[Placed] = []
        self.envelopes: list[Any] = []

    def reading(self) -> Service[None]:
        service: Service[None] = Service("stock", publishes=[])

        @service.on(Placed)
        async def take(event: Placed, delivery: Delivery) -> None:
            self.handled.append(event)
            self.envelopes.append(delivery.envelope)

        return service

    def produce(self, *messages: kafka.KafkaMessage) -> None:
        """As somebody does who has the SDK's message and a client."""
        producer = Producer({"bootstrap.servers": self.address})
        for message in messages:
            producer.produce(self.topic, value=message.value, key=message.key, headers=dict(message.headers))
        assert producer.flush(30) == 0


@pytest.fixture
def place(kafka_server: Server) -> Iterator[Place]:
    yield Place(kafka_server)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


def theirs(number: int, **attributes: Any) -> CloudEvent:
    own = {
        "id": f"their {number}",
        "source": "//till/3",
        "type": "orders.Placed",
        "datacontenttype": "application/json",
    }
    return CloudEvent(
        {**own, "time": datetime(2024, 2, 29, tzinfo=UTC), **attributes}, {"customer": "ann", "number": number}
    )


def consumed(place: Place, count: int) -> list[kafka.KafkaMessage]:
    consumer = Consumer(
        {"bootstrap.servers": place.address, "group.id": f"{place.prefix}other", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([place.topic])
    found: list[kafka.KafkaMessage] = []
    while len(found) < count:
        message = consumer.poll(WAIT_S)
        assert message is not None
        assert message.error() is None
        headers = {name: value for name, value in message.headers()}  # noqa: C416  whose values the stubs call text
        found.append(kafka.KafkaMessage(headers=headers, key=message.key(), value=message.value()))  # type: ignore[arg-type]
    consumer.close()
    return found


async def test_we_read_what_others_made_with_the_sdk(place: Place):
    async with Spine("memory://", broker=place.url) as stock, stock.running(place.reading()):
        await until(lambda: stock.health()["broker"]["intakes"][0]["partitions"])
        place.produce(
            kafka.to_binary_event(theirs(1, partitionkey="ann", tenant="Zo\u00eb")),
            kafka.to_structured_event(theirs(2, partitionkey="ann")),
            kafka.to_binary_event(theirs(1, partitionkey="ann")),  # again
            kafka.to_binary_event(theirs(3), key_mapper=lambda event: "ann"),
        )
        await until(lambda: len(place.handled) == 3)
    assert place.handled == [Placed(customer="ann", number=number) for number in (1, 2, 3)]
    first = place.envelopes[0]
    assert (first.key, first.source, first.extensions["tenant"]) == ("ann", "//till/3", "Zo\u00eb")
    assert first.extensions["foreignid"] == "their 1"
    assert first.time == datetime(2024, 2, 29, tzinfo=UTC)
    assert {one.key for one in place.envelopes} == {"ann"}, "a message's key is the partition key, by the binding"


async def test_others_read_what_we_publish_with_the_sdk(place: Place):
    storefront = Service("storefront", publishes="orders")
    async with Spine("memory://", service=storefront, broker=place.url) as store:
        receipt = await store.publish(Placed(customer="Zo\u00eb/1", number=7))
        await store.publish(Placed(customer="ann", number=8))
        messages = await asyncio.to_thread(consumed, place, 2)
    events = [kafka.from_kafka_event(message) for message in messages]
    event = next(one for one in events if one.get_data()["number"] == 7)  # type: ignore[index,call-overload]
    assert (event.get_id(), event.get_source(), event.get_type()) == (receipt.id, "storefront", "orders.Placed")
    assert event.get_data() == {"customer": "Zo\u00eb/1", "number": 7}
    assert event.get_datacontenttype() == "application/json"
    assert event.get_dataschema() == "urn:eventspine:orders.Placed:1"
    assert event.get_extension("partitionkey") == event.get_subject() == "Zo\u00eb/1"
    assert int(event.get_extension("sequence")) == 1
    assert abs((event.get_time() - datetime.now(UTC)).total_seconds()) < 300  # type: ignore[operator]


async def test_messages_that_are_no_cloudevents_are_read_by_a_decoder(place: Place):
    """Tombstones, binary keys and all; each event's id follows from where its message lies."""
    service, seen = place.reading(), list[Foreign]()

    @service.decoder("orders")
    def read(message: Foreign) -> Placed | None:
        seen.append(message)
        if not message.data:
            return None
        return Placed(customer="ann", number=int(message.data))

    async with Spine("memory://", broker=place.url) as stock, stock.running(service):
        await until(lambda: stock.health()["broker"]["intakes"][0]["partitions"])
        producer = Producer({"bootstrap.servers": place.address})
        for number in range(10):
            producer.produce(place.topic, b"%d" % number, key=b"\xff\x00", headers=[("h", b"v")], partition=1)
        producer.produce(place.topic, None, key=b"\xff\x00", partition=1)
        assert producer.flush(30) == 0
        await until(lambda: len(place.handled) == 10 and len(seen) == 11)
    assert [event.number for event in place.handled] == list(range(10))
    assert (seen[0].key, seen[0].headers, seen[10].data) == (b"\xff\x00", {"h": "v"}, b"")
    assert seen[0].time is not None
    assert abs((seen[0].time - datetime.now(UTC)).total_seconds()) < 300
