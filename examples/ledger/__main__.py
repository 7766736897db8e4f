"""`make demo-state`: 69,659 orders into aggregates and views, each figure compared with the file."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from eventspine import Envelope, Spine
from eventspine.testing.servers import named
from examples.shop.orders import read_orders

from .customers import Customer, Spent, Spent2, release_1, release_2

ROOT = Path(__file__).parent.parent.parent
ORDERS = Path(__file__).parent.parent / "shop" / "cdnow_orders.csv.gz"
AT_ONCE = 200  # customers saved side by side: they share commits
LIMIT_S = 300.0


class Order(NamedTuple):
    time: datetime
    units: int
    cents: int


Book = dict[str, list[Order]]


def read(path: Path, most: int | None) -> Book:
    """The orders of each customer, by time."""
    book: Book = defaultdict(list)
    for order in read_orders(path)[:most]:
        day = datetime(order.day.year, order.day.month, order.day.day, tzinfo=UTC)
        book[order.customer_id].append(Order(day, order.units, int(order.amount * 100)))
    return book


def totals(book: Book) -> dict[str, tuple[int, int]]:
    return {who: (len(orders), sum(order.cents for order in orders)) for who, orders in book.items()}


def check(what: str, wanted: object, found: object) -> None:
    if wanted != found:
        sys.exit(f"WRONG  {what}: the file says {str(wanted)[:300]}, and the journal {str(found)[:300]}")
    print(f"right  {what}")


async def write(spine: Spine, book: Book) -> None:
    """Each customer is an aggregate; their orders are recorded and saved."""
    customers = []
    for who, orders in book.items():
        customer = Customer(who)
        for order in orders:
            customer.order(order.units, order.cents, order.time)
        customers.append(customer)
    for at in range(0, len(customers), AT_ONCE):
        await asyncio.gather(*(spine.save(customer) for customer in customers[at : at + AT_ONCE]))


async def catch_up(spine: Spine) -> None:
    """The view has all that has been written so far."""
    records = (await spine.journal.feed(await spine.journal.head() - 1, limit=1)).records
    await spine.view(Spent).wait(Envelope(records[0]).id, timeout_s=LIMIT_S)


async def spent(spine: Spine) -> dict[str, tuple[int, int]]:
    return {row.customer: (row.orders, row.cents) for row in await spine.view(Spent).all()}


class Reader:
    """The first customer, who goes on ordering, and looks after each order at what the view has of them."""

    def __init__(self, spine: Spine, book: Book) -> None:
        self.spine, self.book, self.who = spine, book, next(iter(book))
        self.seen: list[int] = []
        self.has_2 = False
        self.until = time.monotonic() + LIMIT_S

    async def order(self) -> None:
        order = Order(datetime.now(UTC), 1, 100)
        await self.spine.change(Customer, self.who, lambda one: one.order(1, 100, order.time))
        self.book[self.who].append(order)
        row = await self.spine.view(Spent2).get(self.who)
        self.seen.append(-1 if row is None else row.orders)
        self.has_2 = row is not None and row.largest > 0
        if time.monotonic() > self.until:
            sys.exit("WRONG  version 2 has not caught up")


async def built(spine: Spine) -> int:
    """How far version 2 is."""
    rows = [row.number for row in await spine.journal.subscriptions("ledger") if row.name == "ledger.spent@2"]
    return min([cursor.position for cursor in await spine.journal.cursors(rows)], default=0) if rows else 0


async def kill_the_builder(reader: Reader, url: str) -> int:
    """Another process begins to build version 2, and is killed as soon as it has got somewhere; how far it had come."""
    command = [sys.executable, "-m", "eventspine.cli", "run", "examples.ledger.second", "--journal", url]
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    builder = await asyncio.create_subprocess_exec(*command, cwd=ROOT, **quiet)
    try:
        while not await built(reader.spine):
            if builder.returncode is not None:
                sys.exit(f"WRONG  {' '.join(command)} ended with {builder.returncode}")
            await reader.order()
    finally:
        if builder.returncode is None:
            builder.kill()
        await builder.wait()
    return await built(reader.spine)


async def rebuild(reader: Reader) -> int:
    """Orders go on coming while version 2 is built to its end; the least that was built of it meanwhile."""
    least = await built(reader.spine)
    async with reader.spine.running(release_2()):
        while not reader.has_2:
            await reader.order()
            least = min(least, await built(reader.spine))
        await catch_up(reader.spine)
    return least


async def look_back(spine: Spine, book: Book, days: int) -> int:
    """Customers on days of 1997, by time travel and by a fold over the file."""
    chance, wrong = random.Random(1997), 0
    for _ in range(days):
        who = chance.choice(list(book))
        at = datetime(1997, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(365))
        by_then = [order for order in book[who] if order.time <= at]
        if by_then:
            then = await spine.load(Customer, who, at=at)
            wrong += (then.orders, then.cents) != (len(by_then), sum(order.cents for order in by_then))
    return wrong


@contextmanager
def place(journal: str) -> Iterator[str]:
    """A journal for the time of the demo: a file, or a schema of a PostgreSQL that is started for it."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        if journal == "sqlite":
            yield f"sqlite:///{folder}/ledger.db"
            return
        kind = named("postgres")
        kind.install()
        with kind(folder) as server:
            yield f"{server.url}?schema=ledger"


async def main(path: Path, most: int | None, days: int, journal: str = "sqlite") -> None:
    book = read(path, most)
    events = sum(map(len, book.values()))
    with place(journal) as url:
        async with Spine(url, service=release_1()) as spine:
            started = time.perf_counter()
            await write(spine, book)
            written = time.perf_counter()
            print(f"{events:,} orders of {len(book):,} customers saved in {written - started:.1f} s")
            async with spine.running(release_1()):
                await catch_up(spine)
            print(f"the view was built in {time.perf_counter() - written:.1f} s")
            check("what each customer has spent", totals(book), await spent(spine))
            reader = Reader(spine, book)
            killed_at = await kill_the_builder(reader, url)
            print(
                f"a process that built version 2 was killed at {killed_at:,} of {await spine.journal.head():,} events"
            )
            killed = time.perf_counter()
            least = await rebuild(reader)
            print(f"another built the rest in {time.perf_counter() - killed:.1f} s")
            check("version 2 went on from there", killed_at, least)
            seen = reader.seen
            check("no reader saw a gap, or less than before, while version 2 was built", sorted(seen), seen)
            check(f"and the same of version 2, with {len(seen):,} orders more", totals(book), await spent(spine))
            check(f"{days:,} customers on days of 1997", 0, await look_back(spine, book, days))
            mid = datetime(1997, 6, 30, tzinfo=UTC)
            by_then = {who: [order for order in orders if order.time <= mid] for who, orders in book.items()}
            then = (await spine.view(Spent2).as_of(mid)).all()
            wanted = totals({who: orders for who, orders in by_then.items() if orders})
            check("the whole view on 30 June 1997", wanted, {row.customer: (row.orders, row.cents) for row in then})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, help="only so many orders of the file")
    parser.add_argument("--days", type=int, default=1000, help="how many customers and days are looked back on")
    parser.add_argument(
        "--journal", choices=("sqlite", "postgres"), default="sqlite", help="a PostgreSQL is installed and started"
    )
    given = parser.parse_args()
    asyncio.run(main(ORDERS, given.most, given.days, given.journal))
