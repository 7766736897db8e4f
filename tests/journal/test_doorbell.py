"""The folder of bells is there while somebody listens, and no longer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from eventspine.journal import doorbell, open_journal
from eventspine.journal.doorbell import Bells, bells_of

pytestmark = pytest.mark.skipif(not doorbell.HAS_SOCKETS, reason="no such sockets here")

LISTENER = """
import asyncio, sys
from eventspine.journal import open_journal

async def listen():
    journal = open_journal(sys.argv[1])
    await journal.open()
    stop = journal.watch(lambda: None)
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    stop()
    await journal.close()

asyncio.run(listen())
"""


class Listener:
    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LISTENER, f"sqlite:///{path}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"

    def leave(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["beside the file", "in the temporary folder"])
def path(request, tmp_path, monkeypatch) -> Path:
    if request.param == "beside the file":
        monkeypatch.setattr(doorbell, "_PATH_BYTES_MAX", 4096 if len(str(tmp_path)) > 60 else 100)
        found = Path(tempfile.mkdtemp(prefix="bell-")) / "spine.db"
        request.addfinalizer(lambda: shutil.rmtree(found.parent))
        assert bells_of(found).parent == found.parent
        return found
    found = tmp_path / ("long" * 20) / "spine.db"
    found.parent.mkdir()
    assert bells_of(found).parent == Path(tempfile.gettempdir())
    return found


def test_the_last_process_to_leave_takes_the_folder_with_it(path):
    first, second = Listener(path), Listener(path)
    assert len(os.listdir(bells_of(path))) == 2

    first.leave()
    assert len(os.listdir(bells_of(path))) == 1
    second.leave()

    assert not bells_of(path).exists()


def test_bells_of_killed_processes_do_not_keep_it(path):
    killed, last = Listener(path), Listener(path)
    killed.kill()

    last.leave()

    assert not bells_of(path).exists()


def test_a_process_that_was_killed_last_leaves_it_to_the_next_one(path):
    killed = Listener(path)
    killed.kill()
    assert bells_of(path).exists()

    Listener(path).leave()

    assert not bells_of(path).exists()


async def test_who_comes_back_is_rung_again(path):
    """After the folder has gone and come again, those who stayed open ring the new bells."""
    writer, listener = open_journal(f"sqlite:///{path}"), open_journal(f"sqlite:///{path}")
    await writer.open()
    for _ in range(2):
        await listener.open()
        heard = asyncio.Event()
        stop = listener.watch(heard.set)
        bells = Bells(path)
        bells.ring()
        bells.close()
        await asyncio.wait_for(heard.wait(), 10)
        stop()
        await listener.close()
        assert not bells_of(path).exists()
    await writer.close()


def _hang_and_leave(path: Path, times: int, missed: list[int]) -> None:
    for number in range(times):
        bells = Bells(path)
        bell = doorbell.socket.socket(doorbell.socket.AF_UNIX, doorbell.socket.SOCK_DGRAM)
        try:
            own = f"{os.getpid()}-{threading.get_ident()}-{number}.bell"
            doorbell._bind(bell, bells.folder, own)
            bells.own = own
        except OSError:
            missed.append(number)
        finally:
            bell.close()
            bells.take_down()
            bells.close()


def _race(path: Path) -> list[int]:
    path.parent.mkdir(exist_ok=True)
    missed: list[int] = []
    threads = [threading.Thread(target=_hang_and_leave, args=(path, 500, missed)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return missed


def test_whoever_hangs_a_bell_while_the_last_one_leaves_finds_the_folder_again(path):
    assert _race(path) == []
    assert not bells_of(path).exists()


def test_without_trying_again_some_would_not(path, monkeypatch):
    monkeypatch.setattr(doorbell, "_HANG_TRIES", 1)

    assert any(_race(path) for _ in range(20))
