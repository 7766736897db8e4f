"""The file of orders, and what a fold over it says: the oracle that tables, aggregates and views are compared with."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

from examples.shop.orders import read_orders

from .entries import SALES

ORDERS = Path(__file__).parent.parent / "shop" / "cdnow_orders.csv.gz"


class Order(NamedTuple):
    number: str
    day: date
    cents: int


class Books:
    """The orders of each customer, by time; and what was paid and moved besides."""

    def __init__(self, orders: dict[str, list[Order]]) -> None:
        self.orders = orders
        self.moved: Counter[str] = Counter()  # cents by account, of entries that are no orders

    @property
    def entries(self) -> int:
        return sum(map(len, self.orders.values()))

    def spent(self, until: date = date.max) -> dict[str, tuple[int, int]]:
        """How many orders, and of how many cents, by customer."""
        by_then = {who: [order for order in orders if order.day <= until] for who, orders in self.orders.items()}
        return {who: (len(orders), sum(order.cents for order in orders)) for who, orders in by_then.items() if orders}

    def balances(self) -> dict[str, int]:
        sums = Counter({who: -cents for who, (_, cents) in self.spent().items()})
        sums.update(self.moved)
        sums[SALES] += sum(cents for _, cents in self.spent().values())
        return dict(sums)

    def revenue(self) -> dict[str, int]:
        """By month."""
        sums: Counter[str] = Counter()
        for orders in self.orders.values():
            for order in orders:
                sums[f"{order.day:%Y-%m}"] += order.cents
        return dict(sums)


def read(path: Path, most: int | None) -> Books:
    orders: dict[str, list[Order]] = defaultdict(list)
    for order in read_orders(path)[:most]:
        orders[order.customer_id].append(Order(str(order.number), order.day, int(order.amount * 100)))
    return Books(orders)


def check(what: str, wanted: object, found: object) -> None:
    if wanted != found:
        sys.exit(f"WRONG  {what}: the file says {str(wanted)[:300]}, and the journal {str(found)[:300]}")
    print(f"right  {what}")
