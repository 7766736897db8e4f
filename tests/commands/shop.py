"""A shop whose commands are sent here: SQL, events and an aggregate, all in one handler."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from eventspine import Aggregate, Command, Delivery, Event, Reject, Service, applies


class OrderPlaced(Event, context="orders", key="order_id"):
    order_id: str
    sku: str
    units: int


class Charged(Event, context="accounts", key="account"):
    account: str
    units: int


class PlaceOrder(Command[UUID], context="orders", key="customer"):
    customer: str = "ann"
    sku: str = "teapot"
    units: int = 1


class Cancel(Command[None], context="orders", key="order_id"):
    order_id: str


class TooMany(Exception):
    """The shop's own word for no."""


class Customer(Aggregate):
    units: int = 0

    def charge(self, units: int) -> None:
        if self.units + units > 100:
            raise TooMany(f"{self.id} has {self.units}, and wants {units} more")
        self.record(Charged(account=self.id, units=units))

    @applies(Charged)
    def _charged(self, event: Charged) -> None:
        self.units += event.units


def tables(connection: Any) -> None:
    connection.execute("create table orders_rows (id text primary key, sku text, units int)")


class Shop:
    """`called`: the commands that the handler was called with, in this process."""

    def __init__(self, *, sql: bool = True) -> None:
        self.called: list[PlaceOrder] = []
        self.service: Service[None] = Service(
            "orders", publishes=["orders", "accounts"], tables=tables if sql else None
        )
        self.sql = sql

        @self.service.command(PlaceOrder)
        async def place(command: PlaceOrder, delivery: Delivery) -> UUID:
            self.called.append(command)
            id = uuid4()
            customer = await delivery.load_or_new(Customer, command.customer)
            customer.charge(command.units)
            if command.sku == "none":
                raise Reject("there is no such thing")
            if self.sql:
                row = {"id": str(id), "sku": command.sku, "units": command.units}
                delivery.execute("insert into orders_rows values (:id, :sku, :units)", **row)
            delivery.publish(OrderPlaced(order_id=str(id), sku=command.sku, units=command.units))
            delivery.save(customer)
            return id
