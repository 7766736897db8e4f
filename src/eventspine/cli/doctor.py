"""`spine doctor`: what the journal is and promises, who is at work on it, and what is wrong. Reads only, and waits for
no lock.

Each finding says what to do. The exit code is 1 when there is one that needs somebody, so that a monitor may call this.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..engine.gaps import Missed, missed
from ..errors import JournalError
from ..journal.pages import feed
from ..journal.port import Journal, Lease, Process, Subscription
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation, setting_option
from .at_broker import INTAKE, AtBroker, is_carrying, look, needs_of_rows, nobody_at_work
from .at_work import lives
from .damage import damage
from .diagnosis import report
from .exits import FAILED
from .findings import Promise, of_the_disk, of_the_gaps, of_the_processes, of_the_waiting, promises, waits_since
from .journals import asynchronous, existing_journal
from .lags import positions
from .output import json_document, note, say, size
from .promised import Cell, of_setup
from .rows import Row, rows
from .standings import cursors_of, finished, title
from .times import iso, now_us, span
from .write_lock import facts_with_lock

HOUR_US = 3_600_000_000
WAL_LARGE_BYTES = 128 * 1024 * 1024
HELD_LONG_US = 1_000_000
OVERDUE_US = 10_000_000


class Disk(NamedTuple):
    total: int
    free: int


class Examined(NamedTuple):
    facts: dict[str, str | int | None]
    processes: Sequence[tuple[Process, bool]]  # and whether it is alive
    leases: Sequence[Lease]
    rows: Sequence[Row]
    now: int
    head: int
    last_hour: int
    timers: int
    overdue_us: int
    oldest: Mapping[int, int]  # by subscription: when the first event that it has not handled was recorded
    sizes: Mapping[str, int]  # rows by table
    missed: Mapping[str, Missed]  # by channel: what its intake has given up
    disk: Disk | None

    @property
    def bytes_a_day(self) -> float:
        """At the last hour's rate."""
        file_bytes, events = self.facts.get("file_bytes"), self.sizes.get("events") or self.head
        return file_bytes / events * self.last_hour * 24 if isinstance(file_bytes, int) and events else 0.0

    @property
    def stored(self) -> Counter[str]:
        return sum((row.stored for row in self.rows), Counter[str]())

    @property
    def alive(self) -> set[str]:
        """Services that somebody runs."""
        return {process.service for process, lives in self.processes if lives}


async def examine(journal: Journal) -> Examined:
    now = now_us()
    head = await journal.head()
    timers = await journal.timers()
    stored = [row for row in await journal.subscriptions() if row.state != "retired"]
    stored.sort(key=lambda row: (row.service, row.name))
    facts = await facts_with_lock(journal, HELD_LONG_US)
    return Examined(
        facts=facts,
        processes=[(row, lives(row, now)) for row in await journal.processes()],
        leases=[row for row in await journal.leases() if row.owner],
        rows=[row async for row in rows(journal, stored)],
        now=now,
        head=head,
        last_hour=head - await journal.position_at(now - HOUR_US),
        timers=len(timers),
        overdue_us=max(0, now - timers[0].due_us) if timers else 0,
        oldest=await _oldest(journal, stored, head),
        sizes=await _sizes(journal, facts),
        missed=await _missed(journal, stored),
        disk=_disk_of(facts),
    )


async def _oldest(journal: Journal, stored: Sequence[Subscription], head: int) -> dict[int, int]:
    cursors, found = await cursors_of(journal, stored), {}
    for row in stored:
        wanted = {"channels": row.channels, "types": [type for type, _ in row.types] or None}
        async for record in feed(journal, min(positions(row, cursors), default=head), head, **wanted):
            if not finished(row, record, cursors):
                found[row.number] = record.recorded_us
                break
    return found


async def _missed(journal: Journal, stored: Sequence[Subscription]) -> dict[str, Missed]:
    intakes = [row for row in stored if row.service.startswith(INTAKE)]
    found = {row.service.removeprefix(INTAKE): await missed(journal, row) for row in intakes}
    return {channel: one for channel, one in found.items() if one is not None}


async def _sizes(journal: Journal, facts: Mapping[str, Any]) -> dict[str, int]:
    tables = {name.removesuffix("_rows"): rows for name, rows in facts.items() if name.endswith("_rows")}
    return {"events": sum(each.events for each in await journal.channel_sizes())} | tables


def _disk_of(facts: Mapping[str, object]) -> Disk | None:
    file = facts.get("file")
    if not isinstance(file, str):
        return None
    usage = shutil.disk_usage(Path(file).parent)
    return Disk(usage.total, usage.free)


def findings(seen: Examined) -> list[str]:
    """What needs somebody, each with what to do."""
    return [
        *_of_the_file(seen.facts),
        *of_the_disk(seen),
        *of_the_processes(seen),
        *_of_the_work(seen),
        *of_the_waiting(seen),
        *of_the_gaps(seen),
    ]


def _of_the_file(facts: dict[str, Any]) -> list[str]:
    found = []
    if (wal := facts.get("wal_bytes") or 0) > WAL_LARGE_BYTES:
        found.append(
            f"The WAL has grown to {size(wal)}: somebody keeps an old read transaction open. End it; the next "
            "checkpoint then shortens the file."
        )
    if moved := facts.get("promoted"):
        found.append(
            f"The database was promoted or restored since this journal was told so ({moved}, cluster/timeline/table). Unless its standby "
            "was synchronous, acknowledged events may be gone, and numbers given out again: how-to/postgresql.md, "
            '"After a failover", says what to do, and how to tell it.'
        )
    if by := facts.get("feed_held_up_by"):
        found.append(
            f"A transaction that has appended is still open, and readers wait for its place in the feed ({by}). End it: "
            "select pg_terminate_backend(PID)."
        )
    since = facts.get("lock_since_us")
    if isinstance(since, int) and (held_us := now_us() - since) > HELD_LONG_US:
        found.append(_held(facts["lock_pid"], facts.get("lock_waits_pid"), span(held_us)))
    return found


def _held(holder: int | None, waiter: int | None, span: str) -> str:
    if holder is None:
        return (
            f"Process {waiter} has waited for the write lock for {span}, which a connection holds that is not the "
            "spine's; the system doesn't tell whose. Look for a program with an open transaction on this file, and end it."
        )
    waits = f", and process {waiter} waits for it" if waiter else ""
    if waiter == holder:
        waits = ", through a connection that is not the spine's, and waits for it itself"
    return (
        f"Process {holder} has held the write lock for {span}{waits}: nobody else can write. "
        "End its transaction; if it is stopped, let it go on (kill -CONT) or end it."
    )


def _of_the_work(seen: Examined) -> list[str]:
    found = []
    for row in seen.rows:
        name, state = title(row.subscription), row.subscription.state
        if state == "suspended":
            found.append(
                f"{name} is suspended: no release declares it. Run one that does, or `spine subscriptions retire` it."
            )
        elif row.to_handle.events and row.subscription.service not in seen.alive:
            nobody = f", and no process of {row.subscription.service} is alive. Run it."
            if is_carrying(row.subscription.service):
                nobody = ". " + nobody_at_work(row.subscription.service)
            found.append(
                f"{name} has {row.to_handle.in_words} to handle{waits_since(seen, row.subscription.number)}{nobody}"
            )
    if dead := seen.stored["dead"]:
        found.append(
            f"{plural(dead, 'delivery is', 'deliveries are')} dead. `spine dead list` says why; when that is mended, "
            "`spine dead replay --all` tries them again."
        )
    if seen.overdue_us > OVERDUE_US:
        found.append(
            f"A scheduled event is overdue by {span(seen.overdue_us)}: no process runs on this journal. Run a service."
        )
    return found


def _view(
    seen: Examined, wrong: Sequence[str], tested: Sequence[Cell], there: AtBroker | None = None
) -> dict[str, Any]:
    return {
        "ok": not wrong,
        "findings": wrong,
        "promises": [{"kept": promise.kept, "says": promise.says} for promise in _promises(seen, there)],
        "broker": None if there is None else there.view(),
        "faults": [cell._asdict() for cell in tested],
        "journal": _journal_view(seen.facts),
        "rows": dict(seen.sizes),
        "disk_free_bytes": None if seen.disk is None else seen.disk.free,
        "events": seen.head,
        "events_last_hour": seen.last_hour,
        "timers": seen.timers,
        "deliveries": {state: seen.stored[state] for state in ("parked", "dead", "held")},
        "processes": [
            {
                "id": process.id,
                "service": process.service,
                "generation": process.generation,
                "pid": process.pid,
                "host": process.host,
                "release": process.release,
                "started": iso(process.started_us),
                "alive": lives,
                "until": iso(process.until_us),
                "leases": sum(lease.owner == process.id for lease in seen.leases),
            }
            for process, lives in seen.processes
        ],
        "leases": [
            {"name": row.name, "epoch": row.epoch, "owner": row.owner, "until": iso(row.until_us)}
            for row in seen.leases
        ],
    }


def _journal_view(facts: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in facts.items() if not name.endswith("_rows")}
    if "lock_since_us" in shown:
        since = shown.pop("lock_since_us")
        shown["lock_since"] = None if since is None else iso(since)
    return shown


def _tested(seen: Examined, broker: str | None) -> list[Cell]:
    pids = {process.pid for process, lives in seen.processes if lives}
    kind = broker.partition(":")[0] if broker else None
    return of_setup(str(seen.facts["kind"]), kind, processes=len(pids) > 1)


def _promises(seen: Examined, there: AtBroker | None) -> list[Promise]:
    return [*promises(seen), *(() if there is None else there.promises)]


def _report_damage(damaged: Sequence[str], as_json: bool) -> int:
    """All that can be told where nothing else can be read."""
    if as_json:
        say(json_document({"ok": False, "findings": damaged}))
    for number, finding in enumerate(() if as_json else damaged, 1):
        say(f"{number}. {finding}")
    return FAILED


@click.command(cls=Command)
@click.option("--deep", is_flag=True, help="Read all of the file, to find damage; takes as long as that.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="BACKUP",
    help="Compare each event with what a backup has of it.",
)
@setting_option("broker", "URL")
@json_option
@pass_invocation
@asynchronous
async def command(invocation: Invocation, deep: bool, against: Path | None, as_json: bool) -> int:
    """Look at the journal and say what is wrong with it; and at the broker, where one is named.

    Exits with 1 when something needs somebody."""
    async with existing_journal(invocation) as journal:
        damaged = await damage(journal, deep=deep, against=against)
        try:
            seen = await examine(journal)
        except (JournalError, sqlite3.Error, ValueError, TypeError):
            if damaged:
                return _report_damage(damaged, as_json)
            raise
        broker = invocation.settings.broker
        there = None if broker is None else await look(broker, needs_of_rows([row.subscription for row in seen.rows]))
        wrong = [*damaged, *findings(seen), *(() if there is None else there.wrong)]
        tested = _tested(seen, invocation.settings.broker)
        if as_json:
            say(json_document(_view(seen, wrong, tested, there)))
        else:
            report(seen, _promises(seen, there), wrong, tested, there)
            if there is None and any(is_carrying(row.subscription.service) for row in seen.rows):
                note("Events go to and from a broker here: name it with --broker to have it looked at, too.")
        return FAILED if wrong else 0
