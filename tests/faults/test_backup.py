"""Backups of a journal at work: killed, without space, and put back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from eventspine.journal.sqlite import SQLiteJournal
from tests.journal.material import events, publish

from .harness import NOTHING, Place, locked, until

LEASE_S = 1.5
MIB = 1024 * 1024


def fill(place: Place, megabytes: int) -> None:
    async def write() -> None:
        journal = SQLiteJournal(place.url)
        await journal.open()
        for _ in range(megabytes):
            await publish(journal, *events(16, data=bytes(MIB // 16)))
        await journal.close()

    asyncio.run(write())


def parts(place: Place) -> list[Path]:
    return [path for path in place.folder.iterdir() if ".part-" in path.name]


def positions(path: Path) -> list[int]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as copy:
        return [position for (position,) in copy.execute("select position from spine_events")]


def test_a_backup_that_is_killed_leaves_no_copy_and_the_journal_as_it_was(place: Place) -> None:
    fill(place, 150)
    publisher = place.start("publish", name="p").ready()
    consumer = place.start("consume", "--lease", LEASE_S).ready()
    place.progress(10)
    target = place.folder / "copy.db"
    for _ in range(3):
        backup = place.spine("backup", str(target))
        part = Path(f"{target}.part-{backup.pid}")
        until(part.exists, "the copying to begin")
        backup.kill()
        assert part.exists()
        assert not target.exists()
    assert 0 == place.spine("backup", str(target)).end()
    assert [] == parts(place)
    assert len(positions(target)) > 150 * 16

    place.progress(10)
    place.stop_publishing(publisher)
    place.settle()
    assert NOTHING == place.reckon()
    assert 0 == consumer.terminate()


def test_without_space_it_says_so_and_leaves_nothing(place: Place) -> None:
    fill(place, 20)
    target = place.folder / "copy.db"
    line = f"trap '' XFSZ; ulimit -f {10 * 1024}; exec {sys.executable} -m eventspine.cli --journal {place.url} backup {target}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert 1 == ended.returncode
    assert f"There is no space left to write {target}." in ended.stderr
    assert ["spine.db", "spine.db-lock"] == sorted(path.name for path in place.folder.iterdir() if path.is_file())


@pytest.mark.parametrize("killed", [True, False], ids=["processes are killed", "processes end"])
@pytest.mark.promise("disk lost", "sqlite", "sqlite processes", lost="what is younger than the last backup")
def test_a_backup_is_put_back_and_work_goes_on_from_there(place: Place, killed: bool) -> None:
    """What came after it is lost; what it holds is handled, nothing twice."""
    publisher = place.start("publish", name="p").ready()
    consumers = [place.start("consume", "--lease", LEASE_S).ready() for _ in range(2)]
    place.progress(30)
    target = place.folder / "copy.db"
    assert 0 == place.spine("backup", str(target), "--json").end(), place.told()
    place.progress(30)
    for child in (publisher, *consumers):
        if killed:
            child.kill()
        elif child is not publisher:
            assert 0 == child.terminate()
    if not killed:
        place.stop_publishing(publisher)
    lost = set(positions_of(place)) - set(positions(target))
    assert lost

    os.replace(target, place.path)
    for end in ("-wal", "-shm"):
        Path(f"{place.path}{end}").unlink(missing_ok=True)
    began = time.monotonic()
    consumer = place.start("consume", "--lease", LEASE_S).ready()
    until(lambda: consumer.pid in place.owners(), place.told, limit_s=2 * LEASE_S + 5)
    print(f"taken over {time.monotonic() - began:.1f} s after the start")
    place.settle()
    found = place.reckon()
    assert found.unstored  # acknowledged after the backup
    found.unstored.clear()
    assert NOTHING == found
    assert 0 == consumer.terminate()


def positions_of(place: Place) -> list[int]:
    return [position for (position,) in place.query("select position from spine_events")]


def test_what_a_backup_of_processes_at_work_prints(place: Place) -> None:
    publisher = place.start("publish", name="p").ready()
    place.receipts(20)
    target = place.folder / "copy.db"
    line = [sys.executable, "-m", "eventspine.cli", "--journal", place.url, "backup", str(target), "--json"]
    told = json.loads(subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert max(positions(target)) == told["position"]
    assert len(positions(target)) == told["events"]
    place.stop_publishing(publisher)


def test_an_interrupted_backup_leaves_nothing_or_says_that_it_was_done(place: Place) -> None:
    fill(place, 150)
    target = place.folder / "copy.db"
    backup = place.spine("backup", str(target))
    until(Path(f"{target}.part-{backup.pid}").exists, "the copying to begin")
    backup.signal(signal.SIGINT)
    code = backup.end()
    assert code in (0, 130), backup.said()
    assert [] == parts(place)
    assert (code == 0) == target.exists()
    if code == 0:
        assert 150 * 16 == len(positions(target))


def test_while_another_program_holds_the_write_lock_a_backup_goes_on(place: Place) -> None:
    fill(place, 2)
    with locked(place.path):
        assert 0 == place.spine("backup", str(place.folder / "copy.db")).end(), place.told()
    assert 2 * 16 == len(positions(place.folder / "copy.db"))
