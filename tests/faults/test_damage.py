"""Damaged files: each is refused in clear words or found by `spine doctor --deep`, never taken for whole or for empty."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Event, Service, Spine
from eventspine.errors import JournalCorrupt, JournalError, JournalVersion, SettingsError, SpineError
from eventspine.journal.sqlite import SQLiteJournal

PAGE = 4096
DUMP = "sqlite3 {} .dump | sed 's/^ROLLBACK; -- due to errors$/COMMIT;/' | sqlite3 {}"  # as the page on recovery says


class Noted(Event, context="notes", key="key"):
    key: str
    text: str = "x" * 200


writer = Service("writer", publishes="notes")
reader = Service("reader")


@reader.on(Noted)
async def read(event: Noted) -> None: ...


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal with events, cursors, a timer and a parked delivery's worth of pages, closed cleanly."""
    path = tmp_path_factory.mktemp("whole") / "spine.db"
    asyncio.run(_fill(path))
    assert not Path(f"{path}-wal").exists()
    return path.read_bytes()


async def _fill(path: Path) -> None:
    async with Spine(f"sqlite:///{path}", service=writer) as spine:
        for n in range(20):
            await spine.publish(*[Noted(key=f"k{n}-{m}") for m in range(20)])
        async with spine.running(reader):
            while not any(row.position for row in await spine.journal.cursors([1])):
                await asyncio.sleep(0.01)  # between two looks


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "spine.db"
    path.write_bytes(whole)
    return path


async def events_of(path: Path) -> int:
    """What anybody can still read; raises what a program would see."""
    async with Spine(f"sqlite:///{path}", service=writer) as spine:
        count = after = 0
        while (page := await spine.journal.feed(after, limit=500)).scanned > after:
            count, after = count + len(page.records), page.scanned
        return count


def doctor(path: Path, *more: str) -> tuple[int, dict[str, Any] | str]:
    line = [sys.executable, "-m", "eventspine.cli", "doctor", "--json", "--journal", f"sqlite:///{path}", *more]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def damage(answer: dict[str, Any] | str) -> list[str]:
    assert isinstance(answer, dict), answer
    return [one for one in answer["findings"] if one.startswith("Damaged:")]


# --- pages --------------------------------------------------------------------------------------------------------


def test_a_whole_file_has_nothing_to_find(path: Path) -> None:
    _, answer = doctor(path, "--deep")
    assert not damage(answer)


@pytest.mark.parametrize(
    ("name", "cut"),
    [("to its header", 100), ("to half", 0.5), ("by a page", -PAGE), ("to garbage", None)],
)
async def test_a_file_that_was_cut_is_refused_and_the_way_on_is_told(
    path: Path, whole: bytes, name: str, cut: float | None
) -> None:
    cut_off = b"garbage " * 1024 if cut is None else whole[: int(cut * len(whole)) if isinstance(cut, float) else cut]
    path.write_bytes(cut_off)
    with pytest.raises(JournalCorrupt, match=r"recovery\.md"):
        await events_of(path)
    code, told = doctor(path)
    assert code == 1
    assert "recovery.md" in str(told)
    assert path.read_bytes() == cut_off  # what can be recovered is left as it is


@pytest.mark.parametrize("offset", [0, 18, 100])
async def test_a_header_that_was_changed_is_refused(path: Path, whole: bytes, offset: int) -> None:
    path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
    with pytest.raises(JournalError):  # at 18 it says which releases of SQLite may write
        await events_of(path)
        await _publish(path)


def pages_of(path: Path, name: str) -> list[int]:
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("select rootpage from sqlite_master where name = ?", (name,)).fetchone()
    return [root]


@pytest.mark.parametrize(
    "table", ["spine_events", "spine_events_id", "spine_cursors", "spine_subscriptions", "spine_meta"]
)
async def test_the_first_page_of_a_table_or_index_that_was_overwritten_is_found(
    path: Path, whole: bytes, table: str
) -> None:
    (page,) = pages_of(path, table)
    start = (page - 1) * PAGE
    path.write_bytes(whole[:start] + os.urandom(8) + whole[start + 8 :])
    code, answer = doctor(path, "--deep")
    assert code == 1
    assert "recovery.md" in str(answer)


@pytest.mark.promise("file damaged", "sqlite", "sqlite processes", lost="what is damaged, which is told")
def test_bits_that_turn_anywhere_end_in_words_and_never_in_a_crash(path: Path, whole: bytes) -> None:
    """Of each: read, publish, run and look. What is changed inside an event's data can't be found by anybody."""
    chance = random.Random(2026)
    found = 0
    for _ in range(60):
        turned = bytearray(whole)
        page = chance.randrange(1, len(whole) // PAGE)
        for _ in range(16):
            turned[page * PAGE + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)
        for left in path.parent.glob("spine.db-*"):
            left.unlink() if left.is_file() else shutil.rmtree(left)
        path.write_bytes(turned)
        found += asyncio.run(_survives(path))
    assert found > 10  # else nothing was tried


async def _survives(path: Path) -> bool:
    complaints = 0
    for attempt in (events_of(path), _publish(path), _check(path)):
        try:
            complaints += bool(await attempt)
        except SpineError as error:
            assert str(error)
            complaints += 2
    return complaints > 1


async def _publish(path: Path) -> None:
    async with Spine(f"sqlite:///{path}", service=writer) as spine:
        await spine.publish(Noted(key="new"))


async def _check(path: Path) -> list[str]:
    journal = SQLiteJournal(f"sqlite:///{path}")
    await journal.open()
    try:
        return await journal.check()
    finally:
        await journal.close()


# --- values that SQLite takes for whole -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("update spine_events set key = cast(x'ff31' as text) where position = 7", "key"),
        ("update spine_events set key = 'another' where position = 7", "the first at position 7"),
        ("update spine_events set slot = slot + 1 where position = 9", "the first at position 9"),
        ("update spine_cursors set position = 1000000 where partition = 3", "would be passed"),
        ("update spine_cursors set beyond = x'c1' where partition = 3", "cursors"),
        ("update spine_subscriptions set channels = '['", "subscriptions"),
        ("update sqlite_sequence set seq = 5 where name = 'spine_events'", "twice"),
        ("drop index spine_events_id", "spine_events_id is missing"),
        ("drop table spine_marks", "spine_marks is missing"),
        ("alter table spine_leases drop column unclean", "spine_leases has no unclean"),
        ("insert into spine_timers values (x'00', 9e18, x'c1')", "spine_timers"),
    ],
)
async def test_a_value_that_can_not_be_is_found(path: Path, change: str, told: str) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(change)
    assert told in "; ".join(await _check(path))


async def test_a_text_that_is_no_text_any_more_is_told_as_damage_to_readers(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("update spine_events set type = cast(x'ff' as text) where position = 7")
    with pytest.raises(JournalCorrupt, match="UTF-8"):
        await events_of(path)


# --- other files ----------------------------------------------------------------------------------------------------


async def test_an_empty_file_is_no_journal_to_look_at_and_said_to_be_new(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"")
    code, told = doctor(path)
    assert code == 4
    assert "no journal" in str(told)
    with caplog.at_level(logging.WARNING):
        await _publish(path)
    assert "was empty" in caplog.text


async def test_a_file_that_another_is_just_making_was_not_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when all services of a new system are started at once: whoever came second was told to restore a backup."""
    journals = [SQLiteJournal(f"sqlite:///{tmp_path}/spine.db") for _ in range(4)]
    await asyncio.gather(*(journal.open() for journal in journals))
    for journal in journals:
        await journal.close()
    assert 1 == sum(journal.created for journal in journals)
    assert "was empty" not in caplog.text


@pytest.mark.parametrize(
    "schema",
    [
        "create table spine_meta (a)",
        "create table spine_meta (name text, value text)",
        "create table spine_meta (name text, value text); insert into spine_meta values ('id', 'x')",
        "create table spine_meta (name text, value text); insert into spine_meta values ('schema_version', 'x')",
        "create table spine_events (a)",
        "create view spine_meta as select 1",
    ],
)
async def test_another_programs_database_with_such_names_is_refused_and_left_alone(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(schema)
        before = file.execute("select name, sql from sqlite_master").fetchall()
    with pytest.raises(JournalError):
        await _publish(path)
    with closing(sqlite3.connect(path)) as file:
        assert before == file.execute("select name, sql from sqlite_master").fetchall()


async def test_a_file_of_a_release_from_the_future_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("update spine_meta set value = '99' where name in ('schema_version', 'writer_min')")
    with pytest.raises(JournalVersion, match="Upgrade eventspine"):
        await _publish(path)


async def test_a_log_of_another_file_is_not_taken_for_a_part_of_this_one_unnoticed(
    path: Path, whole: bytes, tmp_path: Path
) -> None:
    """SQLite has no way to know whose log it is. What comes of it is damage that is found, or the other file whole."""
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "spine.db"
    _killed_while_writing(other)
    shutil.copy(f"{other}-wal", f"{path}-wal")
    code, answer = doctor(path, "--deep")
    if isinstance(answer, dict) and not damage(answer):
        assert await events_of(path) == await events_of(other)
    else:
        assert code == 1


@pytest.mark.promise("foreign hand", "sqlite", "sqlite processes", lost="what was only in a deleted log")
async def test_a_log_that_is_lost_takes_the_newest_events_and_leaves_the_rest_whole(tmp_path: Path) -> None:
    """Nobody can tell that it was there; it is why a -wal must never be deleted. See the page on recovery."""
    path = tmp_path / "spine.db"
    _killed_while_writing(path)
    Path(f"{path}-wal").unlink()
    Path(f"{path}-shm").unlink(missing_ok=True)
    try:
        assert await events_of(path) <= 400
    except JournalError:
        pass
    else:
        assert not await _check(path)


def _killed_while_writing(path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys; from tests.faults.test_damage import _fill; from pathlib import Path\n"
        "async def main():\n"
        "    from eventspine import Spine; from tests.faults.test_damage import Noted, writer\n"
        "    async with Spine(f'sqlite:///{sys.argv[1]}', service=writer) as spine:\n"
        "        await spine.publish(*[Noted(key=str(n)) for n in range(400)])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert Path(f"{path}-wal").stat().st_size


async def test_a_file_that_is_replaced_while_it_is_open_stores_nothing_more(path: Path, whole: bytes) -> None:
    async with Spine(f"sqlite:///{path}", service=writer) as spine:
        await spine.publish(Noted(key="before"))
        new = path.with_name("new.db")
        new.write_bytes(whole)
        new.replace(path)
        with pytest.raises(JournalError, match="replaced"):
            await spine.publish(Noted(key="after"))


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the sqlite3 shell is not installed")
@pytest.mark.promise("file damaged", "sqlite", "sqlite processes", lost="what is damaged, which is told")
async def test_what_the_page_on_recovery_says_gives_back_what_can_be_read(path: Path, whole: bytes) -> None:
    """A page of the feed is overwritten: its events are gone, all others and the cursors are there, and it goes on."""
    broken = whole[: 30 * PAGE] + b"\xee" * PAGE + whole[31 * PAGE :]
    path.write_bytes(broken)
    recovered = path.with_name("recovered.db")
    subprocess.run(DUMP.format(path, recovered), shell=True, timeout=60, check=True)

    async with Spine(f"sqlite:///{recovered}", service=writer) as spine:
        assert not await spine.journal.check()
        assert 300 < await events_of(recovered) < 400
        (row,) = await spine.journal.subscriptions("reader")
        assert all(cursor.position for cursor in await spine.journal.cursors([row.number]))
        assert (await spine.publish(Noted(key="after"))).position == 401


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the sqlite3 shell is not installed")
async def test_a_damaged_index_is_mended_without_loss(path: Path, whole: bytes) -> None:
    (page,) = pages_of(path, "spine_events_id")
    path.write_bytes(whole[: page * PAGE - 60] + b"\0" * 20 + whole[page * PAGE - 40 :])
    assert await _check(path)
    mended = path.with_name("mended.db")
    subprocess.run(DUMP.format(path, mended), shell=True, timeout=60, check=True)
    assert not await _check(mended)
    assert await events_of(mended) == 400


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[int]:
    if os.geteuid() != 0:
        yield os.geteuid()
        return
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/tmp") and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    yield 65534


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_or_folder_that_can_not_be_written_is_said_so(path: Path, nobody: int, what: str) -> None:
    path.chmod(0o444)
    path.parent.chmod(0o777 if what == "file" else 0o555)
    script = (
        "import os, sys; from pathlib import Path; from eventspine.journal import _sqlite_file as file\n"
        "os.setuid(int(sys.argv[2])); file.check_path(Path(sys.argv[1]))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), str(nobody)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert SettingsError.__name__ in done.stderr
        assert (
            f"can't write to {'the folder ' if what == 'folder' else ''}{path if what == 'file' else path.parent}"
            in done.stderr
        )
    finally:
        path.parent.chmod(0o755)
