"""A process that sends one command after another: `python -m tests.commands.child URL [POINT]`, ids on standard input.

POINT is where it kills itself, once: in the handler, before COMMIT, after COMMIT."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from typing import Any

from eventspine import Delivery, Spine
from eventspine.journal.sqlite import SQLiteJournal
from tests.commands.shop import PlaceOrder, Shop


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange(point: str, shop: Shop, journal: SQLiteJournal) -> None:
    if point == "in the handler":
        own = shop.service.commands["orders.PlaceOrder"]

        async def dying(command: PlaceOrder, delivery: Delivery) -> Any:
            await own.function(command, delivery)
            die()

        shop.service.commands.clear()
        shop.service.command(PlaceOrder)(dying)
    elif point:
        writer = journal._here().writer
        proper = writer.commit_statement

        def commit(connection: sqlite3.Connection) -> None:
            if point == "after COMMIT":
                proper(connection)
            die()

        writer.commit_statement = commit


async def main(url: str, point: str = "") -> None:
    shop, journal = Shop(), SQLiteJournal(url)
    async with Spine(journal, service=shop.service) as spine:
        print("ready", flush=True)
        for line in sys.stdin:
            arrange(point, shop, journal)
            print(await spine.send(PlaceOrder(), command_id=line.strip()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
