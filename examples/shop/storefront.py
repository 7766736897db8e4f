"""The storefront: keeps its own table of orders and publishes `OrderPlaced` for each.

An order's row and its event commit in one transaction, on a connection of our own, so that a storefront killed at any
moment goes on where it stopped: nothing is published twice, nothing is left out.

    python -m examples.shop.storefront orders.csv --orders-per-second 5000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from eventspine import Service
from eventspine.sync import Spine

from .events import OrderPlaced
from .orders import Order, read_orders
from .till import Till, opened

BATCH_MAX = 200
TABLES = Path(__file__).with_name("storefront.sql")  # a program of its own brings its tables itself

storefront = Service("storefront", publishes="orders")

REMEMBER = """
    insert into storefront_orders (number, order_id, customer_id, day, units, cents)
    select coalesce(max(number), 0) + 1, ?, ?, ?, ?, ? from storefront_orders
"""


def sell(orders: Sequence[Order], orders_per_second: float) -> None:
    with (
        Spine.from_settings(service=storefront) as spine,
        closing(opened(spine.journal)) as shop,
    ):
        shop.script(TABLES.read_text(encoding="utf-8"))
        sold = shop.number("select count(*) from storefront_orders")
        since = time.monotonic() - sold / orders_per_second
        for batch in batches(orders[sold:]):
            place(batch, spine, shop)
            sold += len(batch)
            time.sleep(max(0.0, since + sold / orders_per_second - time.monotonic()))


def place(batch: Sequence[Order], spine: Spine, shop: Till) -> None:
    """All of one day, and committed as one."""
    with shop.transaction():
        shop.many(REMEMBER, map(row, batch))
        spine.publish(*map(placed, batch), time=noon(batch[0]), within=shop.connection)


def row(order: Order) -> tuple[int, str, str, int, int]:
    return order.number, order.customer_id, order.day.isoformat(), order.units, int(order.amount * 100)


def placed(order: Order) -> OrderPlaced:
    return OrderPlaced(
        order_id=order.number,
        customer_id=order.customer_id,
        day=order.day,
        units=order.units,
        amount=order.amount,
    )


def noon(order: Order) -> datetime:
    return datetime(order.day.year, order.day.month, order.day.day, 12, tzinfo=UTC)


def batches(orders: Sequence[Order]) -> Iterator[Sequence[Order]]:
    """At most `BATCH_MAX` orders, all of one day, in order."""
    for _, day in groupby(orders, key=attrgetter("day")):
        of_day = list(day)
        for first in range(0, len(of_day), BATCH_MAX):
            yield of_day[first : first + BATCH_MAX]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("orders", type=Path)
    parser.add_argument("--orders-per-second", type=float, default=5_000)
    options = parser.parse_args()
    sell(read_orders(options.orders), options.orders_per_second)


if __name__ == "__main__":
    main()
