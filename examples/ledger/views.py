"""The read side, made of the events: what each account has, what was sold in each month, what each customer has spent."""

from __future__ import annotations

from eventspine import Service, View

from .accounts import Booked, Posted, write_side
from .entries import SALES


class Balance(View, key="account"):
    account: str
    cents: int = 0


class Revenue(View, key="month"):
    month: str
    cents: int = 0


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
    ledger = write_side()

    @ledger.projection(Balance, Posted, Booked)
    def balance(view: View[Balance], event: Posted | Booked) -> None:
        view.row(event.account).cents += event.cents

    @ledger.projection(Revenue, Booked)
    def revenue(view: View[Revenue], event: Booked) -> None:
        if event.account == SALES:
            view.row(event.month).cents += event.cents

    @ledger.projection(Spent, Posted)
    def spent(view: View[Spent], event: Posted) -> None:
        if event.what == "order":
            row = view.row(event.account)
            row.orders += 1
            row.cents -= event.cents

    return ledger


def release_2() -> Service[None]:
    """Keeps version 1 of what customers have spent, and builds version 2 beside it."""
    ledger = release_1()

    @ledger.projection(Spent2, Posted, name="spent")
    def spent_2(view: View[Spent2], event: Posted) -> None:
        if event.what == "order":
            row = view.row(event.account)
            row.orders += 1
            row.cents -= event.cents
            row.largest = max(row.largest, -event.cents)

    return ledger
