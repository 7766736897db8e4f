"""What things cost as a journal grows from one to ten million events: each figure, million by million."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from time import perf_counter

from eventspine import Service, Spine
from eventspine.events import describe
from eventspine.journal import open_journal
from eventspine.journal.pages import feed

from . import databases
from .accounts import LONG, Account, bank, same
from .databases import Database
from .figures import Figure
from .material import OrderPlaced, backlog, orders, storefront
from .sizes import Sizes

KEYS = 1_000
LONE = 200  # events that are published one by one
LOADS = 100
READ = 50_000  # events at the end of the feed
FLAT = "flat"

Curve = list[float]
Step = Callable[[str, int], Awaitable[float]]  # a URL, how many events a million are


async def on_sqlite(sizes: Sizes) -> list[Figure]:
    async with databases.sqlite() as database:
        return await _measured(database, sizes)


async def on_postgres(sizes: Sizes) -> list[Figure]:
    async with databases.postgres() as database:
        return await _measured(database, sizes)


async def _measured(database: Database, sizes: Sizes) -> list[Figure]:
    url, million = database.fresh(), sizes.million
    curves: dict[str, Curve] = {}
    for number in range(10):
        steps = _steps(number)
        for name, step in steps.items():
            curves.setdefault(name, []).append(await step(url, million))
    size = database.bytes(url)
    return [
        *(_figure(name, curve, million) for name, curve in curves.items()),
        Figure("the whole of it", f"{size / 1e9:.2f} GB, {size / (10 * million):.0f} bytes an event"),
    ]


def _steps(number: int) -> Mapping[str, Step]:
    async def append(url: str, count: int) -> float:
        began = perf_counter()
        await backlog(url, count, KEYS, number * count)
        return count / (perf_counter() - began)

    async def load_of(url: str, which: int) -> float:
        return await _load(url, f"account-{which}")

    async def newest(url: str, _: int) -> float:
        await _open(url, f"account-{number}")
        return await load_of(url, number)

    return {
        "appended in commits of 1,000, events/s": append,
        "one published and awaited, ms": _lone,
        f"an aggregate of {LONG} events loaded, the newest, ms": newest,
        f"an aggregate of {LONG} events loaded, of the first million, ms": lambda url, _: load_of(url, 0),
        f"the last {READ:,} of the feed read and decoded, events/s": _read,
        "handled by a service that does nothing, events/s": _handle,
    }


async def _lone(url: str, _: int) -> float:
    async with Spine(url, service=storefront) as spine:
        took = []
        for event in orders(LONE, KEYS, 1_000_000_000):
            began = perf_counter()
            await spine.publish(event)
            took.append(perf_counter() - began)
    return median(took) * 1000


async def _open(url: str, name: str) -> None:
    async with Spine(url, service=bank) as spine:
        account = Account(name)
        for _ in range(LONG):
            account.credit(1)
            await spine.save(account)


async def _load(url: str, name: str) -> float:
    async with Spine(url, service=bank) as spine:
        took = []
        for _ in range(LOADS):
            began = perf_counter()
            found = await spine.load(Account, name)
            took.append(perf_counter() - began)
            same(found.cents, LONG)
    return median(took) * 1000


async def _read(url: str, _: int) -> float:
    kind, journal, seen = describe(OrderPlaced), open_journal(url), 0
    await journal.open()
    try:
        head = await journal.head()
        began = perf_counter()
        async for record in feed(journal, max(0, head - READ), head, channels=["orders"], types=["orders.OrderPlaced"]):
            kind.read(record.data, record.version)
            seen += 1
        return seen / (perf_counter() - began)
    finally:
        await journal.close()


async def _handle(url: str, count: int) -> float:
    """All that came since the last time, which is a million and the ones published singly."""
    service: Service[None] = Service("reader")
    finished, left = asyncio.Event(), count + LONE

    @service.on(OrderPlaced, start="earliest", name="handler")
    async def handle(_: OrderPlaced) -> None:
        nonlocal left
        left -= 1
        if not left:
            finished.set()

    async with Spine(url) as spine:
        began = perf_counter()
        async with spine.running(service):
            await finished.wait()
            return (count + LONE) / (perf_counter() - began)


def _figure(name: str, curve: Curve, million: int) -> Figure:
    work, _, unit = name.rpartition(", ")
    shown = [f"{value:,.0f}" if unit == "events/s" else f"{value:.2f}" for value in curve]
    rate = curve[-1] / curve[0] if unit == "events/s" else curve[0] / curve[-1]
    return Figure(
        f"{work}, from {million:,} to {10 * million:,} events",
        f"the last {rate:.2f}× as quick as the first",
        FLAT,
        "",
        [f"{unit}: {', '.join(shown)}"],
        {"curve": curve},
    )
