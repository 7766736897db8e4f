"""`make demo-state`: 69,659 orders into a ledger, its accounts and views, each figure compared with the file."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from eventspine import Envelope, Spine
from eventspine.testing.servers import NotInstalled, ServerError, named

from .accounts import LIMIT_CENTS, Account, Overdrawn, Post, midnight
from .books import ORDERS, Books, Order, check, read
from .entries import CASH, Entry, Posting, Unbalanced, order, payment, transfer
from .teller import take_over
from .views import Balance, Revenue, Spent, Spent2, release_1, release_2

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 300.0

BEGINNING = """\
{:,} orders are booked in a ledger, and a view is rebuilt while more come in; a process is killed in each of the two.
Then the past is looked up. Each line `right` is one comparison with the file or the rules. All of it takes about a minute."""

# --- what is killed ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def killed_in_the_end(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, cwd=ROOT, **quiet)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(reached: Callable[[], Awaitable[int]], process: asyncio.subprocess.Process) -> None:
    ended = asyncio.ensure_future(process.wait())
    while not await reached():
        if ended.done():
            sys.exit(f"WRONG  a process ended with {ended.result()}, before it could be killed")
        await asyncio.wait([ended], timeout=0.01)
    ended.cancel()


async def kill_the_teller(spine: Spine, url: str, most: int | None, enough: int) -> int:
    """Another process begins to take the books over, and is killed; how many entries it has booked."""
    async with killed_in_the_end("examples.ledger.teller", url, *(["--most", str(most)] if most else [])) as teller:

        async def a_part() -> int:
            return await count(spine, "entries") >= enough

        await until(a_part, teller)
    return await count(spine, "entries")


async def kill_the_builder(reader: Reader, url: str) -> int:
    """Another process begins to build version 2, and is killed as soon as it has got somewhere; how far it had come."""
    async with killed_in_the_end("eventspine.cli", "run", "examples.ledger.second", "--journal", url) as builder:

        async def begun() -> int:
            await reader.order()
            return await built(reader.spine)

        await until(begun, builder)
    return await built(reader.spine)


async def built(spine: Spine) -> int:
    """How far version 2 is."""
    rows = [row.number for row in await spine.journal.subscriptions("ledger") if row.name == "ledger.spent@2"]
    return min([cursor.position for cursor in await spine.journal.cursors(rows)], default=0) if rows else 0


# --- what is read -----------------------------------------------------------------------------------------------------


async def count(spine: Spine, table: str) -> int:
    [row] = await spine.journal.query(f"select count(*) as n from ledger_{table}", {})
    return int(row["n"])


async def catch_up(spine: Spine) -> None:
    """The views have all that has been written so far."""
    records = (await spine.journal.feed(await spine.journal.head() - 1, limit=1)).records
    for view in (Balance, Revenue, Spent):
        await spine.view(view).wait(Envelope(records[0]).id, timeout_s=LIMIT_S)


async def spent(spine: Spine) -> dict[str, tuple[int, int]]:
    return {row.customer: (row.orders, row.cents) for row in await spine.view(Spent).all()}


async def check_ledger(spine: Spine, books: Books) -> None:
    """The tables, and the views that were made of the events beside them."""
    await catch_up(spine)
    unequal = "select entry from ledger_postings group by entry having sum(debit) <> sum(credit)"
    check("every entry balances", [], await spine.journal.query(unequal, {}))
    sums = "select account, sum(credit) - sum(debit) as cents from ledger_postings group by account"
    booked = {row["account"]: int(row["cents"]) for row in await spine.journal.query(sums, {})}
    check("all accounts together come to nothing", 0, sum(booked.values()))
    check("the balance of each account, summed over the postings in the tables", books.balances(), booked)
    in_view = {row.account: row.cents for row in await spine.view(Balance).all()}
    check("the balance of each account, in the view made of the events", booked, in_view)
    months = {row.month: row.cents for row in await spine.view(Revenue).all()}
    check("the revenue of each month, in its view", books.revenue(), months)
    check("what each customer has spent, in its view", books.spent(), await spent(spine))


async def look_back(spine: Spine, books: Books, days: int) -> int:
    """Customers on days of 1997, by time travel and by a fold over the file."""
    chance, wrong = random.Random(1997), 0
    for _ in range(days):
        who = chance.choice(list(books.orders))
        day = date(1997, 1, 1) + timedelta(days=chance.randrange(365))
        by_then = [order for order in books.orders[who] if order.day <= day]
        if by_then:
            then = await spine.load(Account, who, at=midnight(day))
            wrong += (then.orders, then.spent) != (len(by_then), sum(order.cents for order in by_then))
    return wrong


# --- what is written --------------------------------------------------------------------------------------------------


async def refused(spine: Spine, entry: Entry) -> str:
    """By which exception."""
    try:
        await spine.send(Post(entry=entry))
    except (Unbalanced, Overdrawn) as no:
        return type(no).__name__
    return "nobody"


async def bank(spine: Spine, books: Books) -> None:
    """A day at the counter: what is refused, what is sent twice, and what customers move among themselves."""
    ann, bob = list(books.orders)[:2]
    today = datetime.now(UTC).date()
    before = [await count(spine, table) for table in ("entries", "postings")]
    uneven = Entry("uneven", today, "payment", (Posting(CASH, debit=500), Posting(ann, credit=501)))
    check("an entry that gives more than it takes is refused", "Unbalanced", await refused(spine, uneven))
    greedy = transfer("greedy", today, LIMIT_CENTS + 1, source=ann, target=bob)
    check("an overdraft is refused", "Overdrawn", await refused(spine, greedy))
    after = [await count(spine, table) for table in ("entries", "postings")]
    check("nothing of the two refused entries was booked", before, after)
    paid = Post(entry=payment("paid", today, 50_00, ann))
    await asyncio.gather(*(spine.send(paid, command_id="form-4711") for _ in range(2)))
    await spine.send(paid, command_id="form-4711")
    await spine.send(Post(entry=transfer("moved", today, 20_00, source=ann, target=bob)))
    books.moved.update({CASH: -50_00, ann: 50_00 - 20_00, bob: 20_00})
    check("a command that is sent three times is booked once", before[0] + 2, await count(spine, "entries"))


class Reader:
    """The first customer, who goes on ordering, and looks after each order at what the view has of them."""

    def __init__(self, spine: Spine, books: Books) -> None:
        self.spine, self.books, self.who = spine, books, next(iter(books.orders))
        self.seen: list[int] = []
        self.has_2 = False
        self.until = time.monotonic() + LIMIT_S

    async def order(self) -> None:
        one = Order(f"more-{len(self.seen)}", datetime.now(UTC).date(), 1_00)
        await self.spine.send(Post(entry=order(one.number, one.day, one.cents, self.who)))
        self.books.orders[self.who].append(one)
        row = await self.spine.view(Spent2).get(self.who)
        self.seen.append(-1 if row is None else row.orders)
        self.has_2 = row is not None and row.largest > 0
        if time.monotonic() > self.until:
            sys.exit("WRONG  version 2 has not caught up")


async def rebuild(reader: Reader) -> int:
    """Orders go on coming while version 2 is built to its end; the least that was built of it meanwhile."""
    least = await built(reader.spine)
    async with reader.spine.running(release_2()):
        while not reader.has_2:
            await reader.order()
            least = min(least, await built(reader.spine))
        await catch_up(reader.spine)
    return least


# --- the story --------------------------------------------------------------------------------------------------------


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


class Watch:
    """How long each thing took, in seconds."""

    def __init__(self) -> None:
        self.since = time.perf_counter()

    def __str__(self) -> str:
        took, self.since = time.perf_counter() - self.since, time.perf_counter()
        return f"{took:.1f} s"


async def write(spine: Spine, books: Books, url: str, most: int | None) -> None:
    watch = Watch()
    booked = await kill_the_teller(spine, url, most, books.entries // 4)
    print(f"a process that took the books over was killed at {booked:,} of {books.entries:,} entries: {watch}")
    await take_over(spine, books)
    print(f"all of it was sent again, for {len(books.orders):,} customers: {watch}")
    check("each order is one entry", books.entries, await count(spine, "entries"))
    async with spine.running(release_1()):
        await catch_up(spine)
        print(f"the views were built: {watch}")
        await check_ledger(spine, books)
        await bank(spine, books)


async def main(path: Path, most: int | None, days: int, journal: str = "sqlite") -> None:
    books = read(path, most)
    print(BEGINNING.format(books.entries))
    with place(journal) as url:
        async with Spine(url, service=release_1()) as spine:
            await write(spine, books, url, most)
            reader, watch = Reader(spine, books), Watch()
            killed_at = await kill_the_builder(reader, url)
            head = await spine.journal.head()
            print(f"a process that built version 2 was killed at {killed_at:,} of {head:,} events: {watch}")
            least = await rebuild(reader)
            print(f"another built the rest: {watch}")
            check("version 2 of a view went on where the killed process had left it", killed_at, least)
            seen = reader.seen
            check("no reader saw a gap, or less than before, while version 2 was built", sorted(seen), seen)
            print(f"all of it once more, with {len(seen):,} orders, a payment and a transfer besides:")
            await check_ledger(spine, books)
            wrong = await look_back(spine, books, days)
            check(f"the orders of customers on days of 1997, looked up {days:,} times", 0, wrong)
            mid = date(1997, 6, 30)
            then = (await spine.view(Spent2).as_of(midnight(mid))).all()
            found = {row.customer: (row.orders, row.cents) for row in then}
            check("what every customer had spent by 30 June 1997", books.spent(mid), found)
    print("All agree.")


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, help="only so many orders of the file")
    parser.add_argument("--days", type=int, default=1000, help="how many customers and days are looked back on")
    parser.add_argument(
        "--journal", choices=("sqlite", "postgres"), default="sqlite", help="a PostgreSQL is installed and started"
    )
    given = parser.parse_args()
    # The books are taken over before any view is started: that nobody subscribes yet is how it is meant here.
    logging.getLogger("eventspine.publishing").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it has started is ended, too
    try:
        asyncio.run(main(ORDERS, given.most, given.days, given.journal))
    except (NotInstalled, ServerError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
