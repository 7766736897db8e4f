"""What never came from a broker, as those are told who look at the journal later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from eventspine import Event, Service, Spine
from eventspine.brokers.memory import Server, server

WAIT_S = 30.0


class Sold(Event, context="sales", key="customer"):
    customer: str
    number: int


async def listen(url: str, broker: Server, wanted: int) -> None:
    heard = list[int]()
    service: Service[None] = Service("stock", publishes=[])
    service.on(Sold, name="note")(lambda event: heard.append(event.number))
    async with Spine(url, broker=f"memory://{broker.name}") as spine, spine.running(service):
        await until(lambda: spine._carrying.intakes)  # type: ignore[union-attr]
        (intake,) = spine._carrying.intakes.values()  # type: ignore[union-attr]
        intake._patience_s = 0.0
        await until(lambda: len(heard) == wanted)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def some_are_lost(url: str, broker: Server) -> list[Any]:
    """What the broker has lost: the third and fourth of six."""
    async with Spine("memory://", service=Service("shop", publishes="sales"), broker=f"memory://{broker.name}") as shop:
        await shop.publish(*(Sold(customer="ann", number=number) for number in range(6)))
        await until(lambda: broker.sent == 6)
    (part,) = [part for part in broker.topic("sales") if part]
    lost = [part.pop(2), part.pop(2)]
    await listen(url, broker, 4)
    return lost


def test_what_never_came_is_told_after_a_restart_until_it_comes_or_somebody_knows(say, tmp_path):
    url, broker = f"sqlite:///{tmp_path}/spine.db", server(uuid4().hex)
    third, _ = asyncio.run(some_are_lost(url, broker))
    told = say("doctor")
    assert 1 == told.exit_code
    assert "2 events of sales never came from the broker" in " ".join(told.stdout.split())

    broker.store(third)
    asyncio.run(listen(url, broker, 1))
    assert "1 event of sales never came from the broker" in " ".join(say("doctor").stdout.split())

    assert "1 gap of sales forgotten." in say("subscriptions", "forget-gaps", "sales").stdout
    assert "never came" not in say("doctor").stdout


def test_gaps_are_forgotten_of_what_an_intake_brings_in_and_of_nothing_else(say, story):
    refused = say("subscriptions", "forget-gaps", "orders")
    assert (2, True) == (refused.exit_code, "Nothing on this journal brings orders in" in refused.stderr)
