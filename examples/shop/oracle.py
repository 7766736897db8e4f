"""What must come out, worked out from the file of orders alone: one loop, no events, no services, no database.

It shares no code with the services, so that agreeing with them means something. Money is in whole cents.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import isqrt

from .orders import Order

WINDOW_DAYS = 30
UNITS_MAX = 20


@dataclass(slots=True)
class Expected:
    numbers: list[int] = field(default_factory=list)  # of all orders, as placed
    customer: dict[int, str] = field(default_factory=dict)  # of an order
    nth: dict[int, int] = field(default_factory=dict)  # of an order among its customer's
    refused: set[int] = field(default_factory=set)
    delayed: set[int] = field(default_factory=set)  # get no letter until the bug is mended
    jammed: set[str] = field(default_factory=set)  # customers with an order that the bug makes fail
    units: int = 0
    cents: int = 0
    cents_by_day: Counter[date] = field(default_factory=Counter)
    cents_by_customer: Counter[str] = field(default_factory=Counter)
    orders_by_customer: Counter[str] = field(default_factory=Counter)


def expect(orders: Iterable[Order]) -> Expected:
    """`orders` as they are placed."""
    expected = Expected()
    reserved: defaultdict[str, list[Order]] = defaultdict(list)
    for order in orders:
        _count(expected, order)
        if exceeds(reserved[order.customer_id], order):
            expected.refused.add(order.number)
        else:
            reserved[order.customer_id].append(order)
        if order.customer_id in expected.jammed or is_square(order.number):
            expected.jammed.add(order.customer_id)
            expected.delayed.add(order.number)
    return expected


def exceeds(reserved: Sequence[Order], order: Order) -> bool:
    """Whether the order is too much, given what is reserved for its customer on days less than 30 days before, its
    own day included."""
    recent = sum(one.units for one in reserved if (order.day - one.day).days < WINDOW_DAYS)
    return recent + order.units > UNITS_MAX


def is_square(number: int) -> bool:
    return isqrt(number) ** 2 == number


def cents(order: Order) -> int:
    return int(order.amount.scaleb(2))


def _count(expected: Expected, order: Order) -> None:
    expected.numbers.append(order.number)
    expected.customer[order.number] = order.customer_id
    expected.orders_by_customer[order.customer_id] += 1
    expected.nth[order.number] = expected.orders_by_customer[order.customer_id]
    expected.units += order.units
    expected.cents += cents(order)
    expected.cents_by_day[order.day] += cents(order)
    expected.cents_by_customer[order.customer_id] += cents(order)
