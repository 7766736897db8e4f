"""Where a journal can't be opened, or its file is in trouble: said clearly, with the way out, and nothing half stored."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from eventspine.errors import JournalBusy, JournalCorrupt, JournalError, JournalFull, SettingsError
from eventspine.journal import _sqlite_file as file, open_journal
from eventspine.journal._sqlite_file import path_of
from eventspine.journal.lockfile import Turn
from eventspine.journal.port import Append, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import commit, event


def publish_one(**given: object) -> Unit:
    return Unit(appends=[Append([event(**given)])])


async def refused(path: object) -> str:
    journal = SQLiteJournal(f"sqlite:///{path}")
    with pytest.raises((SettingsError, JournalError)) as caught:
        await journal.open()
    return f"{type(caught.value).__name__}: {caught.value}"


async def test_a_url_names_a_relative_or_an_absolute_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(relative := open_journal("sqlite:///spine.db"), SQLiteJournal)
    monkeypatch.chdir("/")

    assert tmp_path / "spine.db" == relative.path
    assert Path("/var/lib/spine.db") == SQLiteJournal("sqlite:////var/lib/spine.db").path


@pytest.mark.parametrize("url", ["sqlite://spine.db", "sqlite:///", "sqlite:///:memory:"])
def test_a_url_without_a_file_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(SettingsError, match=r"sqlite:///spine\.db|in a temporary folder, such as f\"sqlite:///"):
        SQLiteJournal(url)


def test_options_in_a_url_are_refused_rather_than_taken_for_a_name() -> None:
    with pytest.raises(SettingsError, match=r"leave out the \? and what follows, sqlite:///shop.db$"):
        SQLiteJournal("sqlite:///shop.db?timeout=30")


async def test_places_where_no_journal_can_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is no database, and it is long enough to be looked at " * 20)

    assert "is a folder. Name a file in it" in await refused(tmp_path)
    assert "doesn't exist. Create it" in await refused(tmp_path / "missing" / "spine.db")
    assert "JournalCorrupt" in await refused(tmp_path / "notes.txt")
    if Path("/proc/self").exists():
        assert "/proc/spine.db-lock, where processes take turns, can't be made" in await refused(Path("/proc/spine.db"))
    assert "this is no database" in (tmp_path / "notes.txt").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_or_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "can't write to the folder" in await refused(tmp_path / "closed" / "spine.db")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/data {tmp_path} {kind} rw 0 0\n")
    monkeypatch.setattr(file, "MOUNTS", mounts)

    assert f"network file system ({kind})" in await refused(tmp_path / "spine.db")


async def test_a_python_with_a_sqlite_that_is_too_old_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(SettingsError, match=r"SQLite 3\.34\.1; 3\.35\.0 or newer"):
        await open_journal(f"sqlite:///{tmp_path}/spine.db").open()


async def test_the_file_has_an_identity_and_says_who_made_it(tmp_path: Path) -> None:
    first, second = (SQLiteJournal(f"sqlite:///{tmp_path}/spine.db") for _ in range(2))
    await first.open()
    await second.open()

    assert [True, False] == [first.created, second.created]
    assert first.id == second.id
    assert 32 == len(first.id)
    await second.close()
    await first.close()
    assert not (tmp_path / "spine.db-wal").exists()


async def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    journals = [SQLiteJournal(f"sqlite:///{tmp_path}/spine.db") for _ in range(8)]
    await asyncio.gather(*(journal.open() for journal in journals))

    assert 1 == len({journal.id for journal in journals})
    assert 1 == sum(journal.created for journal in journals)
    for journal in journals:
        await journal.close()


async def test_our_tables_may_live_beside_others_in_their_file(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute("create table users (name text)")
    connection.close()
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/app.db")
    await journal.open()

    assert [] == await journal.query("select * from users", {})
    await journal.close()


# --- locked, full, damaged -------------------------------------------------------------------------------------------


async def test_a_connection_that_holds_the_write_lock_is_waited_for_then_named(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", busy_s=0.2)
    await journal.open()
    own = sqlite3.connect(journal.path, isolation_level=None)
    own.execute("begin immediate")

    verdict = await commit(journal, publish_one())
    assert "failed" == verdict.kind
    assert isinstance(verdict.error, JournalBusy)
    assert "within=" in str(verdict.error)

    own.execute("rollback")
    assert "done" == (await commit(journal, publish_one())).kind
    own.close()
    await journal.close()


async def test_a_lock_that_is_given_back_in_time_is_only_a_wait(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await journal.open()
    own = sqlite3.connect(journal.path, isolation_level=None)
    own.execute("begin immediate")
    waiting = asyncio.create_task(commit(journal, publish_one()))
    await asyncio.sleep(0)
    assert not waiting.done()
    own.execute("commit")

    assert "done" == (await waiting).kind
    own.close()
    await journal.close()


FULL = """
import asyncio, resource, signal, sys
from eventspine.errors import JournalFull
from eventspine.journal.port import Append, Unit
from eventspine.journal.sqlite import SQLiteJournal
from tests.journal.material import event

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    acknowledged, refused = 0, None
    limit(1_000_000)
    while refused is None:
        verdict = (await journal.commit([Unit(appends=[Append([event(data=b"x" * 50_000)])])]))[0]
        if verdict.kind == "done":
            acknowledged += 1
        else:
            refused = verdict
    print(refused.kind, type(refused.error).__name__, flush=True)
    limit(resource.RLIM_INFINITY)
    after = (await journal.commit([Unit(appends=[Append([event()])])]))[0]
    pages = await journal.feed(0, limit=1000)
    print(after.kind, len(pages.records) == acknowledged + 1, acknowledged > 3)
    await journal.close()

asyncio.run(main())
"""


def test_a_full_disk_refuses_and_goes_on_when_there_is_space_again(tmp_path: Path) -> None:
    """A small limit on the size of files; what was acknowledged before is all there, and nothing of what was refused."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, f"sqlite:///{tmp_path}/spine.db"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ["failed JournalFull", "done True True"] == done.stdout.splitlines(), done.stderr


def test_what_sqlite_says_is_told_in_our_words() -> None:
    def error(code: int) -> sqlite3.OperationalError:
        made = sqlite3.OperationalError("what it says")
        made.sqlite_errorcode = code
        return made

    path = Path("spine.db")
    assert isinstance(file.translate(error(sqlite3.SQLITE_FULL), path), JournalFull)
    assert isinstance(file.translate(error(sqlite3.SQLITE_CORRUPT_VTAB), path), JournalCorrupt)
    assert isinstance(file.translate(error(sqlite3.SQLITE_BUSY_SNAPSHOT), path), JournalBusy)
    assert "process 42" in str(file.translate(error(sqlite3.SQLITE_BUSY), path, Turn(42, 1)))
    assert type(file.translate(error(sqlite3.SQLITE_READONLY_DBMOVED), path)) is JournalError
    assert file.translate(error(sqlite3.SQLITE_CONSTRAINT_UNIQUE), path) is None
    assert file.translate(ValueError(), path) is None


async def test_a_damaged_file_says_so_to_readers_and_writers(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await journal.open()
    await journal.commit([publish_one(data=b"x" * 10_000) for _ in range(50)])
    await journal.close()
    with (tmp_path / "spine.db").open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * 400_000)

    assert "JournalCorrupt" in await refused(tmp_path / "spine.db")


async def test_two_names_of_one_file_share_its_lock_and_its_bells(tmp_path):
    """A link to the file or its folder is the file; else each name would take turns of its own."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert path_of(f"sqlite:///{tmp_path}/link/spine.db") == tmp_path.resolve() / "real" / "spine.db"


async def test_what_can_be_no_file_is_refused_before_sqlite_meets_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, word in ((pipe, "a device, a pipe"), (Path("/dev/null"), "a device, a pipe"), (tmp_path, "is a folder")):
        with pytest.raises(SettingsError, match=word):
            await SQLiteJournal(f"sqlite:///{path}").open()
        with pytest.raises(SettingsError, match=word):
            SQLiteJournal(f"sqlite:///{path}").exists()
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(SettingsError, match="can't be the name of a file"):
            SQLiteJournal(f"sqlite:///{name}")


@pytest.mark.parametrize("url", ["mysql://ann:secret@host/shop", "sqlite://ann:secret@host/shop"])
def test_a_url_that_is_refused_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_journal(url)
    assert "secret" not in str(refused.value)
    assert "host/shop" in str(refused.value)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_lost_its_name_takes_nothing_more(tmp_path: Path, how: str) -> None:
    """What is written to it would be acknowledged and gone."""
    other = SQLiteJournal(f"sqlite:///{tmp_path / 'other.db'}")
    await other.open()
    await other.close()
    journal = SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}")
    await journal.open()
    try:
        assert (await commit(journal, publish_one())).ok
        kept = tmp_path / "kept.db"
        os.link(journal.path, kept)
        os.replace(other.path, journal.path) if how == "replaced" else os.unlink(journal.path)
        (verdict,) = await journal.commit([publish_one()])
        assert isinstance(verdict.error, JournalError)
        assert "deleted, moved or replaced" in str(verdict.error)
        os.replace(kept, journal.path)
        assert (await commit(journal, publish_one())).ok, "it is the same file again"
    finally:
        await journal.close()
