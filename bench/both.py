"""Publish in batches of 100 and handle, in one process: durable and in memory, beside FastStream's in-memory broker."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Iterator, Sequence
from decimal import Decimal
from time import perf_counter

from eventspine import Service, Spine

from .figures import Figure, Leg, in_turns, per_second
from .material import OrderPlaced, orders, portions, storefront
from .places import folder
from .sizes import Sizes

BATCH = 100
KEYS = 1_000
PUBLISHERS = 8
PEER = "FastStream's TestNatsBroker, in memory"
MISSING = "FastStream is not installed: pip install 'faststream[nats]'"


async def measure(sizes: Sizes) -> list[Figure]:
    events = orders(sizes.both, KEYS)
    with folder() as where:
        number = iter(range(1_000_000))

        async def durable() -> float:
            return await _publish_and_handle(f"sqlite:///{where}/{next(number)}.db", events)

        async def memory() -> float:
            return await _publish_and_handle("memory://", events)

        legs: dict[str, Leg] = {"durable": durable, "memory": memory}
        if (peer := _peer(max(500, len(events) // 15))) is not None:
            legs["peer"] = peer
        rounds = await in_turns(legs, sizes.rounds)
    beside = [f"{PEER}: {per_second(rounds.rate('peer'))}" if "peer" in legs else MISSING]
    return [
        Figure(
            f"{PUBLISHERS} publishers of batches of {BATCH}, and handle, {text}",
            per_second(rounds.rate(leg)),
            f"≥ {goal}× {PEER}",
            rounds.spread(leg, "peer") if "peer" in legs else "",
            beside,
            {"events": len(events), "rates": rounds.rates},
        )
        for leg, text, goal in (("durable", "durable (SQLite)", 10), ("memory", "in memory", 15))
    ]


async def _publish_and_handle(url: str, events: Sequence[OrderPlaced]) -> float:
    service: Service[None] = Service("inventory")
    finished = asyncio.Event()
    left = len(events)

    @service.on(OrderPlaced)
    async def reserve(_: OrderPlaced) -> None:
        nonlocal left
        left -= 1
        if not left:
            finished.set()

    async with Spine(url, service=storefront) as spine:
        async with spine.running(service):
            began = perf_counter()
            batches = iter(portions(events, BATCH))
            await asyncio.gather(*(_publish(spine, batches) for _ in range(PUBLISHERS)))
            await finished.wait()
        return len(events) / (perf_counter() - began)


async def _publish(spine: Spine, batches: Iterator[Sequence[OrderPlaced]]) -> None:
    """One of several publishers, each of which waits until its batch is stored before it sends the next."""
    for some in batches:
        await spine.publish(*some)


def _peer(count: int) -> Leg | None:
    """Publishes one by one, since its brokers have no batches in common; a pydantic model, as its guide shows."""
    logging.getLogger("faststream").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from faststream.nats import NatsBroker, TestNatsBroker
            from pydantic import BaseModel
        except ImportError:
            return None

    class Order(BaseModel):
        order_id: str
        customer_id: str
        sku: str
        units: int
        amount: Decimal

    events = [Order(**{name: getattr(event, name) for name in Order.model_fields}) for event in orders(count, KEYS)]

    async def peer() -> float:
        broker = NatsBroker(logger=None)
        handled = 0

        @broker.subscriber("orders")
        async def reserve(_: Order) -> None:
            nonlocal handled
            handled += 1

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            async with TestNatsBroker(broker, connect_only=False):
                began = perf_counter()
                for event in events:
                    await broker.publish(event, "orders")
                seconds = perf_counter() - began
        if handled != len(events):
            raise RuntimeError(f"FastStream handled {handled} of {len(events)}")
        return handled / seconds

    return peer
