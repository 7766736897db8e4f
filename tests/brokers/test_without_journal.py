"""Sending without a journal: what is kept of the promise, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventspine import Delivery, Event, Middleware, Service, Spine
from eventspine.brokers.memory import MESSAGE_BYTES_MAX, MemoryBroker, server
from eventspine.brokers.port import Message, Sent
from eventspine.errors import (
    BrokerError,
    EventRefused,
    EventTooLarge,
    MessageRefused,
    OutcomeUnknown,
    UnknownPublisher,
)
from eventspine.unrecorded import WithoutJournal
from tests.servers import needed

WAIT_S = 60.0


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int
    note: str = ""


class Foreign(Event, context="stock", key="customer"):
    customer: str


storefront = Service("storefront", publishes="orders")


@pytest.fixture(scope="module")
def nats(tmp_path_factory) -> Iterator[str]:
    with needed("nats")(tmp_path_factory.mktemp("nats")) as running:
        yield running.url


@pytest.fixture(params=["memory", "nats"])
def url(request) -> str:
    name = uuid4().hex
    return f"memory://{name}" if request.param == "memory" else f"{request.getfixturevalue('nats')}/?prefix={name}."


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def heard(url: str) -> AsyncIterator[list[tuple[str, int, str]]]:
    """What a subscriber with a journal handles."""
    found: list[tuple[str, int, str]] = []
    inventory: Service[None] = Service("inventory")

    @inventory.on(Placed)
    async def take(event: Placed, delivery: Delivery) -> None:
        found.append((event.customer, event.number, delivery.event_id))

    async with Spine("memory://", broker=url) as spine, spine.running(inventory):
        yield found


async def test_what_is_sent_is_handled_in_order_per_key(url, heard):
    async with WithoutJournal(url, service=storefront) as sender:
        for number in range(20):
            await sender.send(*(Placed(customer=f"c{n}", number=number) for n in range(20)))
        await until(lambda: len(heard) == 400)
    for n in range(20):
        assert list(range(20)) == [number for customer, number, _ in heard if customer == f"c{n}"]


async def test_sent_again_under_its_id_it_is_handled_once(url, heard):
    id = str(uuid4())
    async with WithoutJournal(url, service=storefront) as sender:
        assert [id] == await sender.send(Placed(customer="ann", number=1), id=id)
        await until(lambda: heard)
        await sender.send(Placed(customer="ann", number=1), id=id)
        await sender.send(Placed(customer="ann", number=2))
        await until(lambda: heard[-1][1] == 2)
    assert [1, 2] == [number for _, number, _ in heard]
    assert id == heard[0][2]


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # which loses answers at will
async def test_an_unknown_outcome_is_raised_with_what_to_send_again(heard, url):
    there = server(url.removeprefix("memory://"))
    events = [Placed(customer="ann", number=number) for number in range(3)]
    async with WithoutJournal(url, service=storefront) as sender:
        there.lose_answers = 1
        with pytest.raises(OutcomeUnknown, match="3 of 3 may be at") as caught:
            await sender.send(*events)
        unknown = caught.value.details["unknown"]
        assert events == list(unknown.values())
        for id, event in unknown.items():
            await sender.send(event, id=id)
        await until(lambda: len(heard) == 3)
    assert 6 == there.sent
    assert list(unknown) == [id for _, _, id in heard]


async def test_what_is_refused_for_good_is_named_and_the_others_are_there():
    there = server(uuid4().hex)
    there.refuse = lambda message: "no such customers" if b"poison" in message.data else ""
    async with WithoutJournal(MemoryBroker(there), service=storefront) as sender:
        with pytest.raises(MessageRefused, match="1 of 2") as caught:
            await sender.send(Placed(customer="ann", number=1, note="poison"), Placed(customer="bob", number=1))
    ((id, why),) = caught.value.details["refused"].items()
    assert (UUID(id).version, why, there.sent) == (7, "no such customers", 1)


async def test_what_has_certainly_not_left_is_no_unknown_outcome(monkeypatch: pytest.MonkeyPatch):
    broker = MemoryBroker(server(uuid4().hex))
    first, second = Placed(customer="ann", number=1), Placed(customer="bob", number=1)

    async def send(messages: Sequence[Message]) -> Sequence[Sent]:
        return [BrokerError("the topic has 6 partitions, and the URL says 4", sent=False), None][: len(messages)]

    async with WithoutJournal(broker, service=storefront) as sender:
        monkeypatch.setattr(broker, "send", send)
        with pytest.raises(BrokerError, match="1 of 2 was not sent to .*: the topic has 6 partitions") as refused:
            await sender.send(first, second)
    assert not isinstance(refused.value, OutcomeUnknown)
    assert [first] == list(refused.value.details["unsent"].values())


async def test_while_the_broker_is_away_nothing_is_kept():
    there = server(uuid4().hex)
    there.stop()
    sender = WithoutJournal(MemoryBroker(there), service=storefront)
    with pytest.raises(BrokerError, match="away"):
        await sender.send(Placed(customer="ann", number=1))
    there.restart()
    await sender.send(Placed(customer="ann", number=2))
    assert 1 == there.sent


async def test_too_much_is_refused_with_both_sizes_and_nothing_is_sent():
    there = server(uuid4().hex)
    async with WithoutJournal(MemoryBroker(there), service=storefront) as sender:
        with pytest.raises(EventTooLarge, match=f"takes {MESSAGE_BYTES_MAX:,} at most"):
            await sender.send(Placed(customer="a", number=1), Placed(customer="a", number=2, note="x" * 999_900))
    assert 0 == there.sent


async def test_it_is_not_numbered_and_carries_what_middleware_adds():
    class Tenant(Middleware):
        def publish(self, event, attributes, proceed):
            attributes["tenant"] = "north"
            return proceed()

    there = server(uuid4().hex)
    async with WithoutJournal(MemoryBroker(there), service=storefront, middleware=[Tenant()]) as sender:
        await sender.send(Placed(customer="ann", number=1))
    (message,) = [message for part in there.topic("orders") for message in part]
    assert "north" == message.headers["ce_tenant"]
    assert not {"ce_sequence", "ce_spineorigin"} & set(message.headers)


async def test_bad_input_is_refused_before_anything_is_sent(url):
    async with WithoutJournal(url, service=storefront) as sender:
        with pytest.raises(EventRefused, match="no event"):
            await sender.send()
        with pytest.raises(EventRefused, match="names one event"):
            await sender.send(Placed(customer="a", number=1), Placed(customer="a", number=2), id=str(uuid4()))
        with pytest.raises(EventRefused, match="ids are UUIDs"):
            await sender.send(Placed(customer="a", number=1), id="one")
        with pytest.raises(UnknownPublisher, match="publishes orders"):
            await sender.send(Foreign(customer="a"))
