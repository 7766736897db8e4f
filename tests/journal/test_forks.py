"""A child that was forked while threads of its parent used SQLite can use it, too."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from eventspine.journal import forks

FORKING = """
    import os, signal, sys, threading, time
    from eventspine import Event, Service
    from eventspine.journal import _sqlite_describe as describe, forks
    from eventspine.sync import Spine

    class Placed(Event, context="orders", key="customer"):
        customer: str = "ann"

    path, guarded = sys.argv[1], sys.argv[2] == "guarded"
    if not guarded:
        forks.Door.close = forks.Door.open = lambda self: None
    spine = Spine(f"sqlite:///{path}", service=Service("shop", publishes="orders"))
    spine.publish(Placed())
    ended = threading.Event()

    def look():
        while not ended.is_set():
            describe.is_journal(spine.journal.path, 30)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = set()
    for _ in range(40):
        child = os.fork()
        if child == 0:
            assert describe.is_journal(spine.journal.path, 30)
            os._exit(0)
        children.add(child)
    ended.set()
    for thread in threads:
        thread.join()
    end = time.monotonic() + (60 if guarded else 5)
    while children and time.monotonic() < end:
        children -= {child for child in children if os.waitpid(child, os.WNOHANG)[0]}
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert spine.publish(Placed()).position == 2
    spine.close()
    print(len(children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("how", ["guarded", "without the guard"])
def test_a_child_forked_while_threads_are_inside_sqlite_does_not_hang(how: str, tmp_path: Path) -> None:
    script = tmp_path / "forking.py"
    script.write_text(textwrap.dedent(FORKING))
    for attempt in range(5):
        command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / f"{attempt}.db"), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        hung = int(done.stdout)
        if how == "guarded":
            assert hung == 0
            return
        if hung:
            return  # so the guard is what keeps them from it
    pytest.fail("nothing hung without the guard, so this test shows nothing")


def test_a_fork_waits_for_who_is_inside_and_keeps_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    door, steps, entered = forks.Door(), list[str](), threading.Event()
    monkeypatch.setattr(forks, "FORK_WAIT_S", 30)

    def fork() -> None:
        door.close()
        steps.append("forked")
        threading.Thread(target=late).start()
        door.open()

    def late() -> None:
        door.enter()
        door.leave()
        entered.set()

    door.enter()
    door.enter()  # nested, as a read inside a call
    forking = threading.Thread(target=fork)
    forking.start()
    door.leave()
    assert not steps
    steps.append("left")
    door.leave()
    forking.join(30)
    assert entered.wait(30)
    assert steps == ["left", "forked"]


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    door = forks.Door()
    monkeypatch.setattr(forks, "FORK_WAIT_S", 0.01)
    thread = threading.Thread(target=door.enter)
    thread.start()
    thread.join()
    door.close()
    door.open()
    door.enter()
    door.leave()
