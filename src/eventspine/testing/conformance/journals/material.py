"""What the journal tests are made of: events that differ, declarations, and a clock that stands still until moved."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ....ids import id_text
from ....journal.port import (
    Append,
    Delivery,
    Done,
    Journal,
    Page,
    Process,
    Put,
    Record,
    Registered,
    Registration,
    Subscription,
    SubscriptionDeclaration,
    Unit,
    Verdict,
)

if TYPE_CHECKING:
    from .capabilities import JournalCapabilities

START_US = 1_700_000_000_000_000
LEASE_US = 10_000_000
WAIT_S = 20  # the longest that a test waits for a condition; nothing waits that long unless it fails

_numbers = count(1)


class HandClock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.random = random.Random(7)
        self.us = START_US

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6

    def entropy(self, size: int) -> bytes:
        return self.random.randbytes(size)

    def forward(self, us: int) -> int:
        self.us += us
        return self.us


class Maker(Protocol):
    """What a suite says of its store: whoever subclasses `JournalConformance`."""

    capabilities: ClassVar[JournalCapabilities]
    opened_by: ClassVar[str]
    make: Callable[..., Awaitable[Journal]]

    async def made(self, **given: Any) -> Any: ...
    def connect(self, journal: Journal) -> AbstractContextManager[Any]: ...


class Store:
    """The store of one test, and journals that open it."""

    def __init__(self, maker: Maker, fixtures: Mapping[str, Any]) -> None:
        self.clock = HandClock()
        self.maker = maker
        self._fixtures = fixtures
        self._only: Journal | None = None  # where several can't have it open: the same journal, opened again

    async def open(self) -> Journal:
        journal = self._only or await self._make()
        if not self.maker.capabilities.persistent:
            self._only = journal
        await journal.open()
        return journal

    async def _make(self) -> Journal:
        """`make` takes the clock where it asks for it."""
        clock = {"clock": self.clock} if "clock" in signature(self.maker.make).parameters else {}
        journal: Journal = await self.maker.made(**clock, **self._fixtures)
        return journal


def new_id() -> bytes:
    return (0x018C_0000_0000_7000_8000 << 48 | next(_numbers)).to_bytes(16, "big")


def event(**given: Any) -> Record:
    id = given.pop("id", None) or new_id()
    plain = Record(
        position=0,
        id=id,
        channel="orders",
        slot=5,
        key="customer-1",
        type="orders.OrderPlaced",
        version=1,
        time_us=START_US - 5,
        recorded_us=0,
        source="storefront",
        correlation=None,
        causation=None,
        hops=0,
        meta=None,
        data=b'{"order_id":"1"}',
    )
    return plain._replace(**given)


def events(number: int, **given: Any) -> list[Record]:
    return [event(**given) for _ in range(number)]


def caused_by(cause: Record, **given: Any) -> Record:
    return event(
        correlation=cause.correlation or id_text(cause.id), causation=id_text(cause.id), hops=cause.hops + 1, **given
    )


async def commit(journal: Journal, unit: Unit | None = None, **parts: Any) -> Verdict:
    return (await journal.commit([unit or Unit(**parts)]))[0]


async def publish(journal: Journal, *records: Record) -> list[int]:
    verdict = await commit(journal, appends=[Append(records)])
    assert "done" == verdict.kind, verdict
    return verdict.positions


async def publish_to(journal: Journal, stream: str, *records: Record, expected: int | None = None) -> Verdict:
    return await commit(journal, appends=[Append(records, "orders", stream, expected)])


async def all_pages(journal: Journal, after: int = 0, *, limit: int = 1000, **filters: Any) -> list[Page]:
    """Pages up to the feed's end."""
    pages: list[Page] = []
    head = await journal.head()
    while after < head:
        page = await journal.feed(after, limit=limit, **filters)
        assert page.scanned > after, f"stands still after {after} of {head}"
        after = page.scanned
        pages.append(page)
    return pages


async def whole_feed(journal: Journal, **options: Any) -> list[Record]:
    return [record for page in await all_pages(journal, **options) for record in page.records]


def ids(records: Sequence[Record | None]) -> list[bytes]:
    return [record.id for record in records if record is not None]


# --- services ---------------------------------------------------------------------------------------------------------


def handler(name: str = "email.confirm", **given: Any) -> SubscriptionDeclaration:
    plain = SubscriptionDeclaration(name, ("orders",), (("orders.OrderPlaced", 1),), "key", "goes_on", None)
    return plain._replace(**given)


def declaring(*subscriptions: SubscriptionDeclaration, service: str = "email", **given: Any) -> Registration:
    return Registration(service, (), subscriptions, **given)


async def start(
    journal: Journal, *subscriptions: SubscriptionDeclaration, now_us: int = START_US, **given: Any
) -> Registered:
    return await journal.register(declaring(*subscriptions, **given), now_us)


async def one_subscription(journal: Journal, **given: Any) -> Subscription:
    return (await start(journal, handler(**given))).subscriptions[0]


async def reload(journal: Journal, subscription: Subscription) -> Subscription:
    return await reload_number(journal, subscription.number)


def finished(subscription: Subscription, *ranges: tuple[int, int], partition: int = 5) -> Done:
    return Done(subscription.number, partition, ranges, subscription.generation)


async def cursor(journal: Journal, subscription: Subscription, partition: int = 5) -> tuple[int, list[tuple[int, int]]]:
    rows = await journal.cursors([subscription.number])
    row = next(row for row in rows if row.partition == partition)
    return row.position, [(after, upto) for after, upto in row.beyond]


async def positions(journal: Journal, subscription: Subscription) -> dict[int, int]:
    return {row.partition: row.position for row in await journal.cursors([subscription.number])}


def parked(subscription: Subscription, record: Record, **given: Any) -> Put:
    plain = Put(
        subscription.number, 5, record, "parked", 1, START_US + 1_000, "SmtpDown", "no answer", "Traceback: ..."
    )
    return plain._replace(**given)


async def park(journal: Journal, put: Put) -> Delivery:
    verdict = await commit(journal, puts=[put])
    assert "done" == verdict.kind, verdict
    return (await journal.deliveries(numbers=verdict.numbers))[0]


def process(id: str, *, service: str = "email", generation: int = 1) -> Process:
    """Of another machine, so that nobody looks for its pid on this one."""
    return Process(id, service, generation, 4242, "another-machine", START_US, 64, "0.1.0")


# --- waiting ----------------------------------------------------------------------------------------------------------


class Bell:
    def __init__(self, journal: Journal) -> None:
        self._rung = asyncio.Event()
        self.times = 0
        self.stop: Callable[[], None] = journal.watch(self._ring)

    def _ring(self) -> None:
        self.times += 1
        self._rung.set()

    async def rings(self) -> None:
        """Waits for a ring since the last one that was waited for."""
        await asyncio.wait_for(self._rung.wait(), WAIT_S)
        self._rung.clear()


async def reload_number(journal: Journal, number: int) -> Subscription:
    return next(row for row in await journal.subscriptions() if row.number == number)
