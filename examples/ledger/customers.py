"""The write side: a customer, whose state is a fold of their orders; and the read side: what each has spent."""

from __future__ import annotations

from datetime import datetime

from eventspine import Aggregate, Event, Service, View, applies


class Ordered(Event, context="ledger", key="customer"):
    customer: str
    units: int
    cents: int


class Customer(Aggregate, snapshot_every=50):
    orders: int = 0
    cents: int = 0

    def order(self, units: int, cents: int, time: datetime) -> None:
        self.record(Ordered(customer=self.id, units=units, cents=cents), time=time)

    @applies(Ordered)
    def _ordered(self, event: Ordered) -> None:
        self.orders += 1
        self.cents += event.cents


class Spent(View, key="customer"):
    customer: str
    orders: int = 0
    cents: int = 0


class Spent2(View, key="customer", name="spent", version=2):
    customer: str
    orders: int = 0
    cents: int = 0
    largest: int = 0


def release_1() -> Service[None]:
    ledger = Service("ledger")

    @ledger.projection(Spent, Ordered)
    def spent(view: View[Spent], event: Ordered) -> None:
        row = view.row(event.customer)
        row.orders += 1
        row.cents += event.cents

    return ledger


def release_2() -> Service[None]:
    """Keeps version 1, and builds version 2 beside it."""
    ledger = release_1()

    @ledger.projection(Spent2, Ordered, name="spent")
    def spent_2(view: View[Spent2], event: Ordered) -> None:
        row = view.row(event.customer)
        row.orders += 1
        row.cents += event.cents
        row.largest = max(row.largest, event.cents)

    return ledger
