"""Channels are interleaved at random (R18); within a channel and key order stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventspine import Service, Spine, testing

from .shop import OrderPlaced, StockReserved, make_plain_inventory


def ledger() -> tuple[Service[Any], list[tuple[str, str]]]:
    """A handler of two channels that takes for granted that an order comes before what it caused."""
    service: Service[Any] = Service("ledger")
    seen: list[tuple[str, str]] = []
    open_orders: set[str] = set()

    @service.on(OrderPlaced, StockReserved)
    async def enter(event: OrderPlaced | StockReserved) -> None:
        seen.append((type(event).__name__, event.order_id))
        if isinstance(event, OrderPlaced):
            open_orders.add(event.order_id)
        else:
            open_orders.remove(event.order_id)  # KeyError, when the order has not been seen

    return service, seen


async def ten_orders(**options: Any) -> list[tuple[str, str]]:
    service, seen = ledger()
    async with testing.spine(make_plain_inventory(), service, **options) as spine:
        for number in range(10):
            await spine.publish(OrderPlaced(order_id=str(number), sku=f"sku-{number % 2}"))
            await spine.idle()
    return seen


@pytest.mark.parametrize("sql", [False, True])
async def test_a_handler_that_relies_on_causal_order_passes_without_interleaving(sql: bool) -> None:
    assert len(await ten_orders(interleave=False, sql=sql)) == 20


@pytest.mark.parametrize("sql", [False, True])
async def test_a_handler_that_relies_on_causal_order_fails_with_it(sql: bool) -> None:
    with pytest.raises(KeyError) as caught:
        await ten_orders(seed=1, sql=sql)
    assert any("seed=1" in note for note in caught.value.__notes__)


async def test_the_seed_repeats_the_order() -> None:
    async def seen(seed: int) -> list[tuple[str, str]]:
        service, entries = ledger()
        async with testing.spine(make_plain_inventory(), service, seed=seed, failures="retry") as spine:
            await spine.publish(*[OrderPlaced(order_id=str(number), sku=f"sku-{number % 5}") for number in range(50)])
            await spine.idle()
        return entries

    first = await seen(7)
    assert await seen(7) == first
    assert await seen(8) != first


async def test_within_a_channel_and_key_order_stays() -> None:
    service, seen = Service("ledger"), list[tuple[str, str, int]]()

    @service.on(OrderPlaced, StockReserved)
    async def enter(event: OrderPlaced | StockReserved) -> None:
        seen.append((type(event).__name__, event.sku, int(event.order_id)))
        await asyncio.sleep(0)

    async with testing.spine(make_plain_inventory(), service, seed=3) as spine:
        for start in range(0, 300, 100):
            await spine.publish(
                *[OrderPlaced(order_id=str(number), sku=f"sku-{number % 7}") for number in range(start, start + 100)]
            )
        await spine.idle()
    assert len(seen) == 600
    for kind, sku in {entry[:2] for entry in seen}:
        numbers = [number for *lane, number in seen if lane == [kind, sku]]
        assert numbers == sorted(numbers)


async def test_what_is_held_back_comes_while_others_are_at_work() -> None:
    """Each waits for the other's second event: held back until nothing is at work, this would never end."""
    service, handled = Service("ledger"), list[tuple[str, str]]()

    async def until(entry: tuple[str, str]) -> None:
        while entry not in handled:
            await asyncio.sleep(0.001)

    @service.on(OrderPlaced, StockReserved)
    async def enter(event: OrderPlaced | StockReserved) -> None:
        if isinstance(event, OrderPlaced) and event.order_id == "0":
            await until(("StockReserved", "1"))
        if isinstance(event, StockReserved) and event.order_id == "2":
            await until(("OrderPlaced", "3"))
        handled.append((type(event).__name__, event.order_id))

    for seed in range(5):
        handled.clear()
        async with testing.spine(service, seed=seed) as spine:
            await spine.publish(
                *[kind(order_id=str(number)) for number in range(4) for kind in (OrderPlaced, StockReserved)]
            )
            await spine.idle()
        assert len(handled) == 8


async def test_who_waits_for_a_handler_by_itself_is_not_kept_waiting() -> None:
    """Without idle() nothing else would show what is held back."""
    service, reached = Service("ledger"), asyncio.Event()

    @service.on(OrderPlaced, StockReserved)
    async def enter(event: OrderPlaced | StockReserved) -> None:
        reached.set()

    for seed in range(5):
        reached.clear()
        async with testing.spine(service, seed=seed) as spine:
            await spine.publish(OrderPlaced(order_id="A"))
            await asyncio.wait_for(reached.wait(), 10)


async def test_the_embedded_broker_mixes_channels_in_production_too() -> None:
    """As far as it costs nothing: what is ready together is handed out in no order, and nothing is held back."""
    service: Service[Any] = Service("ledger")
    seen: list[str] = []

    @service.on(OrderPlaced, StockReserved)
    async def of_two(event: OrderPlaced | StockReserved) -> None:
        seen.append(event.order_id)

    @service.on(OrderPlaced)
    async def of_one(event: OrderPlaced) -> None: ...

    outside: Service[Any] = Service("outside", publishes=("orders", "inventory"))
    async with Spine("memory://", service=outside) as spine:
        await spine.publish(
            *[kind(order_id=str(n), sku=str(n)) for n in range(50) for kind in (OrderPlaced, StockReserved)]
        )
        async with spine.running(service):
            (host,) = spine._runtimes[0].hosts
            two, one = host.subscriptions
            assert two.lanes._shuffle is host.broker.shuffle is spine.clock.random
            assert one.lanes._shuffle is None
            async with asyncio.timeout(10):
                while len(seen) < 100:
                    await asyncio.sleep(0)
    assert sorted(seen) == sorted(str(n) for n in range(50) for _ in range(2))
    assert seen != [str(n) for n in range(50) for _ in range(2)]
