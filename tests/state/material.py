"""Orders, who ordered them, and ways to wait."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from eventspine import Event, Retry, Service, Spine, View
from eventspine.journal.port import Journal

WAIT_S = 20.0  # the longest that a test waits for a condition; nothing waits that long unless it fails
ONCE = Retry(attempts=1)


class OrderPlaced(Event, context="orders", key="customer_id"):
    customer_id: str = "ann"
    amount: Decimal = Decimal(1)
    order_id: int = 0


class OrderCancelled(Event, context="orders", key="customer_id"):
    customer_id: str = "ann"
    amount: Decimal = Decimal(1)
    order_id: int = 0


class OrdersByCustomer(View, key="customer_id"):
    customer_id: str
    orders: int = 0
    spent: Decimal = Decimal(0)


def publisher() -> Service[Any]:
    return Service("storefront", publishes="orders")


def counting(**options: Any) -> Service[Any]:
    """A service that keeps OrdersByCustomer."""
    reports = Service[Any]("reports")

    @reports.projection(OrdersByCustomer, OrderPlaced, **options)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        row = view.row(event.customer_id)
        row.orders += 1
        row.spent += event.amount

    return reports


def connection_to(journal: Journal) -> Any:
    """One of the caller's own, on the same database."""
    if journal.dialect == "sqlite":
        return sqlite3.connect(journal.url.removeprefix("sqlite:///"))
    import psycopg

    return psycopg.connect(journal.target.conninfo)


async def until(condition: Callable[[], Awaitable[Any] | Any], limit_s: float = WAIT_S) -> Any:
    """What the condition gives, as soon as it is true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert loop.time() < end, "it did not come to that"
        await asyncio.sleep(0.005)


async def spent(spine: Spine, customer: str = "ann") -> Decimal | None:
    row = await spine.view(OrdersByCustomer).get(customer)
    return None if row is None else row.spent
