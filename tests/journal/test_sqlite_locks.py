"""R21: a wait for a lock that our own caller holds is refused at once; all other holders are waited for, and named."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventspine import Event, Service, Spine
from eventspine.errors import JournalBusy
from eventspine.journal import _sqlite_file as file, _sqlite_locks as locks
from eventspine.journal._sql_apply import is_journal_trouble
from eventspine.journal.lockfile import read_holder
from eventspine.journal.port import Append, Unit
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.sync import Spine as BlockingSpine

from .material import commit, event
from .test_sqlite_processes import Family, family  # noqa: F401

SOON_S = 10  # far below the limit of 30 s, and far above what a busy machine needs
needs_a_list = pytest.mark.skipif(not locks.LOCKS.exists(), reason="this system doesn't tell who holds a lock")


class OrderPlaced(Event, context="shop", key="order_id"):
    order_id: str


shop = Service("shop", publishes="shop")


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SQLiteJournal]:
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    await opened.run_tables("web", "1", "create table request (id integer primary key)")
    yield opened
    await opened.close()


@pytest.fixture
def own(journal: SQLiteJournal) -> Iterator[sqlite3.Connection]:
    """A connection of the caller's."""
    with closing(sqlite3.connect(journal.path, check_same_thread=False)) as connection:
        yield connection


def one() -> Unit:
    return Unit(appends=[Append([event()])])


def refused_at_once(error: BaseException | None, began: float) -> bool:
    return isinstance(error, JournalBusy) and "within=" in str(error) and time.monotonic() - began < SOON_S


# --- the caller's own -----------------------------------------------------------------------------------------------------


@needs_a_list
async def test_r21_publishing_beside_ones_own_transaction_is_refused_at_once(
    journal: SQLiteJournal, own: sqlite3.Connection
) -> None:
    async with Spine(journal.url, service=shop) as spine:
        own.execute("insert into request values (1)")
        began = time.monotonic()
        with pytest.raises(JournalBusy, match="within=") as caught:
            await spine.publish(OrderPlaced(order_id="1"))
        assert refused_at_once(caught.value, began)
        assert os.getpid() == caught.value.details["pid"]

        await spine.publish(OrderPlaced(order_id="1"), within=own)  # as it says
        own.commit()
        await spine.publish(OrderPlaced(order_id="2"))
    assert 2 == await journal.head()
    assert [{"id": 1}] == await journal.query("select id from request", {})


@needs_a_list
def test_r21_also_of_a_blocking_spine_in_the_same_thread(tmp_path: Path) -> None:
    with BlockingSpine(f"sqlite:///{tmp_path}/spine.db", service=shop) as spine:
        spine.publish(OrderPlaced(order_id="0"))
        with closing(sqlite3.connect(tmp_path / "spine.db", isolation_level=None)) as own:
            own.execute("begin immediate")
            began = time.monotonic()
            with pytest.raises(JournalBusy, match="within=") as caught:
                spine.publish(OrderPlaced(order_id="1"))
            assert refused_at_once(caught.value, began)
            spine.publish(OrderPlaced(order_id="1"), within=own)
            own.execute("commit")
        assert 3 == spine.publish(OrderPlaced(order_id="2")).position


@needs_a_list
async def test_r21_whatever_waits_is_refused(journal: SQLiteJournal, own: sqlite3.Connection) -> None:
    own.execute("insert into request values (1)")
    began = time.monotonic()
    units = [asyncio.create_task(commit(journal, one())) for _ in range(5)]
    others = [asyncio.create_task(wait) for wait in (journal.fire(1, 1), journal.begin(1.0))]

    assert all([refused_at_once((await unit).error, began) for unit in units])
    for error in await asyncio.gather(*others, return_exceptions=True):
        assert isinstance(error, BaseException)
        assert refused_at_once(error, began)
    own.rollback()
    assert "done" == (await commit(journal, one())).kind


async def test_r21_without_the_safeguard_it_waits_for_itself_until_the_limit(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", busy_s=1.5)
    journal._safeguards.own_lock = False
    await journal.open()
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as own:
        own.execute("begin immediate")
        began = time.monotonic()
        assert isinstance((await commit(journal, one())).error, JournalBusy)
        assert time.monotonic() - began >= 1.5
    await journal.close()


async def test_r21_where_the_system_does_not_tell_the_limit_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "missing")
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", busy_s=0.6)
    await journal.open()
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as own:
        own.execute("begin immediate")
        began = time.monotonic()
        error = (await commit(journal, one())).error
        assert time.monotonic() - began >= 0.6
    assert isinstance(error, JournalBusy)
    assert "within=" in str(error)
    assert error.details["pid"] is None
    await journal.close()


# --- other threads of this process ----------------------------------------------------------------------------------------


@needs_a_list
async def test_r21_another_threads_transaction_that_ends_in_time_is_only_a_wait(
    journal: SQLiteJournal, own: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "GRACE_S", 20.0)  # in time on any machine
    seen = threading.Event()

    ask = locks.write_lock_holder

    def look(path: Path) -> int | None:
        pid = ask(path)
        if pid == os.getpid():
            seen.set()
        return pid

    def request() -> None:
        own.execute("insert into request values (1)")
        begun.set()
        assert seen.wait(SOON_S)
        own.commit()

    begun = threading.Event()
    monkeypatch.setattr(locks, "write_lock_holder", look)
    thread = threading.Thread(target=request)
    thread.start()
    assert await asyncio.to_thread(begun.wait, SOON_S)

    assert "done" == (await commit(journal, one())).kind
    await asyncio.to_thread(thread.join)
    assert [{"id": 1}] == await journal.query("select id from request", {})


def test_r21_a_lock_is_kept_while_nothing_is_committed(tmp_path: Path) -> None:
    """Of threads that commit one transaction after the other, none is in anybody's way for ever."""
    wal = tmp_path / "spine.db-wal"
    wal.write_bytes(b"")
    us, watch, grace = os.getpid(), locks.Watch(tmp_path / "spine.db"), locks.GRACE_S

    assert not watch.kept_by_ourselves(us, 5.0, 6.0), "the grace begins with the first look"
    assert watch.kept_by_ourselves(us, 5.0, 6.0 + grace)
    os.utime(wal, ns=(1, 1))
    assert not watch.kept_by_ourselves(us, 5.0, 7.0), "somebody has committed"
    assert watch.kept_by_ourselves(us, 5.0, 7.0 + grace)
    assert not watch.kept_by_ourselves(None, 5.0, 8.0), "it was given back"
    assert not watch.kept_by_ourselves(us, 5.0, 8.0 + grace / 2)
    assert not watch.kept_by_ourselves(us + 1, 5.0, 9.0), "it is another process's"
    assert not watch.kept_by_ourselves(us, 10.0, 10.1), "another wait has a grace of its own"


# --- other processes ------------------------------------------------------------------------------------------------------


@needs_a_list
async def test_another_process_is_waited_for_and_named(family: Family) -> None:  # noqa: F811
    child = family.spawn()
    journal = SQLiteJournal(family.url, busy_s=1.0)
    await journal.open()
    pid = child.process.pid
    child.do("hold_the_file")
    began = time.monotonic()
    waiting = asyncio.create_task(commit(journal, one()))
    while journal.waiting_since() is None or (journal.lock_holder() or (0, 0))[0] != pid:
        assert not waiting.done(), "health can tell whom it waits for"
        await asyncio.sleep(0.005)
    error = (await waiting).error

    assert time.monotonic() - began >= 1.0, "the long limit is theirs"
    assert isinstance(error, JournalBusy)
    assert f"process {pid}, through a connection that is not the spine's" in str(error)
    assert pid == error.details["pid"]
    assert journal.waiting_since() is None
    child.do("let_the_file_go")
    assert "done" == (await commit(journal, one())).kind
    await journal.close()


@needs_a_list
async def test_r21_also_when_another_process_has_the_turn_and_waits_for_our_caller(
    family: Family,  # noqa: F811
) -> None:
    """It can't give the turn back before the caller's transaction ends, and the caller waits for the turn."""
    child = family.spawn()
    journal = SQLiteJournal(family.url)
    await journal.open()
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as own:
        own.execute("begin immediate")
        child.ask("publish")
        while (read_holder(Path(f"{journal.path}-lock")) or (0, 0))[0] != child.process.pid:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        error = (await commit(journal, one())).error
        assert refused_at_once(error, began)
        assert isinstance(error, JournalBusy)
        assert os.getpid() == error.details["pid"]
        own.execute("commit")
    assert 1 == await asyncio.to_thread(child.answer)
    assert "done" == (await commit(journal, one())).kind
    await journal.close()


@needs_a_list
async def test_who_only_waits_in_its_turn_is_not_named_as_the_holder(family: Family) -> None:  # noqa: F811
    holder, waiter = family.spawn(), family.spawn()
    journal = SQLiteJournal(family.url, busy_s=1.0)
    await journal.open()
    holder.do("hold_the_file")
    waiter.ask("publish")
    turn = read_holder(Path(f"{journal.path}-lock"))
    while turn is None or not turn.waits:
        await asyncio.sleep(0.005)
        turn = read_holder(Path(f"{journal.path}-lock"))
    assert waiter.process.pid == turn.pid

    told = await journal.describe()
    assert (holder.process.pid, waiter.process.pid) == (told["lock_pid"], told["lock_waits_pid"])
    assert (holder.process.pid, turn.since_us) == journal.lock_holder()
    error = (await commit(journal, one())).error
    assert isinstance(error, JournalBusy)
    assert f"process {holder.process.pid}, through a connection" in str(error)
    assert holder.process.pid == error.details["pid"]

    holder.do("let_the_file_go")
    assert 1 == await asyncio.to_thread(waiter.answer)
    assert "done" == (await commit(journal, one())).kind
    assert (await journal.describe())["lock_pid"] is None
    await journal.close()


# --- the list of locks ----------------------------------------------------------------------------------------------------

LISTED = """\
1: POSIX  ADVISORY  READ 41 fe:00:{inode} 124 124
1: -> POSIX  ADVISORY  WRITE 42 fe:00:{inode} 120 120
2: POSIX  ADVISORY  WRITE 43 fe:00:{inode} 121 127
3: FLOCK  ADVISORY  WRITE 44 fe:00:{inode} 0 EOF
4: POSIX  ADVISORY  WRITE 45 fe:00:9{inode} 120 120
5: OFDLCK ADVISORY  READ -1 00:06:8 0 0
"""


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        ("", None),
        ("6: POSIX  ADVISORY  WRITE 50 fe:00:{inode} 120 120", 50),
        ("6: POSIX  ADVISORY  WRITE 50 fe:00:{inode} 120 121", 50),
        ("6: POSIX  ADVISORY  WRITE 50 fe:00:{inode} 0 EOF", 50),
        ("6: POSIX  ADVISORY  READ 50 fe:00:{inode} 120 120", None),
        ("6: POSIX  ADVISORY  WRITE 50 {device}:{inode} 121 121", None),
        (
            "6: POSIX  ADVISORY  WRITE 50 fe:00:{inode} 120 120\n7: POSIX  ADVISORY  WRITE 51 {device}:{inode} 120 120",
            51,
        ),
    ],
    ids=["none", "its byte", "joined with the next", "the whole file", "a reader", "a checkpoint", "device first"],
)
def test_the_holder_is_found_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, pid: int | None
) -> None:
    shm = tmp_path / "spine.db-shm"
    shm.write_bytes(b"")
    stat = os.stat(shm)
    device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}"
    text = LISTED + line
    if "fe:00" == device:
        text = text.replace("fe:00", "fd:07")
    (tmp_path / "locks").write_text(text.replace("{device}", device).replace("{inode}", str(stat.st_ino)))
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")

    assert pid == locks.write_lock_holder(tmp_path / "spine.db")


@needs_a_list
def test_the_holder_is_found_under_another_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "spine.db")
    with closing(sqlite3.connect(tmp_path / "spine.db", isolation_level=None)) as own:
        own.execute("pragma journal_mode=wal")
        assert locks.write_lock_holder(tmp_path / "spine.db") is None
        own.execute("begin immediate")
        assert os.getpid() == locks.write_lock_holder(tmp_path / "link.db")
        own.execute("rollback")


def test_sqlites_own_way_of_being_busy_is_a_lock_as_any_other(tmp_path: Path) -> None:
    """SQLITE_PROTOCOL: where its wal-index is asked for by many at once it gives up by itself, after some seconds."""
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    assert isinstance(file.translate(error, tmp_path / "spine.db"), JournalBusy)
    assert is_journal_trouble(error)
