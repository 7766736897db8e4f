"""`spine doctor`: what the journal is and promises, who is at work on it, and what is wrong. Reads only, and waits for
no lock.

Each finding says what to do. The exit code is 1 when there is one that needs somebody, so that a monitor may call this.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..errors import JournalError
from ..journal.pages import feed
from ..journal.port import Journal, Lease, Process, Subscription
from ..observe.printable import printable
from ..wording import plural
from .app import Command, Invocation, json_option, pass_invocation, setting_option
from .at_broker import AtBroker, is_carrying, look, needs_of_rows, nobody_at_work
from .at_work import lives
from .damage import damage
from .exits import FAILED
from .findings import Promise, of_the_disk, of_the_processes, of_the_waiting, promises, waits_since
from .journals import asynchronous, existing_journal
from .lags import positions
from .output import json_document, note, say, size
from .promised import DOES_NOT_ARISE, Cell, of_setup
from .standings import cursors_of, finished, title
from .subscriptions import Row, rows
from .times import iso, now_us, span

HOUR_US = 3_600_000_000
WAL_LARGE_BYTES = 128 * 1024 * 1024
HELD_LONG_US = 1_000_000
OVERDUE_US = 10_000_000
COUNTED_MOST = 100_000  # rows of a table, as the journal counts them; more are told as so many and more


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
    facts = await _facts_of(journal)
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


async def _sizes(journal: Journal, facts: Mapping[str, Any]) -> dict[str, int]:
    tables = {name.removesuffix("_rows"): rows for name, rows in facts.items() if name.endswith("_rows")}
    return {"events": sum(each.events for each in await journal.channel_sizes())} | tables


def _disk_of(facts: Mapping[str, object]) -> Disk | None:
    file = facts.get("file")
    if not isinstance(file, str):
        return None
    usage = shutil.disk_usage(Path(file).parent)
    return Disk(usage.total, usage.free)


async def _facts_of(journal: Journal) -> dict[str, Any]:
    """Where nothing tells for how long the lock has been held, it is watched for as long as is worth a word."""
    facts = await journal.describe()
    began = now_us()
    while _is_held(facts) and now_us() - began <= HELD_LONG_US:
        await asyncio.sleep(0.05)
        later = await journal.describe()
        if later["lock_pid"] != facts["lock_pid"] or not _is_held(later):
            return later
    return facts | {"lock_since_us": began} if _is_held(facts) else facts


def _is_held(facts: dict[str, Any]) -> bool:
    """By a connection that takes no turns, so that its beginning is not known."""
    return facts.get("lock_pid") is not None and facts.get("lock_since_us") is None


def findings(seen: Examined) -> list[str]:
    """What needs somebody, each with what to do."""
    return [
        *_of_the_file(seen.facts),
        *of_the_disk(seen),
        *of_the_processes(seen),
        *_of_the_work(seen),
        *of_the_waiting(seen),
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


def _report(seen: Examined, wrong: Sequence[str], tested: Sequence[Cell], there: AtBroker | None = None) -> None:
    for name, value in _facts(seen):
        say(f"{name:<14} {printable(value)}")
    for told in process_lines(seen):
        say(f"{'process':<14} {told}")
    say()
    if there is not None:
        there.report()
    for promise in _promises(seen, there):
        say(f"{'promised' if promise.kept else 'not promised':<14} {promise.says}")
    say()
    _report_tested(tested)
    say()
    for number, finding in enumerate(wrong, 1):
        say(f"{number}. {finding}")
    if not wrong:
        say("Nothing is wrong.")


def process_lines(seen: Examined) -> Iterator[str]:
    """A line each; those of one service that are gone and have nothing in their name share one, or they would bury the
    others after a night of crashes."""
    bare = [process for process, alive in seen.processes if not alive and not _held_by(seen, process)]
    many = {service for service, count in Counter(process.service for process in bare).items() if count > 1}
    for process, alive in seen.processes:
        if process not in bare or process.service not in many:
            yield _process_line(seen, process, alive)
    for service in sorted(many):
        yield _gone_line(seen, [process for process in bare if process.service == service])


def _held_by(seen: Examined, process: Process) -> int:
    return sum(lease.owner == process.id for lease in seen.leases)


def _process_line(seen: Examined, process: Process, alive: bool) -> str:
    release = f"  eventspine {printable(process.release)}" if process.release else ""
    told = f"{printable(process.service)}  pid {process.pid}{release}  {_condition(seen, process, alive)}"
    return f"{told}  {plural(_held_by(seen, process), 'lease')}"


def _gone_line(seen: Examined, gone: Sequence[Process]) -> str:
    """When the last of them was heard of, as far as is known: until then its leases held."""
    service = printable(gone[0].service)
    last = span(max(0, seen.now - max(process.until_us for process in gone)))
    taken = (
        "others take their work over"
        if gone[0].service in seen.alive
        else f"their work waits for a process of {service}"
    )
    return f"{service}  {plural(len(gone), 'process', 'processes')} gone without leaving, the last {last} ago; {taken}  0 leases"


def _report_tested(tested: Sequence[Cell]) -> None:
    for setup in dict.fromkeys(cell.setup for cell in tested):
        say(f"Tested on {setup}:")
        for cell in tested:
            if cell.setup == setup and cell.verdict != DOES_NOT_ARISE:
                lost = f"; lost is {cell.why}" if cell.why else ""
                say(f"{cell.verdict:<14} {cell.fault}{lost}")


def _condition(seen: Examined, process: Process, lives: bool) -> str:
    overdue = seen.now - process.until_us
    if lives:
        late = f", its leases ran out {span(overdue)} ago" if overdue > 0 else ""
        return f"up {span(seen.now - process.started_us)}{late}"
    if process.service in seen.alive:
        return "gone without leaving; others take its work over"
    return f"gone without leaving; its work waits for a process of {printable(process.service)}"


def _facts(seen: Examined) -> list[tuple[str, object]]:
    shown: list[tuple[str, object]] = []
    for name, value in seen.facts.items():
        if value is None or name == "lock_since_us" or name.endswith("_rows"):
            continue
        label = name.replace("_bytes", "_size").replace("_", " ")
        shown.append((label.removesuffix(" us"), _fact(name, value)))
    stored = seen.stored
    shown += [
        ("events", f"{seen.head:,}, {seen.last_hour:,} of them in the last hour"),
        ("growth", _growth(seen)),
        ("rows", ", ".join(f"{_counted(rows)} {table.replace('_', ' ')}" for table, rows in seen.sizes.items())),
        ("disk", "unknown" if seen.disk is None else f"{size(seen.disk.free)} free"),
        ("deliveries", f"{stored['parked']:,} parked, {stored['dead']:,} dead"),
        ("timers", f"{seen.timers:,}{'+' if seen.timers == 1000 else ''}"),
    ]
    return shown


def _fact(name: str, value: object) -> object:
    if isinstance(value, int) and name.endswith("_bytes"):
        return size(value)
    return iso(value) if isinstance(value, int) and name.endswith("_us") else value


def _growth(seen: Examined) -> str:
    file_bytes, events = seen.facts.get("file_bytes"), seen.sizes.get("events") or seen.head
    if not isinstance(file_bytes, int) or not events:
        return "unknown"
    each = size(round(file_bytes / events))
    return f"{each} an event, {size(round(seen.bytes_a_day))} a day at the last hour's rate"


def _counted(rows: int) -> str:
    return f"{COUNTED_MOST:,}+" if rows >= COUNTED_MOST else f"{rows:,}"


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
            _report(seen, wrong, tested, there)
            if there is None and any(is_carrying(row.subscription.service) for row in seen.rows):
                note("Events go to and from a broker here: name it with --broker to have it looked at, too.")
        return FAILED if wrong else 0
