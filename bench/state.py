"""Event sourcing and views: saves, loads, the feed, and a view built anew, beside bare SQL and a peer.

The peer is `eventsourcing`, on SQLite too, with the same durability (WAL, synchronous=FULL). What it is asked to do is what
its guide shows: an `Application` with aggregates, its notification log, and a mapper that decodes."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock
from uuid import UUID

from eventspine import Aggregate, Event, Service, Spine, View, applies
from eventspine.journal import open_journal
from eventspine.journal.pages import feed

from . import raw
from .figures import Figure, Leg, Rounds, in_turns, per_second
from .material import OrderPlaced, backlog
from .places import folder
from .sizes import Sizes

SAVERS = 100
BATCH = 100  # events of one save
LONG = 100  # events of the aggregate that is loaded
PEER = "eventsourcing"
MISSING = "eventsourcing is not installed: pip install eventsourcing"


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


async def measure(sizes: Sizes) -> list[Figure]:
    return [
        await _singly(sizes),
        await _at_once(sizes),
        await _batched(sizes),
        await _loaded(sizes),
        await _read(sizes),
        await _built(sizes),
    ]


# --- saving -----------------------------------------------------------------------------------------------------------


async def _singly(sizes: Sizes) -> Figure:
    count = sizes.saves

    async def ours(path: Path) -> float:
        async with Spine(f"sqlite:///{path}", service=bank) as spine:
            accounts = await _opened(spine, 10)
            began = perf_counter()
            for number in range(count):
                await _credit(spine, accounts[number % 10])
            return count / (perf_counter() - began)

    async def bare(path: Path) -> float:
        return _commits(path, count)

    def peer(path: Path) -> float:
        return _peer_saves(path, count, 1)

    rounds = await _turns(sizes, ours=ours, bare=bare, peer=peer)
    return _figure(
        "an aggregate saved after each event", rounds, "≥ 0.8× the bare transaction", "bare", {"events": count}
    )


async def _at_once(sizes: Sizes) -> Figure:
    each = sizes.saves // 20

    async def ours(path: Path) -> float:
        async with Spine(f"sqlite:///{path}", service=bank) as spine:
            accounts = await _opened(spine, SAVERS)
            began = perf_counter()
            await asyncio.gather(*(_credits(spine, account, each) for account in accounts))
            return SAVERS * each / (perf_counter() - began)

    async def bare(path: Path) -> float:
        return _commits(path, SAVERS * each // 5)

    def peer(path: Path) -> float:
        return _peer_saves(path, SAVERS * each // 5, 1)

    rounds = await _turns(sizes, ours=ours, bare=bare, peer=peer)
    work = f"{SAVERS} savers at once, each after each of its events"
    return _figure(work, rounds, "≥ 3× the bare transaction", "bare", {"events": SAVERS * each})


async def _batched(sizes: Sizes) -> Figure:
    saves = sizes.saves // 10

    async def ours(path: Path) -> float:
        async with Spine(f"sqlite:///{path}", service=bank) as spine:
            (account,) = await _opened(spine, 1)
            began = perf_counter()
            for _ in range(saves):
                for _ in range(BATCH):
                    account.credit(1)
                await spine.save(account)
            return saves * BATCH / (perf_counter() - began)

    async def bare(path: Path) -> float:
        return _commits(path, saves, BATCH)

    def peer(path: Path) -> float:
        return _peer_saves(path, max(5, saves // 4), BATCH)

    rounds = await _turns(sizes, ours=ours, bare=bare, peer=peer)
    work = f"an aggregate saved after every {BATCH} events"
    return _figure(work, rounds, f"≥ 0.5× the bare insert, ≥ 3× {PEER}", "bare", {"events": saves * BATCH})


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


def _commits(path: Path, count: int, rows: int = 1) -> float:
    """A table of what a stream needs: its name, the version, a type and the bytes; unique."""
    connection = raw.connect(path)
    connection.execute(
        "create table stored (position integer primary key autoincrement, stream text not null, version integer not null,"
        " type text not null, data blob not null, unique (stream, version))"
    )
    insert = "insert into stored (stream, version, type, data) values (?, ?, ?, ?)"
    data = b'{"account":"account-0001","cents":1}'
    began = perf_counter()
    for number in range(count):
        connection.execute("begin immediate")
        first = number * rows
        connection.executemany(insert, [("account-0001", first + n, "bank.Credited", data) for n in range(rows)])
        connection.execute("commit")
    seconds = perf_counter() - began
    connection.close()
    return count * rows / seconds


# --- loading and reading ----------------------------------------------------------------------------------------------


async def _loaded(sizes: Sizes) -> Figure:
    count = sizes.loads

    async def ours(path: Path) -> float:
        async with Spine(f"sqlite:///{path}", service=bank) as spine:
            account = Account("account-0001")
            for _ in range(LONG):
                account.credit(1)
            await spine.save(account)
            began = perf_counter()
            for _ in range(count):
                found = await spine.load(Account, "account-0001")
            seconds = perf_counter() - began
            _same(found.cents, LONG)
        return count / seconds

    async def bare(path: Path) -> float:
        _commits(path, 1, LONG)
        connection = raw.connect(path)
        decode = raw.decoder_of(Credited)
        began = perf_counter()
        for _ in range(count):
            rows = connection.execute("select data from stored where stream = ? order by version", ("account-0001",))
            cents = sum(decode(data).cents for (data,) in rows)
        seconds = perf_counter() - began
        _same(cents, LONG)
        connection.close()
        return count / seconds

    def peer(path: Path) -> float:
        with _application(path) as application:
            account = _peer_class()()
            for _ in range(LONG - 1):
                account.credit(1)
            application.save(account)
            tries = max(10, count // 20)
            began = perf_counter()
            for _ in range(tries):
                found = application.repository.get(account.id)
            seconds = perf_counter() - began
            _same(found.version, LONG)
        return tries / seconds

    rounds = await _turns(sizes, ours=ours, bare=bare, peer=peer)
    return _figure(f"an aggregate of {LONG} events loaded", rounds, f"≥ 10× {PEER}", "peer", {"loads": count})


async def _read(sizes: Sizes) -> Figure:
    """Every event of the feed, decoded to its class."""
    count = sizes.feed

    async def ours(path: Path) -> float:
        kind = _kind(Credited)
        journal = open_journal(f"sqlite:///{path}")
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
        _same(seen, count)
        return count / seconds

    async def bare(path: Path) -> float:
        connection, decode, seen, position = raw.connect(path), raw.decoder_of(Credited), 0, 0
        began = perf_counter()
        while rows := connection.execute(
            "select position, data from spine_events where position > ? order by position limit 500", (position,)
        ).fetchall():
            for _, data in rows:
                decode(data)
            seen, position = seen + len(rows), rows[-1][0]
        seconds = perf_counter() - began
        _same(seen, count)
        connection.close()
        return count / seconds

    def peer(path: Path) -> float:
        few = max(1_000, count // 10)
        with _application(path) as application:
            account = _peer_class()()
            for done in range(1, few):
                account.credit(1)
                if not done % 500:
                    application.save(account)
            application.save(account)
            seen, start = 0, 1
            began = perf_counter()
            while notifications := application.recorder.select_notifications(start=start, limit=500):
                for notification in notifications:
                    application.mapper.to_domain_event(notification)
                seen, start = seen + len(notifications), notifications[-1].id + 1
            seconds = perf_counter() - began
        _same(seen, few)
        return few / seconds

    rounds = await _turns(sizes, fill=lambda path: _credited(path, count), ours=ours, bare=bare, peer=peer)
    return _figure("the feed read, each event decoded", rounds, f"≥ 4× {PEER}", "peer", {"events": count})


async def _credited(path: Path, count: int) -> None:
    async with Spine(f"sqlite:///{path}", service=Service("bank", publishes="bank")) as spine:
        for start in range(0, count, 1_000):
            some = range(start, min(start + 1_000, count))
            await spine.publish(*[Credited(account=f"account-{n % 1_000:04d}", cents=1) for n in some])


async def _built(sizes: Sizes) -> Figure:
    """From the start of the service until the view is where the feed is."""
    count = sizes.feed

    async def ours(path: Path) -> float:
        reports = _reports()
        async with Spine(f"sqlite:///{path}") as spine:
            last = await _last(spine)
            began = perf_counter()
            async with spine.running(reports):
                await spine.view(Spent).wait(last, timeout_s=600)
                seconds = perf_counter() - began
            rows = await spine.view(Spent).query("select sum(orders) as orders from spent")
            _same(rows[0]["orders"], count)
        return count / seconds

    async def bare(path: Path) -> float:
        return _built_by_hand(path, count)

    rounds = await _turns(sizes, fill=lambda path: backlog(path, count, 1_000), ours=ours, bare=bare)
    return _figure("a view of 1,000 rows built from the feed", rounds, "≥ 50,000 events/s", "bare", {"events": count})


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


def _built_by_hand(path: Path, count: int) -> float:
    """500 events of the feed, the rows they are about, and the position, in one transaction; and the next 500."""
    connection, decode = raw.connect(path), raw.decoder()
    connection.execute(
        "create table by_hand (customer_id text primary key, orders integer, units integer) without rowid"
    )
    connection.execute("create table stands (position integer not null)")
    connection.execute("insert into stands values (0)")
    position = 0
    began = perf_counter()
    while rows := connection.execute(
        "select position, data from spine_events where position > ? order by position limit 500", (position,)
    ).fetchall():
        changed: dict[str, list[int]] = {}
        for _, data in rows:
            event = decode(data)
            row = changed.get(event.customer_id)
            if row is None:
                found = connection.execute(
                    "select orders, units from by_hand where customer_id = ?", (event.customer_id,)
                ).fetchone()
                row = changed[event.customer_id] = list(found or (0, 0))
            row[0] += 1
            row[1] += event.units
        position = rows[-1][0]
        connection.execute("begin immediate")
        connection.executemany(
            "insert or replace into by_hand values (?, ?, ?)", [(key, *row) for key, row in changed.items()]
        )
        connection.execute("update stands set position = ?", (position,))
        connection.execute("commit")
    seconds = perf_counter() - began
    _same(connection.execute("select sum(orders) from by_hand").fetchone()[0], count)
    connection.close()
    return count / seconds


def _kind(cls: type[Event]) -> Any:
    from eventspine.events import describe

    return describe(cls)


# --- the peer -----------------------------------------------------------------------------------------------------------


@contextmanager
def _application(path: Path) -> Iterator[Any]:
    from eventsourcing.application import Application

    settings = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    with mock.patch.dict(os.environ, settings):
        application: Any = Application()
    with sqlite3.connect(path) as looked_at:
        _same(looked_at.execute("pragma journal_mode").fetchone()[0], "wal")
    try:
        yield application
    finally:
        application.close()


@cache
def _peer_class() -> Any:
    from eventsourcing.domain import Aggregate as PeerAggregate, event

    class PeerAccount(PeerAggregate):
        cents: int

        @event("Opened")
        def __init__(self) -> None:
            self.cents = 0

        @event("Credited")
        def credit(self, cents: int) -> None:
            self.cents += cents

    return PeerAccount


def _peer_saves(path: Path, count: int, events: int) -> float:
    with _application(path) as application:
        account = _peer_class()()
        application.save(account)
        began = perf_counter()
        for _ in range(count):
            for _ in range(events):
                account.credit(1)
            application.save(account)
        return count * events / (perf_counter() - began)


# --- legs ---------------------------------------------------------------------------------------------------------------


async def _turns(
    sizes: Sizes,
    *,
    fill: Callable[[Path], Awaitable[None]] | None = None,
    peer: Callable[[Path], float] | None = None,
    **legs: Callable[[Path], Any],
) -> Rounds:
    """Each leg on a file of its own, each time; ours and bare ones on a copy of the journal that `fill` makes."""
    with folder() as where:
        number, full = iter(range(1_000_000)), where / "full.db"
        if fill is not None:
            await fill(full)

        def on_a_file(leg: Callable[[Path], Any]) -> Leg:
            async def run() -> float:
                path = where / f"{next(number)}.db"
                if fill is not None:
                    shutil.copy(full, path)
                rate: float = await leg(path)
                path.unlink(missing_ok=True)
                return rate

            return run

        async def of_the_peer(_: Path) -> float:
            assert peer is not None
            return await asyncio.to_thread(peer, where / f"peer-{next(number)}.db")

        run = {name: on_a_file(leg) for name, leg in legs.items()}
        if peer is not None and _has_peer():
            run["peer"] = on_a_file(of_the_peer)
        return await in_turns(run, sizes.rounds)


def _has_peer() -> bool:
    try:
        import eventsourcing  # noqa: F401
    except ImportError:
        return False
    return True


def _figure(work: str, rounds: Rounds, to_reach: str, twin: str, values: dict[str, Any]) -> Figure:
    beside = [f"bare SQL: {per_second(rounds.rate('bare'))} ({rounds.spread('ours', 'bare')})"]
    if "peer" in rounds.rates:
        beside.append(f"{PEER}: {per_second(rounds.rate('peer'))} ({rounds.spread('ours', 'peer')})")
    elif not _has_peer():
        beside.append(MISSING)
    return Figure(
        work,
        per_second(rounds.rate("ours")),
        to_reach,
        rounds.spread("ours", twin) if twin in rounds.rates else "",
        beside,
        {**values, "rates": rounds.rates},
    )


def _same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise RuntimeError(f"{found!r} instead of {wanted!r}: the two did not do the same work")
