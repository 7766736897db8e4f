"""Takes the file's orders over into the ledger, some customers at a time. Sent again, each command is done once.

The demo runs it as a process of its own, and kills it: `python -m examples.ledger.teller sqlite:///ledger.db`."""

from __future__ import annotations

import argparse
import asyncio

from eventspine import Spine

from .accounts import TakeOver
from .books import ORDERS, Books, read
from .entries import order
from .views import release_1

CUSTOMERS = 100  # of a command
AT_ONCE = 4  # commands on their way: they share commits


async def take_over(spine: Spine, books: Books) -> None:
    customers = list(books.orders)
    left = iter(range(0, len(customers), CUSTOMERS))

    async def till() -> None:
        for first in left:
            some = customers[first : first + CUSTOMERS]
            entries = [order(one.number, one.day, one.cents, who) for who in some for one in books.orders[who]]
            await spine.send(TakeOver(entries=tuple(entries)), command_id=f"books-{first}")

    async with asyncio.TaskGroup() as tills:
        for _ in range(AT_ONCE):
            tills.create_task(till())


async def main(url: str, most: int | None) -> None:
    async with Spine(url, service=release_1()) as spine:
        await take_over(spine, read(ORDERS, most))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journal")
    parser.add_argument("--most", type=int)
    given = parser.parse_args()
    asyncio.run(main(given.journal, given.most))
