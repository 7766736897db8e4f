"""The events that everything is measured with, and backlogs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from random import Random
from typing import TypeVar

from eventspine import Event, Service, Spine
from eventspine.journal import open_journal
from eventspine.journal.port import Append, Record, Unit
from eventspine.observe.correlation import Cause

T = TypeVar("T")
UNIT = 1000  # events in one commit of a backlog
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class OrderPlaced(Event, context="orders", key="customer_id"):
    order_id: str
    customer_id: str
    sku: str
    units: int
    amount: Decimal


storefront: Service[None] = Service("storefront", publishes="orders")


def orders(count: int, keys: int, start: int = 0) -> list[OrderPlaced]:
    """The same ones every time. Few keys come in turn, as hot ones do; many come at random, as customers do."""
    random = Random(start)
    numbers = (n % keys for n in range(count)) if keys < count else (random.randrange(keys) for _ in range(count))
    return [
        OrderPlaced(
            order_id=f"order-{start + n:08d}",
            customer_id=f"customer-{number:07d}",
            sku=f"sku-{number % 97:03d}",
            units=1 + n % 5,
            amount=Decimal(1999 + n % 1000) / 100,
        )
        for n, number in enumerate(numbers)
    ]


def records(events: Sequence[OrderPlaced], *, correlated: bool = False) -> list[Record]:
    """As publishing makes them."""
    spine = Spine("memory://", service=storefront)
    cause = Cause("0190f5c1-7a52-7e7c-8e1e-2f9d6b1c0001", traceparent=TRACE) if correlated else None
    return spine.records(events, cause=cause, time=None, id=None)


def portions(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def backlog(url: str, count: int, keys: int, first: int = 0) -> None:
    """A journal with this many events, in commits of 1,000."""
    journal = open_journal(url)
    await journal.open()
    try:
        for start in range(first, first + count, UNIT):
            some = orders(min(UNIT, first + count - start), keys, start)
            (verdict,) = await journal.commit([Unit(appends=[Append(records(some))])])
            if not verdict.ok:
                raise RuntimeError(f"the backlog could not be written: {verdict}")
    finally:
        await journal.close()
