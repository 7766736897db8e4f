"""Event sourcing and views: saves, loads, the feed, and a view built anew, beside bare SQL and a peer.

The peer is `eventsourcing`, on the same database with the same durability. What it is asked to do is what its guide shows: an
`Application` with aggregates, its notification log, and a mapper that decodes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from time import perf_counter
from typing import Any
from unittest import mock

from . import accounts, databases
from .accounts import BATCH, LONG, SAVERS, same
from .databases import Database
from .figures import Figure, Leg, Rounds, in_turns, per_second
from .material import backlog
from .sizes import Sizes

PEER = "eventsourcing"
MISSING = "eventsourcing is not installed: pip install eventsourcing"
Ours = Callable[[str], Awaitable[float]]  # of a URL, a rate
ByHand = Callable[[str], float]


async def on_sqlite(sizes: Sizes) -> list[Figure]:
    async with databases.sqlite() as database:
        return await _measured(database, sizes)


async def on_postgres(sizes: Sizes) -> list[Figure]:
    async with databases.postgres() as database:
        return await _measured(database, sizes)


async def _measured(database: Database, sizes: Sizes) -> list[Figure]:
    return [await figure(database, sizes) for figure in (_singly, _at_once, _batched, _loaded, _read, _built)]


async def _singly(database: Database, sizes: Sizes) -> Figure:
    count = sizes.saves
    rounds = await _turns(
        database,
        sizes,
        ours=lambda url: accounts.saved_singly(url, count),
        bare=lambda url: database.commits(url, count),
        peer=lambda application: _peer_saves(application, count, 1),
    )
    return _figure(
        "an aggregate saved after each event", rounds, "≥ 0.8× the bare transaction", "bare", {"events": count}
    )


async def _at_once(database: Database, sizes: Sizes) -> Figure:
    each = sizes.saves // 20
    rounds = await _turns(
        database,
        sizes,
        ours=lambda url: accounts.saved_at_once(url, each),
        bare=lambda url: database.commits(url, SAVERS * each // 5),
        peer=lambda application: _peer_saves(application, SAVERS * each // 5, 1),
    )
    work = f"{SAVERS} savers at once, each after each of its events"
    return _figure(work, rounds, "≥ 3× the bare transaction", "bare", {"events": SAVERS * each})


async def _batched(database: Database, sizes: Sizes) -> Figure:
    saves = sizes.saves // 10
    rounds = await _turns(
        database,
        sizes,
        ours=lambda url: accounts.saved_in_batches(url, saves),
        bare=lambda url: database.commits(url, saves, BATCH),
        peer=lambda application: _peer_saves(application, max(5, saves // 4), BATCH),
    )
    work = f"an aggregate saved after every {BATCH} events"
    return _figure(work, rounds, f"≥ 0.5× the bare insert, ≥ 3× {PEER}", "bare", {"events": saves * BATCH})


async def _loaded(database: Database, sizes: Sizes) -> Figure:
    count = sizes.loads
    rounds = await _turns(
        database,
        sizes,
        ours=lambda url: accounts.loaded(url, count),
        bare=lambda url: database.loads(url, count),
        peer=lambda application: _peer_loads(application, max(10, count // 20)),
    )
    return _figure(f"an aggregate of {LONG} events loaded", rounds, f"≥ 10× {PEER}", "peer", {"loads": count})


async def _read(database: Database, sizes: Sizes) -> Figure:
    count = sizes.feed
    rounds = await _turns(
        database,
        sizes,
        fill=lambda url: accounts.credited(url, count),
        ours=lambda url: accounts.read(url, count),
        bare=lambda url: database.reads(url, count),
        peer=lambda application: _peer_reads(application, max(1_000, count // 10)),
    )
    return _figure("the feed read, each event decoded", rounds, f"≥ 4× {PEER}", "peer", {"events": count})


async def _built(database: Database, sizes: Sizes) -> Figure:
    count = sizes.feed
    rounds = await _turns(
        database,
        sizes,
        fill=lambda url: backlog(url, count, 1_000),
        ours=lambda url: accounts.built(url, count),
        bare=lambda url: database.builds(url, count),
    )
    return _figure("a view of 1,000 rows built from the feed", rounds, "≥ 50,000 events/s", "bare", {"events": count})


# --- the peer -----------------------------------------------------------------------------------------------------------


@contextmanager
def _application(settings: Mapping[str, str]) -> Iterator[Any]:
    from eventsourcing.application import Application

    with mock.patch.dict(os.environ, settings):
        application: Any = Application()
    if (path := settings.get("SQLITE_DBNAME")) is not None:
        with sqlite3.connect(path) as looked_at:
            same(looked_at.execute("pragma journal_mode").fetchone()[0], "wal")
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


def _peer_saves(application: Any, count: int, events: int) -> float:
    account = _peer_class()()
    application.save(account)
    began = perf_counter()
    for _ in range(count):
        for _ in range(events):
            account.credit(1)
        application.save(account)
    return count * events / (perf_counter() - began)


def _peer_loads(application: Any, tries: int) -> float:
    account = _peer_class()()
    for _ in range(LONG - 1):
        account.credit(1)
    application.save(account)
    began = perf_counter()
    for _ in range(tries):
        found = application.repository.get(account.id)
    seconds = perf_counter() - began
    same(found.version, LONG)
    return tries / seconds


def _peer_reads(application: Any, count: int) -> float:
    account = _peer_class()()
    for done in range(1, count):
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
    same(seen, count)
    return count / seconds


# --- legs ---------------------------------------------------------------------------------------------------------------


async def _turns(
    database: Database,
    sizes: Sizes,
    *,
    ours: Ours,
    bare: ByHand,
    fill: Callable[[str], Awaitable[None]] | None = None,
    peer: Callable[[Any], float] | None = None,
) -> Rounds:
    """Each leg in a place of its own, each time; ours and bare ones in a copy of the journal that `fill` makes."""
    full = None
    if fill is not None:
        await fill(full := database.fresh())

    def in_a_place(leg: Ours, like: str | None) -> Leg:
        async def run() -> float:
            url = database.fresh(like)
            rate = await leg(url)
            database.forget(url)
            return rate

        return run

    async def by_hand(url: str) -> float:
        return bare(url)

    async def of_the_peer(of: Callable[[Any], float], url: str) -> float:
        def run() -> float:
            with _application(database.settings_of_peer(url)) as application:
                return of(application)

        return await asyncio.to_thread(run)

    legs = {"ours": in_a_place(ours, full), "bare": in_a_place(by_hand, full)}
    if peer is not None and _has_peer():
        legs["peer"] = in_a_place(partial(of_the_peer, peer), None)
    return await in_turns(legs, sizes.rounds)


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
