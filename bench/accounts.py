"""What eventspine is asked to do with state, in the journal of a URL: saves, loads, the feed, and a view built anew."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any
from uuid import UUID

from eventspine import Aggregate, Event, Service, Spine, View, applies
from eventspine.events import describe
from eventspine.journal import open_journal
from eventspine.journal.pages import feed

from .material import OrderPlaced

SAVERS = 100
BATCH = 100  # events of one save
LONG = 100  # events of the aggregate that is loaded


class Credited(Event, context="bank", key="account"):
    account: str
    cents: int


class Account(Aggregate):
    cents: int = 0

    def credit(self, cents: int) -> None:
        self.record(Credited(account=self.id, cents=cents))

    @applies(Credited)
    def _credited(self, event: Credited) -> None:
        self.cents += event.cents


class Spent(View, key="customer_id"):
    customer_id: str
    orders: int = 0
    units: int = 0


bank: Service[None] = Service("bank")
logging.getLogger("eventspine").setLevel(logging.ERROR)  # that nobody subscribes is meant so


# --- saves ------------------------------------------------------------------------------------------------------------


async def saved_singly(url: str, count: int) -> float:
    async with Spine(url, service=bank) as spine:
        accounts = await _opened(spine, 10)
        began = perf_counter()
        for number in range(count):
            await _credit(spine, accounts[number % 10])
        return count / (perf_counter() - began)


async def saved_at_once(url: str, each: int) -> float:
    async with Spine(url, service=bank) as spine:
        accounts = await _opened(spine, SAVERS)
        began = perf_counter()
        await asyncio.gather(*(_credits(spine, account, each) for account in accounts))
        return SAVERS * each / (perf_counter() - began)


async def saved_in_batches(url: str, saves: int) -> float:
    async with Spine(url, service=bank) as spine:
        (account,) = await _opened(spine, 1)
        began = perf_counter()
        for _ in range(saves):
            for _ in range(BATCH):
                account.credit(1)
            await spine.save(account)
        return saves * BATCH / (perf_counter() - began)


async def _opened(spine: Spine, count: int) -> list[Account]:
    accounts = [Account(f"account-{number:04d}") for number in range(count)]
    for account in accounts:
        await _credit(spine, account)
    return accounts


async def _credit(spine: Spine, account: Account) -> None:
    account.credit(1)
    await spine.save(account)


async def _credits(spine: Spine, account: Account, count: int) -> None:
    for _ in range(count):
        await _credit(spine, account)


# --- loads, the feed, a view ------------------------------------------------------------------------------------------


async def loaded(url: str, count: int) -> float:
    async with Spine(url, service=bank) as spine:
        account = Account("account-0001")
        for _ in range(LONG):
            account.credit(1)
        await spine.save(account)
        began = perf_counter()
        for _ in range(count):
            found = await spine.load(Account, "account-0001")
        seconds = perf_counter() - began
        same(found.cents, LONG)
    return count / seconds


async def credited(url: str, count: int) -> None:
    """A feed of so many."""
    async with Spine(url, service=Service("bank", publishes="bank")) as spine:
        for start in range(0, count, 1_000):
            some = range(start, min(start + 1_000, count))
            await spine.publish(*[Credited(account=f"account-{n % 1_000:04d}", cents=1) for n in some])


async def read(url: str, count: int) -> float:
    """Every event of the feed, decoded to its class."""
    kind = describe(Credited)
    journal = open_journal(url)
    await journal.open()
    try:
        head, seen = await journal.head(), 0
        began = perf_counter()
        async for record in feed(journal, 0, head, channels=["bank"], types=["bank.Credited"]):
            kind.read(record.data, record.version)
            seen += 1
        seconds = perf_counter() - began
    finally:
        await journal.close()
    same(seen, count)
    return count / seconds


async def built(url: str, count: int) -> float:
    """From the start of the service until the view is where the feed is."""
    async with Spine(url) as spine:
        last = await _last(spine)
        began = perf_counter()
        async with spine.running(_reports()):
            await spine.view(Spent).wait(last, timeout_s=600)
            seconds = perf_counter() - began
        rows = await spine.view(Spent).query("select sum(orders) as orders from spent")
        same(int(rows[0]["orders"]), count)
    return count / seconds


async def _last(spine: Spine) -> str:
    """The id of the last event."""
    head = await spine.journal.head()
    async for record in feed(spine.journal, head - 1, head):
        last = record.id
    return str(UUID(bytes=last))


def _reports() -> Service[None]:
    reports: Service[None] = Service("reports")

    @reports.projection(Spent, OrderPlaced)
    def count(view: View[Spent], event: OrderPlaced) -> None:
        row = view.row(event.customer_id)
        row.orders += 1
        row.units += event.units

    return reports


def same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise RuntimeError(f"{found!r} instead of {wanted!r}: the two did not do the same work")
