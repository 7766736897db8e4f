"""What counts as the end of a server: nobody waits for one whose ports are held."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from eventspine.testing.servers import processes
from eventspine.testing.servers.ports import taken

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says how many threads there are")

WITHOUT_ITS_FIRST_THREAD = """
import ctypes, socket, threading, time
held = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=(120,)).start()
print(held.getsockname()[1], flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def holding() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process whose first thread has ended, and the port that another one holds."""
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_ITS_FIRST_THREAD], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())
        child.kill()


def until_its_first_thread_ended(pid: int) -> None:
    while True:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            if file.read().rpartition(") ")[2][0] == "Z":
                return


def test_a_process_lives_as_long_as_any_of_its_threads(holding: tuple[subprocess.Popen[str], int]) -> None:
    child, port = holding
    born = processes.born(child.pid)
    assert born is not None
    until_its_first_thread_ended(child.pid)
    assert port == taken(port)
    assert [child.pid] == processes.family(child.pid, born)

    processes.send([child.pid], signal.SIGKILL)
    assert [] == processes.wait_for_the_end([child.pid], 30)
    assert taken(port) is None
