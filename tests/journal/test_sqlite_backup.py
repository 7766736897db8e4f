"""Copies of a live file: whole, as of one moment, and nobody waits for them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine.errors import JournalCorrupt, JournalError, SettingsError
from eventspine.journal import _sqlite_backup as backup, forks
from eventspine.journal.port import Append, Backup, Statement, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import commit, event, events, publish, whole_feed

MIB = 1024 * 1024


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


async def fill(journal: SQLiteJournal, megabytes: int) -> None:
    for _ in range(megabytes):
        await publish(journal, *events(16, data=bytes(MIB // 16)))


async def opened(path: Path) -> SQLiteJournal:
    copy = SQLiteJournal(f"sqlite:///{path}")
    await copy.open()
    return copy


async def test_a_copy_holds_all_that_was_committed_and_stands_alone(journal: SQLiteJournal, tmp_path: Path) -> None:
    placed = await publish(journal, *events(20))
    (tmp_path / "copies").mkdir()
    made = await journal.backup(tmp_path / "copies" / "spine.db")

    assert ["spine.db"] == files(tmp_path / "copies")
    assert (placed[-1], 20, os.stat(made.path).st_size) == (made.position, made.events, made.bytes)
    copy = await opened(Path(made.path))
    assert await whole_feed(journal) == await whole_feed(copy)
    assert made.recorded_us == (await whole_feed(copy))[-1].recorded_us
    assert journal.id == copy.id
    await copy.close()


async def test_the_file_alone_would_lack_the_newest_events(journal: SQLiteJournal, tmp_path: Path) -> None:
    """Why it takes more than cp."""
    await journal.close()  # which brings the log into the file
    await journal.open()
    await publish(journal, *events(20))
    subprocess.run(["cp", journal.path, tmp_path / "cp.db"], check=True)  # a process of its own (R7)
    with closing(sqlite3.connect(tmp_path / "cp.db")) as copy:
        assert [(0,)] == copy.execute("select count(*) from spine_events").fetchall()


async def test_an_empty_journal_can_be_copied(journal: SQLiteJournal, tmp_path: Path) -> None:
    made = await journal.backup(tmp_path / "copy.db")
    assert (0, None, 0) == (made.position, made.recorded_us, made.events)


async def test_writers_go_on_meanwhile_and_the_copy_is_of_one_moment(journal: SQLiteJournal, tmp_path: Path) -> None:
    """An event and the row that came with it are both in the copy, or neither."""
    await journal.run_tables("a", "1", "create table seen (id blob)")
    await fill(journal, 40)
    writing, took = True, []

    async def write() -> None:
        while writing:
            began, one = time.monotonic(), event()
            unit = Unit(
                appends=[Append([one])], statements=[Statement("insert into seen values (:id)", {"id": one.id})]
            )
            assert (await commit(journal, unit)).ok
            took.append(time.monotonic() - began)

    stages: list[tuple[str, float]] = []
    began_at = asyncio.create_task(write())
    before = await journal.head()
    made = await journal.backup(tmp_path / "copy.db", progress=lambda *step: stages.append(step))
    writing = False
    await began_at

    assert before <= made.position < await journal.head()
    assert {"copying", "verifying"} == {stage for stage, _ in stages}
    assert sorted(share for stage, share in stages if stage == "copying") == [
        s for stage, s in stages if stage == "copying"
    ]
    assert len([1 for stage, _ in stages if stage == "copying"]) > 5
    assert max(took) < 1.0
    copy = await opened(tmp_path / "copy.db")
    ours = [record.id for record in await whole_feed(copy)][40 * 16 :]
    assert ours == [row["id"] for row in await copy.query("select id from seen order by rowid", {})]
    await copy.close()


async def test_two_copies_at_once(journal: SQLiteJournal, tmp_path: Path) -> None:
    await publish(journal, *events(20))
    made = await asyncio.gather(*(journal.backup(tmp_path / f"{n}.db") for n in range(2)))
    assert {20} == {one.events for one in made}


async def test_a_fork_does_not_wait_for_all_of_it(
    journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for whoever is inside SQLite, which a backup leaves now and then."""
    monkeypatch.setattr(forks, "FORK_WAIT_S", 60)  # longer than all of it takes, on a busy machine too
    await fill(journal, 60)
    begun, ended, waited = threading.Event(), threading.Event(), []

    def fork() -> None:
        assert begun.wait(20)
        while not ended.is_set():
            began = time.monotonic()
            forks._door.close()
            forks._door.open()
            waited.append(time.monotonic() - began)
            time.sleep(0.001)  # as often as anybody would

    forking = asyncio.create_task(asyncio.to_thread(fork))
    try:
        await journal.backup(tmp_path / "copy.db", progress=lambda *_: begun.set())
    finally:
        ended.set()
    await forking
    assert len(waited) > 3
    assert max(waited) < forks.FORK_WAIT_S


# --- where it may go --------------------------------------------------------------------------------------------------


async def test_what_is_there_is_left_alone_unless_told_otherwise(journal: SQLiteJournal, tmp_path: Path) -> None:
    await publish(journal, *events(3))
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(SettingsError, match="force=True"):
        await journal.backup(target)
    assert "precious" == target.read_text()
    assert 3 == (await journal.backup(target, force=True)).events
    assert 3 == (await journal.backup(target, force=True)).events


@pytest.mark.parametrize("force", [False, True])
async def test_the_journal_itself_is_no_target(journal: SQLiteJournal, tmp_path: Path, force: bool) -> None:
    (tmp_path / "link.db").symlink_to(journal.path)
    os.link(journal.path, tmp_path / "hard.db")
    for name in ("spine.db", "spine.db-wal", "spine.db-lock", "link.db", "hard.db"):
        with pytest.raises(SettingsError, match="is the journal itself"):
            await journal.backup(tmp_path / name, force=force)
    assert await publish(journal, event())


@pytest.mark.parametrize("force", [False, True])
async def test_a_file_that_somebody_has_open_is_no_target(journal: SQLiteJournal, tmp_path: Path, force: bool) -> None:
    """Its log would be taken for a part of what comes in its place."""
    other = SQLiteJournal(f"sqlite:///{tmp_path}/other.db")
    await other.open()
    await publish(other, event())
    with pytest.raises(SettingsError, match=r"other\.db" if not force else r"other\.db-wal: a program has"):
        await journal.backup(tmp_path / "other.db", force=force)
    await publish(other, event())
    await other.close()
    (tmp_path / "left.db-wal").write_bytes(b"of a file that is gone")
    with pytest.raises(SettingsError, match=r"left\.db-wal"):
        await journal.backup(tmp_path / "left.db", force=force)


async def test_places_where_no_file_can_be(journal: SQLiteJournal, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, word in (("folder", "is a folder"), ("pipe", "a pipe"), ("none/copy.db", "doesn't exist")):
        with pytest.raises(SettingsError, match=word):
            await journal.backup(tmp_path / name, force=True)


async def test_the_copy_may_be_read_by_those_who_may_read_the_journal(journal: SQLiteJournal, tmp_path: Path) -> None:
    os.chmod(journal.path, 0o600)
    await journal.backup(tmp_path / "copy.db")
    assert 0o600 == os.stat(tmp_path / "copy.db").st_mode & 0o777


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_a_name_that_somebody_takes_meanwhile_stays_theirs(
    journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = backup._verify

    def taken(part: Path, *more: object) -> None:
        verify(part, *more)  # type: ignore[arg-type]
        (tmp_path / "copy.db").write_text("precious")

    monkeypatch.setattr(backup, "_verify", taken)
    with pytest.raises(SettingsError, match="come to be meanwhile"):
        await journal.backup(tmp_path / "copy.db")
    assert "precious" == (tmp_path / "copy.db").read_text()
    assert not [name for name in files(tmp_path) if ".part-" in name]


async def damaged_copy(journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the disk damages what is copied."""
    await fill(journal, 1)
    await journal.close()
    await journal.open()
    copy = backup._copy

    def damages(source: Path, part: Path, *more: object) -> backup._Held:
        held = copy(source, part, *more)  # type: ignore[arg-type]
        with part.open("r+b") as damaged:
            damaged.seek(20 * 4096)
            damaged.write(b"\xff" * 8 * 4096)
        return held

    monkeypatch.setattr(backup, "_copy", damages)


async def test_a_damaged_copy_is_no_backup(
    journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await damaged_copy(journal, monkeypatch)
    with pytest.raises(JournalCorrupt, match="damaged"):
        await journal.backup(tmp_path / "copy.db")
    assert not [name for name in files(tmp_path) if name.startswith("copy.db")]


async def test_without_verifying_it_would_be_taken_for_one(
    journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ablation."""
    await damaged_copy(journal, monkeypatch)
    monkeypatch.setattr(backup, "_verify", lambda *_: None)
    await journal.backup(tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy, pytest.raises(sqlite3.DatabaseError):
        assert [("ok",)] != copy.execute("pragma integrity_check").fetchall()
        raise sqlite3.DatabaseError("found at the first look")


class Held:
    """Holds the thread that copies where it is, until it is let go."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self.reached.set()
        assert self.released.wait(20)


async def cancelled(backing_up: Coroutine[Any, Any, Backup], held: Held) -> Backup:
    task = asyncio.create_task(backing_up)
    assert await asyncio.to_thread(held.reached.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    held.released.set()
    return await task


async def test_whoever_no_longer_waits_leaves_nothing_behind(journal: SQLiteJournal, tmp_path: Path) -> None:
    held = Held()
    with pytest.raises(asyncio.CancelledError):
        await cancelled(journal.backup(tmp_path / "copy.db", progress=held), held)
    assert not [name for name in files(tmp_path) if name.startswith("copy.db")]


async def test_who_gives_up_too_late_is_told_that_there_is_a_backup(
    journal: SQLiteJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, name = Held(), backup._name
    monkeypatch.setattr(backup, "_name", lambda *given: (held(), name(*given)))
    made = await cancelled(journal.backup(tmp_path / "copy.db"), held)
    assert str(tmp_path / "copy.db") == made.path
    assert ["copy.db"] == [name for name in files(tmp_path) if name.startswith("copy.db")]


async def test_what_a_killed_backup_left_is_removed_by_the_next(journal: SQLiteJournal, tmp_path: Path) -> None:
    for pid in (2**22 + 1, os.getppid()):
        (tmp_path / f"copy.db.part-{pid}").write_text("half a copy")
    (tmp_path / "copy.db.part-of-mine").write_text("not ours")
    await journal.backup(tmp_path / "copy.db")
    left = [name for name in files(tmp_path) if name.startswith("copy.db")]
    assert ["copy.db", "copy.db.part-of-mine", f"copy.db.part-{os.getppid()}"] == sorted(
        left, key=lambda n: (len(n) > 7, "of" not in n)
    )


async def test_a_target_on_a_full_device_says_so(journal: SQLiteJournal, tmp_path: Path) -> None:
    """/dev/full is a device, and so is refused as such; a folder that takes nothing is said by its name."""
    with pytest.raises(SettingsError):
        await journal.backup(Path("/dev/full"), force=True)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        return  # root may write anywhere
    with pytest.raises(JournalError, match="can't be written"):
        await journal.backup(locked / "copy.db")
