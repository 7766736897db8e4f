"""What the kit's tests run: a shop in four small services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventspine import Delivery, Event, Service


class OrderPlaced(Event, context="orders", key="sku"):
    order_id: str
    sku: str = "teapot"
    units: int = 1


class OrderReminded(Event, context="orders", key="sku"):
    sku: str = "teapot"


class StockReserved(Event, context="inventory", key="sku"):
    order_id: str
    sku: str = "teapot"


class Mailed(Event, context="email", key="sku"):
    order_id: str
    sku: str = "teapot"


class SmtpDown(Exception):
    pass


def inventory_tables(connection: Any) -> None:
    connection.execute("create table inventory_stock (sku text primary key, free integer not null)")
    connection.execute("insert into inventory_stock values ('teapot', 3), ('cup', 100)")


def make_inventory() -> Service[Any]:
    inventory: Service[Any] = Service("inventory", tables=inventory_tables)

    @inventory.on(OrderPlaced)
    async def reserve(event: OrderPlaced, delivery: Delivery) -> StockReserved:
        take = "update inventory_stock set free = free - :units where sku = :sku and free >= :units"
        delivery.execute(take, sku=event.sku, units=event.units, expect_rows=1)
        return StockReserved(order_id=event.order_id, sku=event.sku)

    return inventory


def make_plain_inventory() -> Service[Any]:
    """Without tables, so that the journal is one in memory."""
    inventory: Service[Any] = Service("inventory")

    @inventory.on(OrderPlaced)
    async def reserve(event: OrderPlaced) -> StockReserved:
        return StockReserved(order_id=event.order_id, sku=event.sku)

    return inventory


class Mailer:
    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, order_id: str) -> None:
        self.sent.append(order_id)


@asynccontextmanager
async def real_mailer() -> AsyncIterator[Mailer]:
    raise RuntimeError("the real mailer must not be started in a test")
    yield Mailer()


def make_email(**options: Any) -> Service[Mailer]:
    email: Service[Mailer] = Service("email", lifespan=real_mailer)

    @email.on(StockReserved, **options)
    async def confirm(event: StockReserved, delivery: Delivery[Mailer]) -> Mailed:
        await delivery.resources.send(event.order_id)
        return Mailed(order_id=event.order_id, sku=event.sku)

    return email
