"""The books side by side: what the file of orders says must be, and what each service has kept.

An order is *lost* to a service that has no record of it, counted *twice* for each record beyond the first, and *out of
order* where it stands behind a later one of the same customer. Whatever else differs has a sentence of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from .kept import Kept
from .oracle import Expected

DIFFERENCES_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Book:
    """One column of figures. None: this one doesn't keep that figure."""

    orders: int
    customers: int | None = None
    units: int | None = None
    cents: int | None = None
    refused: int | None = None
    lost: int | None = None
    twice: int | None = None
    out_of_order: int | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """What happened while the shop ran, as far as it belongs into the report."""

    dead: int = 0
    kills: int = 0
    broker: str | None = None
    broker_kills: int = 0
    seconds: float = 0.0
    failures: Sequence[str] = ()


@dataclass(slots=True)
class Reconciliation:
    books: dict[str, Book]
    events: Events
    differences: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.differences

    def total(self, figure: str) -> int:
        return sum(getattr(book, figure) or 0 for book in self.books.values())

    def report(self) -> dict[str, Any]:
        return {
            "orders": self._each("orders"),
            "units": self._each("units"),
            "revenue": {name: Decimal(cents).scaleb(-2) for name, cents in self._each("cents").items()},
            "customers": self._each("customers"),
            "refused": self.books["inventory"].refused,
            "lost": self.total("lost"),
            "twice": self.total("twice"),
            "out_of_order": self.total("out_of_order"),
            "dead": self.events.dead,
            "kills": self.events.kills,
            **self._of_the_broker(),
            "seconds": round(self.events.seconds, 1),
            "ok": self.ok,
        }

    def _of_the_broker(self) -> dict[str, Any]:
        if self.events.broker is None:
            return {}
        return {"broker": self.events.broker, "broker_kills": self.events.broker_kills}

    def report_json(self) -> bytes:
        """Money is written digit by digit, never by way of a float."""
        return (
            msgspec.json.format(msgspec.json.Encoder(decimal_format="number").encode(self.report()), indent=2) + b"\n"
        )

    def _each(self, figure: str) -> dict[str, int]:
        return {name: getattr(book, figure) for name, book in self.books.items() if getattr(book, figure) is not None}


def reconcile(expected: Expected, kept: Kept, events: Events) -> Reconciliation:
    books = {
        "input": _input(expected),
        "storefront": _storefront(expected, kept),
        "inventory": _inventory(expected, kept),
        "email": _email(expected, kept),
        "analytics": _analytics(expected, kept),
    }
    if events.failures:  # what differs then differs because of them
        return Reconciliation(books, events, list(events.failures))
    return Reconciliation(books, events, [*_figures_that_differ(books), *_details_that_differ(expected, kept)])


# --- one book each ------------------------------------------------------------------------------------------------


def _input(expected: Expected) -> Book:
    customers = len(expected.orders_by_customer)
    return Book(len(expected.numbers), customers, expected.units, expected.cents, len(expected.refused))


def _storefront(expected: Expected, kept: Kept) -> Book:
    orders, customers, units, cents = _columns(kept.storefront)
    return Book(len(orders), len(set(customers)), sum(units), sum(cents), None, *_mistakes(expected, orders))


def _inventory(expected: Expected, kept: Kept) -> Book:
    orders, customers, units, reserved = _columns(kept.inventory)
    return Book(len(orders), len(set(customers)), sum(units), None, reserved.count(False), *_mistakes(expected, orders))


def _email(expected: Expected, kept: Kept) -> Book:
    """The orders are the letters on disk; the table and the count of answers must agree with them."""
    recorded, customers, _, reserved = _columns(kept.email)
    written = [letter.order_id for letter in kept.letters]
    counted = sum(kept.counted.values())
    lost, twice, out_of_order = _mistakes(expected, recorded)
    return Book(
        orders=len(written),
        customers=len(set(customers)),
        refused=reserved.count(False),
        lost=max(lost, _lost(expected, written)) + max(0, len(expected.numbers) - counted),
        twice=max(twice, _twice(written)) + max(0, counted - len(expected.numbers)),
        out_of_order=out_of_order,
    )


def _analytics(expected: Expected, kept: Kept) -> Book:
    """It adds up and keeps no single orders, so that lost and twice are what a customer has too few and too many."""
    orders = Counter({customer: total.orders for customer, total in kept.by_customer.items()})
    return Book(
        orders=sum(total.orders for total in kept.by_day.values()),
        customers=len(orders),
        units=sum(total.units for total in kept.by_day.values()),
        cents=sum(total.cents for total in kept.by_day.values()),
        lost=(expected.orders_by_customer - orders).total(),
        twice=(orders - expected.orders_by_customer).total(),
    )


def _columns(rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]


# --- mistakes -----------------------------------------------------------------------------------------------------


def _mistakes(expected: Expected, recorded: Sequence[int]) -> tuple[int, int, int]:
    return _lost(expected, recorded), _twice(recorded), _out_of_order(expected, recorded)


def _lost(expected: Expected, recorded: Iterable[int]) -> int:
    return len(set(expected.numbers).difference(recorded))


def _twice(recorded: Sequence[int]) -> int:
    return len(recorded) - len(set(recorded))


def _out_of_order(expected: Expected, recorded: Iterable[int]) -> int:
    latest: dict[str, int] = {}
    behind = 0
    for order in recorded:
        if order in expected.customer:
            customer, nth = expected.customer[order], expected.nth[order]
            behind += nth < latest.get(customer, 0)
            latest[customer] = max(nth, latest.get(customer, 0))
    return behind


def _figures_that_differ(books: Mapping[str, Book]) -> Iterator[str]:
    for service, book in books.items():
        for figure in ("orders", "customers", "units", "cents", "refused"):
            kept, wanted = getattr(book, figure), getattr(books["input"], figure)
            if kept is not None and kept != wanted:
                yield f"{service} has {kept:,} {figure}; the file has {wanted:,}"
        for mistake in ("lost", "twice", "out_of_order"):
            if getattr(book, mistake):
                yield f"{service} has {getattr(book, mistake):,} {mistake.replace('_', ' ')}"


def _details_that_differ(expected: Expected, kept: Kept) -> Iterator[str]:
    refused_by_inventory = {order for order, _, _, reserved in kept.inventory if not reserved}
    refused_by_letter = {order for order, _, _, reserved in kept.email if not reserved}
    yield from _differences("refused by inventory", dict.fromkeys(refused_by_inventory, True), _all_refused(expected))
    yield from _differences("refused in letters", dict.fromkeys(refused_by_letter, True), _all_refused(expected))
    yield from _differences(
        "n-th order in a letter", {letter.order_id: letter.nth for letter in kept.letters}, expected.nth
    )
    yield from _differences("n-th order recorded", {order: nth for order, _, nth, _ in kept.email}, expected.nth)
    yield from _differences("customer of an order", {row[0]: row[1] for row in kept.inventory}, expected.customer)
    yield from _differences("customer of a letter", {row[0]: row[1] for row in kept.email}, expected.customer)
    yield from _differences("answers counted", kept.counted, _answers(expected))
    by_day = {day.isoformat(): cents for day, cents in expected.cents_by_day.items()}
    yield from _differences("cents of a day", {day: total.cents for day, total in kept.by_day.items()}, by_day)
    by_customer = {customer: total.cents for customer, total in kept.by_customer.items()}
    yield from _differences("cents of a customer", by_customer, expected.cents_by_customer)


def _all_refused(expected: Expected) -> dict[int, bool]:
    return dict.fromkeys(expected.refused, True)


def _answers(expected: Expected) -> dict[str, int]:
    refused = len(expected.refused)
    answers = {"reserved": len(expected.numbers) - refused, "refused": refused}
    return {answer: orders for answer, orders in answers.items() if orders}


def _differences(what: str, kept: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> Iterator[str]:
    wrong = [name for name in {**wanted, **kept} if kept.get(name) != wanted.get(name)]
    for name in wrong[:DIFFERENCES_SHOWN_MAX]:
        yield f"{what}: {name} has {kept.get(name)}; the file gives {wanted.get(name)}"
    if len(wrong) > DIFFERENCES_SHOWN_MAX:
        yield f"{what}: {len(wrong) - DIFFERENCES_SHOWN_MAX:,} more"
