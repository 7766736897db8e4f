"""One look at everything that is at work on a journal: what `spine top` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..journal.port import Journal, Process, Subscription
from .at_work import lives
from .rates import Look, Rate, look, rates
from .rows import Row, rows, view as subscription_view
from .times import iso, now_us

MINUTE_US = 60_000_000


class Seen(NamedTuple):
    row: Row
    rate: Rate | None  # None: not measured yet
    failures: int  # deliveries whose last attempt failed within the last minute and that are still open


class Snapshot(NamedTuple):
    facts: dict[str, Any]
    look: Look
    published: Rate | None
    processes: Sequence[tuple[Process, bool, int]]  # alive, and how many leases
    subscriptions: Sequence[Seen]
    services: Sequence[str]

    def to_handle(self, service: str) -> int:
        return sum(seen.row.to_handle.events for seen in self.subscriptions if seen.row.subscription.service == service)


async def snapshot(journal: Journal, service: str | None, before: Snapshot | None) -> Snapshot:
    """Rates are of the time since the one before."""
    stored = [row for row in await journal.subscriptions(service) if row.state != "retired"]
    stored.sort(key=lambda row: (row.service, row.name))
    now = await look(journal, stored)
    measured = await rates(journal, stored, before.look, now) if before else {}
    leases = Counter(lease.owner for lease in await journal.leases() if lease.owner)
    processes = [
        (row, lives(row, now.at_us), leases[row.id])
        for row in await journal.processes()
        if service in (None, row.service)
    ]
    seen = [
        Seen(row, measured.get(row.subscription.number), await _failures(journal, row.subscription, now.at_us))
        async for row in rows(journal, stored)
    ]
    services = sorted({row.service for row in stored} | {process.service for process, _, _ in processes})
    return Snapshot(await journal.describe(), now, _published(before, now), processes, seen, services)


def _published(before: Snapshot | None, now: Look) -> Rate | None:
    if before is None:
        return None
    span_s = max(1e-3, (now.at_us - before.look.at_us) / 1e6)
    return Rate((now.head - before.look.head) / span_s)


async def _failures(journal: Journal, subscription: Subscription, now: int) -> int:
    failed, after = 0, 0
    while page := await journal.deliveries(
        subscriptions=[subscription.number], states=["parked", "dead"], after=after, records=False
    ):
        failed += sum(bool(row.attempts or row.deaths) and row.last_us > now - MINUTE_US for row in page)
        after = page[-1].number
    return failed


def view(seen: Snapshot) -> dict[str, Any]:
    facts = seen.facts
    return {
        "time": iso(seen.look.at_us),
        "journal": {name: facts.get(name) for name in ("file", "file_bytes", "wal_bytes", "lock_pid")},
        "events": seen.look.head,
        "published_s": None if seen.published is None else round(seen.published.events_s, 3),
        "services": [
            {
                "service": name,
                "processes": [
                    {
                        "pid": process.pid,
                        "host": process.host,
                        "release": process.release,
                        "generation": process.generation,
                        "started": iso(process.started_us),
                        "alive": alive,
                        "leases": leases,
                    }
                    for process, alive, leases in seen.processes
                    if process.service == name
                ],
            }
            for name in seen.services
        ],
        "subscriptions": [
            subscription_view(one.row, one.rate) | {"failures_last_minute": one.failures} for one in seen.subscriptions
        ],
    }


def lock_of(seen: Snapshot, asked_us: int | None = None) -> str:
    """Who holds the write lock, in words; "" when nobody does."""
    pid, since = seen.facts.get("lock_pid"), seen.facts.get("lock_since_us")
    if pid is None:
        return ""
    held_us = (asked_us or now_us()) - since if isinstance(since, int) else 0
    return f"process {pid}" + (f" for {held_us / 1e6:.1f} s" if held_us > 100_000 else "")
