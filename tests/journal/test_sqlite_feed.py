"""The feed is read through a function of SQL that keeps its rows: what that must not change."""

from __future__ import annotations

import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventspine.errors import JournalCorrupt
from eventspine.journal.port import Append, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import event

EVENTS = 400
APART = "EVENTSPINE_TESTS_APART"  # what is interrupted anywhere leaves its process as it may: a fork in a later test waited for it
apart = pytest.mark.skipif(APART not in os.environ, reason="in a process of its own, see the last of these")


@pytest.fixture
async def other(journal: SQLiteJournal) -> AsyncIterator[SQLiteJournal]:
    """One that has written none of these events, so that it reads them from the file."""
    records = [event(key=f"k{n}")._replace(channel="orders", type=("b.B", "a.A")[n % 2]) for n in range(EVENTS)]
    (verdict,) = await journal.commit([Unit(appends=[Append(records)])])
    assert verdict.ok
    opened = SQLiteJournal(journal.url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize("of", ["type", "channel, type"])
async def test_an_index_that_somebody_has_added_changes_nothing(other: SQLiteJournal, tmp_path: Path, of: str) -> None:
    """SQLite would find the rows by it, and sort them only behind the function: no order, no limit, and events passed over."""
    with closing(sqlite3.connect(tmp_path / "spine.db")) as connection:
        connection.execute(f"create index by_type on spine_events ({of})")
    after, seen = 0, []
    while after < EVENTS:
        page = await other.feed(after, limit=64, channels=["orders"], types=["a.A", "b.B"])
        assert len(page.records) <= 64
        seen += [record.position for record in page.records]
        after = page.scanned
    assert seen == list(range(1, EVENTS + 1))


class _Raised(BaseException):
    pass


@pytest.fixture
def raising() -> Iterator[None]:
    def raises(*_: object) -> None:
        raise _Raised

    before = signal.signal(signal.SIGVTALRM, raises)  # pytest-timeout has the other clock
    gc.disable()  # what is raised in a callback of its, such as hypothesis has, is lost there
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
    gc.enable()
    gc.collect()  # a connection that was lost between two lines: Python 3.13 warns of it


async def _interrupted(journal: SQLiteJournal, chance: random.Random) -> BaseException | None:
    """What becomes of a signal whose handler raises, somewhere in reading."""
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, chance.uniform(0.0001, 0.003))
        until = time.process_time() + 0.1
        while time.process_time() < until:
            await journal.feed(0, limit=EVENTS, channels=["orders"])
    except BaseException as error:
        return error
    return None


@apart
@pytest.mark.usefixtures("raising")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_what_the_handler_of_a_signal_raises_ends_what_reads(other: SQLiteJournal) -> None:
    """Such as Ctrl-C where it is Python's own. The function of SQL is where Python runs most of them, and sqlite3 drops what is
    raised there."""
    chance = random.Random(7)
    ends = [await _interrupted(other, chance) for _ in range(40)]
    assert None not in ends, "it went on as if nothing had been"
    assert not [end for end in ends if "function raised" in str(end)]


@apart
@pytest.mark.usefixtures("raising")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
async def test_whatever_a_signal_has_interrupted_the_journal_can_be_read(other: SQLiteJournal) -> None:
    chance = random.Random(7)
    for _ in range(100):
        await _interrupted(other, chance)
        page = await other.feed(0, limit=EVENTS, channels=["orders"])
        assert len(page.records) == EVENTS


def test_what_signals_interrupt_in_a_process_of_its_own() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "of_a_signal or a_signal_has",
    ]
    ended = subprocess.run(command, env=environment | {APART: "1"}, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


async def test_damage_just_behind_a_page_of_large_events_is_told_when_it_is_read(
    journal: SQLiteJournal, tmp_path: Path
) -> None:
    """The function was given the damaged row already; nothing has interrupted it."""
    records = [event(key=f"k{n}")._replace(channel="orders", data=b"x" * 600_000) for n in range(18)]
    (verdict,) = await journal.commit([Unit(appends=[Append(records)])])
    assert verdict.ok
    with closing(sqlite3.connect(tmp_path / "spine.db")) as connection, connection:
        connection.execute("update spine_events set key = cast(x'ff41' as text) where position = 17")
    reader = SQLiteJournal(journal.url)
    await reader.open()
    page = await reader.feed(0, limit=500, channels=["orders"])
    assert 1 <= len(page.records) < 17
    with pytest.raises(JournalCorrupt, match="UTF-8"):
        await reader.feed(page.scanned, limit=500, channels=["orders"])
    await reader.close()
