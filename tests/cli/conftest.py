"""What tests of the command line stand on: real processes in a folder of their own, and a journal with a story in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result

from eventspine.cli.app import spine as command
from eventspine.ids import id_text
from eventspine.journal import open_journal
from eventspine.journal.port import (
    PARTITIONS,
    Append,
    Done,
    Journal,
    Put,
    Record,
    Registration,
    SubscriptionDeclaration,
    Timer,
    Unit,
)
from eventspine.keys import slot_of_id, slot_of_key

EVIL = "c\x1b[2J\u202eb"  # clears the screen, then writes from right to left


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the shop's module."""
    shutil.copy(Path(__file__).with_name("bookshop.py"), tmp_path)
    return tmp_path


class Processes:
    """`spine` as other programs see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("SPINE_") and name != "NO_COLOR"  # in a pipe there are none anyway
        }
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.line(arguments), cwd=self.folder, env=self.environment, input=stdin,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def asked_here(self, *arguments: str, stdin: str = "") -> Result:
        """The same command in this process, for what is asked again and again: starting a process is most of what one costs.
        Modules that it has imported from the folder are forgotten."""
        environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("SPINE_")}
        path, modules = [*sys.path], {*sys.modules}
        try:
            with chdir(self.folder):
                return CliRunner().invoke(command, list(arguments), input=stdin, env=environment | self.environment)
        finally:
            sys.path[:] = path
            for name in {*sys.modules} - modules:
                if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(self.folder):
                    del sys.modules[name]

    def until_it_shows(self, *arguments: str, shows: str) -> str:
        """Ask until the answer has this in it."""
        give_up = time.monotonic() + 60
        while shows not in (answer := self.asked_here(*arguments).stdout):
            assert time.monotonic() < give_up, answer
            time.sleep(0.02)  # between two looks
        return answer

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.line(arguments), cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run_shop(self, *arguments: str) -> subprocess.Popen[str]:
        """The shop's services, at work when this returns."""
        process = self.start("run", "bookshop", *arguments)
        told = self.until(process, "running shopfront")
        assert "running shopfront" in told, told
        return process

    @staticmethod
    def until(process: subprocess.Popen[str], word: str) -> str:
        """What it logs up to the line that has this word."""
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if word in line:
                break
        return told

    @staticmethod
    def line(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "eventspine.cli", *arguments]

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def spine(folder: Path) -> Iterator[Processes]:
    processes = Processes(folder)
    yield processes
    processes.end()


class Say(Protocol):
    def __call__(self, *arguments: str, stdin: str | bytes = "") -> Result: ...


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """`spine` in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPINE_JOURNAL", raising=False)
    return lambda *arguments, stdin="": CliRunner().invoke(command, list(arguments), input=stdin)


@dataclass
class Story:
    """An order that was reserved, with a dead confirmation; one that can't be decoded; one that waits."""

    url: str
    order: str
    reserved: str
    private: str

    def journal(self, do: Callable[[Journal], Any]) -> Any:
        """Have `do(journal)` awaited with the journal open."""

        async def opened() -> Any:
            journal = open_journal(self.url)
            await journal.open()
            try:
                return await do(journal)
            finally:
                await journal.close()

        return asyncio.run(opened())


def record(
    n: int,
    type: str,
    key: str | None,
    data: bytes = b'{"n": 1}',
    *,
    cause: Record | None = None,
    channel: str | None = "",
) -> Record:
    id = (0x0190_0000_0000_7000_8000_0000_0000_0000 + n).to_bytes(16, "big")
    slot = slot_of_id(id) if key is None else slot_of_key(key)
    context = type.partition(".")[0]
    correlation = None if cause is None else cause.correlation or id_text(cause.id)
    causation, hops = (None, 0) if cause is None else (id_text(cause.id), cause.hops + 1)
    return Record(
        0, id, context if channel == "" else channel, slot, key, type, 1, 1_700_000_000_000_000 + n, 0,
        context, correlation, causation, hops, None, data,
    )  # fmt: skip


def declared(name: str, channel: str, type: str, extra: str = "") -> SubscriptionDeclaration:
    return SubscriptionDeclaration(name, (channel,), ((type, None),), "key", "goes_on", "earliest", extra=extra)


ORDER = record(1, "orders.Ordered", "c1", b'{"title": "Emma", "copies": 2}')
RESERVED = record(2, "stock.Reserved", "c1", cause=ORDER)
BROKEN = record(3, "stock.Reserved", EVIL, b"\xff\x1b[2Jnot json")
SLOW = record(4, "stock.Reserved", "c2")
PRIVATE = record(5, "stock.Counted", "c1", channel=None)
NEW = record(6, "orders.Ordered", "c3")
SCHEDULED = record(7, "orders.Ordered", "c4")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    told = Story(f"sqlite:///{tmp_path}/spine.db", id_text(ORDER.id), id_text(RESERVED.id), id_text(PRIVATE.id))
    told.journal(_write)
    return told


async def _write(journal: Journal) -> None:
    (reserve,) = await _register(journal, "stock", declared("stock.reserve", "orders", "orders.Ordered"))
    confirm, count = await _register(
        journal, "email",
        declared("email.confirm", "stock", "stock.Reserved"),
        declared("email.count", "stock", "stock.Reserved", extra="replayable"),
    )  # fmt: skip
    records = [ORDER, RESERVED, BROKEN, SLOW, PRIVATE, NEW]
    unit = Unit(appends=[Append(records)], timers=[Timer(4_000_000_000_000_000, SCHEDULED)])
    stored = {position: record._replace(position=position) for position, record in enumerate(records, 1)}
    await _commit(journal, unit)
    await _finish(journal, reserve, 5)
    await _finish(journal, confirm, 5)
    await _finish(journal, count, 2)
    puts = [
        Put(
            confirm.number,
            stored[2].slot % PARTITIONS,
            stored[2],
            "dead",
            8,
            None,
            "SmtpDown",
            f"SmtpDown: {EVIL}",
            "Trace\n  back",
        ),
        Put(confirm.number, stored[3].slot % PARTITIONS, stored[3], "dead", 1, None, "undecodable", "no JSON"),
        Put(confirm.number, stored[4].slot % PARTITIONS, stored[4], "parked", 2, 4_000_000_000_000_000, "SmtpDown"),
    ]
    await _commit(journal, Unit(puts=puts))


async def _register(journal: Journal, service: str, *subscriptions: SubscriptionDeclaration) -> Any:
    registered = await journal.register(Registration(service, (service,), subscriptions), 1_700_000_000_000_000)
    return registered.subscriptions


async def _finish(journal: Journal, subscription: Any, upto: int) -> None:
    done = [Done(subscription.number, part, [(0, upto)], subscription.generation) for part in range(PARTITIONS)]
    await _commit(journal, Unit(done=done))


async def _commit(journal: Journal, unit: Unit) -> None:
    (verdict,) = await journal.commit([unit])
    assert verdict.ok, verdict
