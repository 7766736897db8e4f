"""Several processes on one file: turns (R6), one SQLite (R7), leases of the dead, bells, forks, and a small WAL (R20)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Delivery, Event, Service, Spine
from eventspine.errors import JournalBusy
from eventspine.journal.doorbell import bells_of
from eventspine.journal.lockfile import read_holder
from eventspine.journal.port import Append, Process, Unit
from eventspine.journal.processes import is_gone, pid_start, this_host
from eventspine.journal.sqlite import SQLiteJournal

from .material import Bell, commit, event

ROOT = Path(__file__).parents[2]


class Spawned:
    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.journal.sqlite_child", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert "ready" == self.answer()

    def ask(self, *command: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def do(self, *command: Any) -> Any:
        self.ask(*command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


class Family:
    def __init__(self, url: str) -> None:
        self.url = url
        self.path = Path(url.removeprefix("sqlite:///"))
        self._children: list[Spawned] = []

    def spawn(self) -> Spawned:
        self._children.append(Spawned(self.url))
        return self._children[-1]

    def end(self) -> None:
        for child in self._children:
            child.end()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    spawned = Family(f"sqlite:///{tmp_path}/spine.db")
    yield spawned
    spawned.end()


async def opened(family: Family, **given: Any) -> SQLiteJournal:
    journal = SQLiteJournal(family.url, **given)
    await journal.open()
    return journal


# --- durability ----------------------------------------------------------------------------------------------------------


def test_what_was_acknowledged_before_a_kill_is_there(family: Family) -> None:
    child = family.spawn()
    child.ask("tell_publishing")
    acknowledged = max(child.answer() for _ in range(50))
    child.kill()

    assert acknowledged <= family.spawn().do("head") <= acknowledged + 50


def test_r7_others_coming_and_going_take_nothing_away(family: Family) -> None:
    """Opening and closing in a live process drops no lock that matters, so nobody's exit deletes a WAL in use."""
    first = family.spawn()
    first.do("publish", 3)
    for _ in range(3):
        passing = family.spawn()
        passing.do("publish", 1)
        passing.end()
        first.do("publish", 10)
    first.kill()

    assert 3 + 3 + 30 == family.spawn().do("head")


async def test_r7_a_second_journal_in_the_same_process_takes_nothing_away(family: Family) -> None:
    journal, other = await opened(family), await opened(family)
    await commit(journal, Unit(appends=[Append([event()])]))
    await other.close()
    passing = family.spawn()
    passing.do("publish", 1)
    passing.end()
    await commit(journal, Unit(appends=[Append([event()])]))

    assert 3 == family.spawn().do("head")
    await journal.close()


# --- R6: turns ------------------------------------------------------------------------------------------------------------


def test_four_busy_processes_get_their_turns(family: Family) -> None:
    children = [family.spawn() for _ in range(4)]
    for child in children:
        child.ask("publish_for", 1.5)
    took = [child.answer() for child in children]

    counts = sorted(len(times) for times in took)
    assert counts[0] > counts[-1] / 4, counts  # SQLite's own waiting starves by a factor of eight
    assert max(max(times) for times in took) < 3, "as long as SQLite alone would let one wait"


async def test_r6_a_process_stopped_inside_a_commit_is_named_and_waited_for_within_a_limit(family: Family) -> None:
    child = family.spawn()
    journal = await opened(family, busy_s=0.5)
    child.ask("stop_inside_a_commit")
    assert "stopping" == await asyncio.to_thread(child.answer)

    verdict = await commit(journal, Unit(appends=[Append([event()])]))

    assert "failed" == verdict.kind
    assert isinstance(verdict.error, JournalBusy)
    assert str(child.process.pid) in str(verdict.error)
    holder = journal.lock_holder()
    assert holder
    assert child.process.pid == holder[0]
    assert abs(time.time_ns() // 1000 - holder[1]) < 60_000_000
    assert journal.waiting_since()
    assert 0 == await journal.head()  # readers go on

    child.process.send_signal(signal.SIGCONT)
    assert "done" == (await commit(journal, Unit(appends=[Append([event()])]))).kind
    assert 2 == await journal.head()
    await journal.close()


async def test_r6_closing_while_another_process_is_stopped_ends_too(family: Family) -> None:
    child = family.spawn()
    journal = await opened(family, busy_s=0.3)
    child.ask("stop_inside_a_commit")
    await asyncio.to_thread(child.answer)
    waiting = asyncio.create_task(commit(journal, Unit(appends=[Append([event()])])))
    await asyncio.sleep(0)

    with pytest.raises(JournalBusy, match="turn"):
        await journal.close()
    assert isinstance((await waiting).error, JournalBusy)


async def test_r6_a_holder_that_dies_gives_its_turn_back(family: Family) -> None:
    child = family.spawn()
    journal = await opened(family)
    child.ask("stop_inside_a_commit")
    await asyncio.to_thread(child.answer)
    waiting = asyncio.create_task(commit(journal, Unit(appends=[Append([event()])])))
    await asyncio.sleep(0)
    child.kill()

    assert "done" == (await waiting).kind
    assert read_holder(Path(f"{family.path}-lock")) is None
    assert 1 == await journal.head()
    await journal.close()


# --- leases of the dead -------------------------------------------------------------------------------------------------------


async def test_leases_of_a_killed_process_are_taken_at_once(family: Family) -> None:
    child, next_one = family.spawn(), family.spawn()
    assert {"p1": [1, False], "p2": [1, False]} == child.do("lease", "first", "p1", "p2")
    assert {} == next_one.do("lease", "second", "p1", "p2")
    child.process.kill()  # nobody has waited for it yet: what is left of it holds no lease either
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)

    assert {"p1": [2, True], "p2": [2, True]} == next_one.do("lease", "second", "p1", "p2")


def test_a_process_is_gone_only_when_that_is_known() -> None:
    def of(pid: int, host: str, started: str) -> Process:
        return Process("x", "email", 1, pid, host, 0, 1, "0.1.0", 0, started)

    here, own = this_host(), pid_start(os.getpid())
    assert not is_gone(of(os.getpid(), here, own))
    assert is_gone(of(os.getpid(), here, own + "0"))  # the pid was given out again
    assert is_gone(of(2**22 + 1, here, "17"))
    assert not is_gone(of(2**22 + 1, "elsewhere", "17"))


# --- bells ----------------------------------------------------------------------------------------------------------------------


def test_a_bell_wakes_another_process_at_once(family: Family) -> None:
    watcher, publisher = family.spawn(), family.spawn()
    watcher.do("watch")
    waits = []
    for _ in range(20):
        watcher.ask("rings")
        publisher.do("publish")
        published = time.monotonic()
        waits.append(watcher.answer() - published)

    assert sorted(waits)[len(waits) // 2] < 0.1  # polling alone would take half of 0.25 s on average


async def test_without_bells_a_look_now_and_then_is_enough(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a platform without such sockets, or when somebody has removed the folder."""
    monkeypatch.setattr("eventspine.journal.doorbell.HAS_SOCKETS", False)
    journal = await opened(family)
    publisher = family.spawn()
    bell = Bell(journal)
    await bell.rings()
    assert not bells_of(family.path).exists()
    publisher.do("publish")

    await bell.rings()
    bell.stop()
    await journal.close()


async def test_bells_of_the_dead_are_taken_down(family: Family) -> None:
    child = family.spawn()
    child.do("watch")
    journal = await opened(family)
    folder = bells_of(family.path)
    assert 1 == len(list(folder.iterdir()))
    child.kill()
    await commit(journal, Unit(appends=[Append([event()])]))
    await journal.close()

    assert [] == list(folder.iterdir())
    assert 0o700 == folder.stat().st_mode & 0o777


async def test_a_long_path_has_its_bells_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    url = f"sqlite:///{folder}/spine.db"
    watching, publishing = SQLiteJournal(url), SQLiteJournal(url)
    await watching.open()
    await publishing.open()
    bell = Bell(watching)
    await bell.rings()
    assert not (folder / "spine.db-bells").exists()
    assert 1 == len(list(bells_of(folder / "spine.db").iterdir()))
    await commit(publishing, Unit(appends=[Append([event()])]))
    await bell.rings()
    bell.stop()
    await watching.close()
    await publishing.close()
    assert not bells_of(folder / "spine.db").exists()


async def test_watchers_of_several_loops_are_each_told_on_their_own(family: Family) -> None:
    journal = await opened(family)

    def another_loop() -> bool:
        async def hears() -> bool:
            bell = Bell(journal)
            await commit(journal, Unit(appends=[Append([event()])]))
            await bell.rings()
            bell.stop()
            return True

        return asyncio.run(hears())

    bell = Bell(journal)
    await bell.rings()
    assert await asyncio.to_thread(another_loop)
    await bell.rings()
    bell.stop()
    await journal.close()


def test_an_idle_process_costs_next_to_nothing(family: Family) -> None:
    child = family.spawn()
    child.do("watch")

    assert child.do("cpu", 1.0) < 0.02


# --- R20: the WAL ----------------------------------------------------------------------------------------------------------------


def test_r20_the_wal_stays_small_beside_readers_that_overlap(family: Family, tmp_path: Path) -> None:
    writer, *readers = (family.spawn() for _ in range(5))
    for reader in readers:
        reader.ask("read_slowly", str(written := tmp_path / "written"))
    writer.do("publish", 150, 10_000, 100)
    written.touch()
    for reader in readers:
        assert reader.answer() > 10
    figures = writer.do("figures")

    assert figures["wal"] < 96 * 1024 * 1024
    assert figures["checkpoints"] > 0


def test_r20_left_alone_it_would_not_stay_small(family: Family, tmp_path: Path) -> None:
    """The ablation: SQLite's own checkpoints never find a moment without readers."""
    writer, *readers = (family.spawn() for _ in range(5))
    writer.do("leave_the_log_alone")
    for reader in readers:
        reader.ask("read_slowly", str(written := tmp_path / "written"))
    writer.do("publish", 150, 10_000, 100)
    written.touch()
    for reader in readers:
        reader.answer()

    assert writer.do("figures")["wal"] > 128 * 1024 * 1024


async def test_r20_no_snapshot_is_open_while_handlers_run(family: Family) -> None:
    """Whatever was read before: the log can be cut to nothing while they wait."""
    waits, began = asyncio.Event(), asyncio.Event()
    reading = Service("reading")

    class Said(Event, context="words"):
        word: str

    @reading.on(Said)
    async def read(said: Said, delivery: Delivery) -> None:
        await delivery.query("select 1 as one")
        began.set()
        await waits.wait()

    async with Spine(family.url, service=Service("words")) as spine, spine.running(reading):
        await spine.publish(*(Said(word=str(n)) for n in range(100)))
        await began.wait()
        with closing(sqlite3.connect(family.path)) as own:
            blocked, *_ = own.execute("pragma wal_checkpoint(truncate)").fetchone()
        waits.set()
    assert not blocked


# --- forks ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
async def test_a_forked_child_opens_the_journal_anew(family: Family) -> None:
    """It has none of the parent's threads, and must leave the parent's connections as they are."""
    journal = await opened(family)
    await commit(journal, Unit(appends=[Append([event()])]))
    child = os.fork()
    if child == 0:
        verdicts = journal.commit_blocking([Unit(appends=[Append([event(id=os.urandom(16))])])])
        journal.close_blocking()
        os._exit(0 if verdicts[0].kind == "done" else 1)

    _, status = await asyncio.to_thread(os.waitpid, child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    assert "done" == (await commit(journal, Unit(appends=[Append([event()])]))).kind
    assert 3 == await journal.head()
    await journal.close()
    with closing(sqlite3.connect(family.path)) as after:
        assert "ok" == after.execute("pragma integrity_check").fetchone()[0]
