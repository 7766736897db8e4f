"""A relay that sends again what it has sent: rewound to mend a gap, or retired and back. Numbers that are in use stay so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Event, Service, Spine
from eventspine.brokers.memory import server
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Rewind, SetState, Subscription
from tests.servers import needed

WAIT_S = 15.0  # half of what an intake waits for a number that does not come


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int


storefront = Service("storefront", publishes="orders")


@pytest.fixture(params=["memory", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "nats":
        return f"{request.getfixturevalue('nats_server').url}/?prefix={uuid4().hex}."
    return f"memory://{uuid4().hex}"


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory):
    with needed("nats")(tmp_path_factory.mktemp("nats")) as running:
        yield running


def inventory(heard: list[int]) -> Service[None]:
    service: Service[None] = Service("inventory", publishes=[])

    @service.on(Placed)
    async def take(event: Placed) -> None:
        heard.append(event.number)

    return service


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def relay_of(journal: MemoryJournal) -> Subscription:
    return next(row for row in await journal.subscriptions("relay:orders") if row.state != "retired")


async def rewind(journal: MemoryJournal, upto: int) -> None:
    """Once it is stored that all of it was sent: before that a relay sends again under the numbers of before."""
    relay = (await relay_of(journal)).number
    async with asyncio.timeout(WAIT_S):
        while not any(cursor.position == upto for cursor in await journal.cursors([relay])):
            await asyncio.sleep(0.005)
    assert await journal.control([Rewind(relay, 0)])


async def test_what_a_rewound_relay_sends_again_leaves_no_hole_and_is_handled_once(url: str):
    """NATS drops what has the id of a message that it had lately: another number is another message."""
    heard: list[int] = []
    journal = MemoryJournal()
    async with (
        Spine(journal, service=storefront, broker=url) as store,
        Spine("memory://", broker=url) as stock,
        stock.running(inventory(heard)),
    ):
        await store.publish(*(Placed(customer="ann", number=number) for number in range(5)))
        await until(lambda: len(heard) == 5)
        await rewind(journal, 5)
        await until(lambda: store.health()["broker"]["relays"][0]["sent"] == 10)
        await store.publish(Placed(customer="ann", number=5))
        await until(lambda: heard[-1] == 5)
        assert heard == [0, 1, 2, 3, 4, 5]
        assert stock.health()["broker"]["intakes"][0]["gaps"] == 0


async def test_what_a_rewound_relay_sends_again_mends_a_gap(monkeypatch: pytest.MonkeyPatch):
    heard: list[int] = []
    journal, broker = MemoryJournal(), server(uuid4().hex)
    url, store_message = f"memory://{broker.name}", broker.store
    async with (
        Spine(journal, service=storefront, broker=url) as store,
        Spine("memory://", broker=url) as stock,
        stock.running(inventory(heard)),
    ):
        (intake,) = stock._carrying.intakes.values()  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(broker, "store", lambda message: b'"number":1}' in message.data or store_message(message))
            await store.publish(*(Placed(customer="ann", number=number) for number in range(3)))
            await until(lambda: intake.held)
            intake._patience_s = 0.0
            await until(lambda: heard == [0, 2])
        await rewind(journal, 3)
        await until(lambda: 1 in heard)
        await store.publish(Placed(customer="ann", number=3))
        await until(lambda: 3 in heard)
        assert heard == [0, 2, 1, 3]


async def test_a_relay_that_was_retired_goes_on_behind_the_numbers_that_it_has_used(url: str):
    """Under those of before, what is new would be taken for known, and lost without a word."""
    heard: list[int] = []
    journal = MemoryJournal()
    async with Spine("memory://", broker=url) as stock, stock.running(inventory(heard)):
        async with Spine(journal, service=storefront, broker=url) as store:
            await store.publish(*(Placed(customer="ann", number=number) for number in range(5)))
            await until(lambda: len(heard) == 5)
            await rewind(journal, 5)
            await until(lambda: store.health()["broker"]["relays"][0]["sent"] == 10)
        async with Spine(journal):
            assert await journal.control([SetState((await relay_of(journal)).number, "retired")])
        async with Spine(journal, service=storefront, broker=url) as store:
            await store.publish(Placed(customer="ann", number=5))
            await until(lambda: 5 in heard)
        assert heard == [0, 1, 2, 3, 4, 5]
