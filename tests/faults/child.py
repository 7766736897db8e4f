"""A process of these tests: `python -m tests.faults.child publish|consume FOLDER ...`.

What no product code has is here: the places at which a process kills or stops itself, and the safeguards that it can do
without (`--without`). Both are put into the running modules from outside, in this process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import resource
import signal
import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eventspine import Service, Spine
from eventspine.cli import main as command
from eventspine.clock import SystemClock
from eventspine.engine import batches, health as health_module, host, runtime, subscription
from eventspine.errors import JournalError, OutcomeUnknown
from eventspine.journal import _sql_apply, _sql_refusals, _sqlite_describe, _sqlite_log, _sqlite_writer, migrations
from eventspine.journal.sqlite import SQLiteJournal
from tests.faults import services

NAMESPACE = uuid.UUID("6f1d2b52-6d0b-4c1c-9d0e-7a3b8f2f0c11")


def main() -> None:
    asked = arguments()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # past a limit of its file size, a write fails instead
    health_module.WAIT_MOST_S = 0.3
    if asked.threads:
        runtime.THREADS = asked.threads
    if asked.clock:
        have_clock(asked.folder / f"clock-{asked.name}")
    if asked.release:
        be_release(asked.release)
    for safeguard in asked.without:
        WITHOUT[safeguard]()
    if asked.at:
        happen(*asked.at)
    if asked.role == "spine":
        sys.argv = ["spine", *asked.line]
        command()
    else:
        asyncio.run(publish(asked) if asked.role == "publish" else consume(asked))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["publish", "consume", "spine"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--services", nargs="*", default=["books", "mail"])
    parser.add_argument("--lease", type=float, default=1.5)
    parser.add_argument("--busy", type=float, default=30.0)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--at", nargs=3, metavar=("PLACE", "TIMES", "DEED"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--release", type=int, help="of eventspine itself, instead of the one that is installed")
    parser.add_argument("--roll-back", action="store_true")
    parser.add_argument("--retire", nargs="*", default=[])
    parser.add_argument("--publishes", action="store_true", help="too, where it consumes")
    parser.add_argument("--clock", action="store_true", help="which can be set")
    parser.add_argument("--name", default="p")
    parser.add_argument("--keys", type=int, default=6)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--pause", type=float, default=0.01)
    parser.add_argument("--type", default="Counted")
    parser.add_argument("--after", type=float, help="seconds, to publish later")
    parser.add_argument("--do", nargs="*", default=[], metavar="DEED[:KEY:NUMBER]")
    parser.add_argument("--line", nargs=argparse.REMAINDER, help="of the command, for the role spine")
    return parser.parse_args()


def open_spine(asked: argparse.Namespace, **given: Any) -> Spine:
    if services.POSTGRES:
        from eventspine.journal.postgres import PostgresJournal

        return Spine(PostgresJournal(os.environ["FAULTS_JOURNAL"], busy_s=asked.busy), lease_s=asked.lease, **given)
    journal = SQLiteJournal(f"sqlite:///{asked.folder}/spine.db", busy_s=asked.busy)
    for name in asked.without:
        if name in SAFEGUARDS:
            setattr(journal._safeguards, SAFEGUARDS[name], False)
    return Spine(journal, lease_s=asked.lease, **given)


# --- roles ---------------------------------------------------------------------------------------------------------------


async def publish(asked: argparse.Namespace) -> None:
    """A task per key. What was acknowledged is told in the file `acknowledged`; what was not is published again, under the
    same id, by whoever has this name next."""
    known = acknowledged(asked.folder)
    async with open_spine(asked, service=services.till) as spine:
        tell(asked, spine)
        ready(asked)
        keys = [f"{asked.name}-{number}" for number in range(asked.keys)]
        await asyncio.gather(*(_publish(asked, spine, key, known.get(key, 0) + 1) for key in keys))


async def _publish(asked: argparse.Namespace, spine: Spine, key: str, number: int) -> None:
    kind = getattr(services, asked.type)
    while number <= asked.count and not (asked.folder / "stop").exists():
        try:
            receipt = await spine.publish(
                kind(key=key, number=number, **deed(asked, key, number)),
                id=str(uuid.uuid5(NAMESPACE, f"{key}/{number}")),
                **later(asked),
            )
        except (JournalError, OutcomeUnknown) as error:
            line(asked.folder / "troubles", f"{type(error).__name__} {asked.name} {error}")
            await asyncio.sleep(0.05)
        else:
            assert receipt.durable
            line(asked.folder / "acknowledged", f"{key} {number}")
            number += 1
            await asyncio.sleep(asked.pause)


def later(asked: argparse.Namespace) -> dict[str, datetime]:
    """When it happened and when it is due, from one look at the clock: whoever reckons subtracts them exactly."""
    now = datetime.now(UTC)
    return {"time": now, "at": now + timedelta(seconds=asked.after)} if asked.after else {}


def deed(asked: argparse.Namespace, key: str, number: int) -> dict[str, str]:
    """What this event says in `do`."""
    chosen = (word.partition(":") for word in asked.do)
    return next(({"do": do} for do, _, which in chosen if which in ("", f"{key}:{number}")), {})


def acknowledged(folder: Path) -> dict[str, int]:
    """The last number of each key."""
    path = folder / "acknowledged"
    lines = path.read_text().splitlines() if path.exists() else []
    return {key: int(number) for key, number in (line.split() for line in lines)}


async def consume(asked: argparse.Namespace) -> None:
    chosen = [service(name) for name in asked.services]
    told_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_stop.set)
    async with open_spine(asked, service=services.till if asked.publishes else None) as spine:
        tell(asked, spine)
        async with spine.running(*chosen, roll_back=asked.roll_back, retire=asked.retire, drain_s=20) as running:
            ready(asked)
            if asked.publishes:
                await asyncio.gather(*(_publish(asked, spine, f"{asked.name}-{key}", 1) for key in range(asked.keys)))
            await told_to_stop.wait()
    sys.exit(0 if running.drained else 5)


def service(name: str) -> Service[Any]:
    """By its name; of some, a release: letters2; of another module, as in an import: tests.soak.services:ledger."""
    if ":" in name:
        module, _, name = name.partition(":")
        elsewhere: Service[Any] = getattr(importlib.import_module(module), name)
        return elsewhere
    if name[-1].isdigit():
        of_release: Service[Any] = getattr(services, name[:-1])(int(name[-1]))
        return of_release
    chosen: Service[Any] = getattr(services, name)
    return chosen


def tell(asked: argparse.Namespace, spine: Spine) -> None:
    """On SIGUSR1, the health of this process in a file; on SIGUSR2, no file may grow beyond a limit, or any."""
    place = asked.folder / f"{asked.name}-{os.getpid()}"

    def told() -> None:
        part = place.with_suffix(".part")
        part.write_text(json.dumps(spine.health()))
        part.rename(place.with_suffix(".health"))

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, lambda: limit_files(asked.folder))


def limit_files(folder: Path) -> None:
    """As when the disk is full: what the file `limit` says, in bytes."""
    size = int((folder / "limit").read_text())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size or resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def ready(asked: argparse.Namespace) -> None:
    line(asked.folder / "ready", str(os.getpid()))


def line(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text}\n".encode())
    os.close(file)


def have_clock(path: Path) -> None:
    """It says by how many seconds this process's clock differs."""
    right = SystemClock.now_us

    def now_us(self: SystemClock) -> int:
        return right(self) + round(float(path.read_text()) * 1_000_000 if path.exists() else 0)

    SystemClock.now_us = now_us  # type: ignore[method-assign]


def be_release(number: int) -> None:
    """Release 2 adds a table to the schema; release 3 takes away what release 1 needs."""
    ours = _sql_apply.SCHEMA_VERSION
    steps = (
        migrations.Migration(ours + 1, "create table spine_added (name text)"),
        migrations.Migration(ours + 2, "drop table spine_added", removes=True, needs="3.0"),
    )
    runtime.RELEASE = f"{number}.0"
    migrations.MIGRATIONS += steps[: number - 1]
    for module in (_sql_apply, _sqlite_describe, migrations):
        module.SCHEMA_VERSION = ours + number - 1  # type: ignore[attr-defined]


# --- places where something happens ------------------------------------------------------------------------------------------


def can_not_tell() -> None:
    """The disk fails at the end of a COMMIT, and nothing says whether it happened."""
    _sqlite_writer.was_committed = lambda *_: None  # type: ignore[assignment]
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    raise error


DEEDS: dict[str, Callable[[], None]] = {
    "unknown": can_not_tell,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: signal.pthread_kill(threading.get_ident(), signal.SIGSTOP),
}


def happen(place: str, times: str, deed: str) -> None:
    """At the nth commit that finishes deliveries, at this place in it: do the deed, once."""
    left = int(times)

    def reached(here: str, counted: bool = True) -> None:
        nonlocal left
        if here == place and counted:
            left -= 1
            if left == 0:
                DEEDS[deed]()

    put_places(reached)


def put_places(reached: Callable[..., None]) -> None:
    finishes = threading.local()
    submit, ask, apply, commit = (
        host.Subscription.succeeded, _sqlite_writer.Writer._once, _sqlite_writer.Applier.apply, _sqlite_writer._commit,
    )  # fmt: skip
    settled = subscription.Subscription.settled

    def handled(self: Any, *given: Any) -> Any:
        reached("handled")
        return submit(self, *given)

    def once(self: Any, units: Any) -> Any:
        finishes.now = any(unit.done and unit.statements for unit in units)
        reached("before begin", finishes.now)
        try:
            return ask(self, units)
        finally:
            reached("committed, nobody told", finishes.now)
            finishes.now = False

    def applied(self: Any, units: Any, now_us: int, **how: bool) -> Any:
        finishing = getattr(finishes, "now", False)
        reached("begun", finishing)
        answer = apply(self, units, now_us, **how)
        reached("written", finishing)
        return answer

    def committed(connection: sqlite3.Connection) -> None:
        finishing = getattr(finishes, "now", False)
        commit(connection)
        reached("at commit", finishing)

    def told(self: Any, item: Any) -> None:
        reached("told")
        settled(self, item)

    subscription.Subscription.succeeded = handled  # type: ignore[method-assign]
    subscription.Subscription.settled = told  # type: ignore[method-assign]
    _sqlite_writer.Writer._once = once  # type: ignore[method-assign]
    _sqlite_writer.Applier.apply = applied  # type: ignore[method-assign]
    _sqlite_writer._commit = committed


# --- safeguards that a process may do without ----------------------------------------------------------------------------------


SAFEGUARDS = {"fences": "fences", "savepoints": "savepoints"}


def without_repetition() -> None:
    _sql_refusals.is_repetition = lambda *_: False


def without_folding() -> None:
    """The cursor moves with a commit, whatever the verdicts in it are."""
    judge = _sql_apply.Applier._judge

    def judged(self: Any, unit: Any, known: Any, *more: Any) -> Any:
        verdict = judge(self, unit, known, *more)
        if not verdict.ok:
            _sql_apply._accept_ranges(unit, known)
        return verdict

    _sql_apply.Applier._judge = judged  # type: ignore[method-assign]


def without_care() -> None:
    async def unmarked(*_: Any) -> bool:
        return True

    subscription.run_marked = lambda one, item: one.call(item)
    batches.marked = unmarked


def without_generations() -> None:
    """Processes of all generations share the partitions, and run what a newer one has widened."""
    host.leaders = list  # type: ignore[assignment]
    subscription.unknown = lambda *_: []


def without_watching_the_log() -> None:
    _sqlite_log.Log.check = lambda self: None  # type: ignore[method-assign]


def without_one_sqlite() -> None:
    """Another part of this process, or a library in it, opens the file and closes it again."""
    published = _sqlite_writer.Writer._once

    def once(self: Any, units: Any) -> Any:
        applied = published(self, units)
        os.close(os.open(self.path, os.O_RDONLY))
        return applied

    _sqlite_writer.Writer._once = once  # type: ignore[method-assign]


def without_drain() -> None:
    async def at_once(*_: Any) -> bool:
        return True

    runtime.Runtime._drain = at_once  # type: ignore[method-assign]


WITHOUT: dict[str, Callable[[], None]] = {
    **dict.fromkeys(SAFEGUARDS, lambda: None),
    "repetition": without_repetition,
    "folding": without_folding,
    "care": without_care,
    "generations": without_generations,
    "one-sqlite": without_one_sqlite,
    "log-watch": without_watching_the_log,
    "drain": without_drain,
}


if __name__ == "__main__":
    main()
