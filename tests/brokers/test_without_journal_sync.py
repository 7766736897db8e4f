"""Sending without a journal, from programs without an event loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Event, Service, unrecorded
from eventspine.brokers.memory import MemoryBroker, server
from eventspine.errors import BrokerError, EventRefused, OutcomeUnknown, SpineClosed, WouldDeadlock
from eventspine.sync import Spine
from eventspine.sync.unrecorded import WithoutJournal
from tests.servers import needed


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int


storefront = Service("storefront", publishes="orders")


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with needed("nats")(tmp_path_factory.mktemp("nats")) as running:
        yield running.url


@pytest.fixture(params=["memory", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    name = uuid4().hex
    return f"memory://{name}" if request.param == "memory" else f"{request.getfixturevalue('nats')}/?prefix={name}."


def until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def heard(url: str) -> Iterator[list[tuple[str, int]]]:
    """What a subscriber with a journal handles."""
    found: list[tuple[str, int]] = []
    inventory: Service[None] = Service("inventory")

    @inventory.on(Placed, start="earliest")
    def take(event: Placed) -> None:
        found.append((event.customer, event.number))

    with Spine("memory://", broker=url) as spine, spine.running(inventory):
        yield found


def test_what_many_threads_send_is_handled_in_order_per_key(url: str, heard: list[tuple[str, int]]) -> None:
    with WithoutJournal(url, service=storefront) as sender, ThreadPoolExecutor(8) as threads:

        def send(customer: int) -> None:
            for number in range(10):
                sender.send(Placed(customer=f"c{customer}", number=number))

        list(threads.map(send, range(8)))
        until(lambda: len(heard) == 80)
    for n in range(8):
        assert list(range(10)) == [number for customer, number in heard if customer == f"c{n}"]


def test_it_has_the_names_of_the_other_and_their_arguments() -> None:
    blocking, other = WithoutJournal("memory://names", service=storefront), unrecorded.WithoutJournal
    ours = {name for name in vars(WithoutJournal) if not name.startswith("_")}
    assert ours == {name for name in vars(other) if not name.startswith("_")} | {"broker", "service"}
    assert storefront is blocking.service
    assert "memory://names" == blocking.broker.url


def test_its_errors_are_the_same() -> None:
    there = server(uuid4().hex)
    with WithoutJournal(MemoryBroker(there), service=storefront) as sender:
        there.lose_answers = 1
        with pytest.raises(OutcomeUnknown) as caught:
            sender.send(Placed(customer="ann", number=1))
        for id, event in caught.value.details["unknown"].items():
            assert [id] == sender.send(event, id=id)
        with pytest.raises(EventRefused, match="no event"):
            sender.send()
    assert 2 == there.sent


def test_where_nobody_answers_it_says_so_and_is_not_open() -> None:
    there = server(uuid4().hex)
    there.stop()
    with pytest.raises(BrokerError, match="away"), WithoutJournal(MemoryBroker(there), service=storefront):
        pytest.fail("it is not open")


def test_closed_it_refuses_and_opened_again_it_sends() -> None:
    there = server(uuid4().hex)
    sender = WithoutJournal(MemoryBroker(there), service=storefront)
    sender.send(Placed(customer="ann", number=1))  # connects at first use
    sender.close()
    with pytest.raises(SpineClosed):
        sender.send(Placed(customer="ann", number=2))
    with sender:
        sender.send(Placed(customer="ann", number=3))
    assert 2 == there.sent


def test_a_forked_child_connects_anew(nats: str) -> None:
    url = f"{nats}/?prefix={uuid4().hex}."
    with WithoutJournal(url, service=storefront) as sender:
        sender.send(Placed(customer="ann", number=1))
        child = multiprocessing.get_context("fork").Process(target=_send_one, args=(sender,))
        child.start()
        child.join(60)
        assert 0 == child.exitcode
        sender.send(Placed(customer="ann", number=3))


def _send_one(sender: WithoutJournal) -> None:
    sender.send(Placed(customer="ann", number=2))


def test_in_the_loop_that_would_have_to_answer_it_says_so() -> None:
    sender = WithoutJournal("memory://inside", service=storefront)

    async def inside() -> None:
        with pytest.raises(WouldDeadlock):
            sender.send(Placed(customer="ann", number=1))

    asyncio.run_coroutine_threadsafe(inside(), sender._loop._running()).result(30)
    sender.close()
