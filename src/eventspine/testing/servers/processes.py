"""The processes of a server: itself, and all that it started, also what outlived it.

A server is the leader of a session and a process group of its own, both numbered by its pid. A pid alone is not trusted: the
system gives it to somebody else later, so the time when the process was born is remembered beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    group: int
    born: str
    ended: bool  # a zombie: it does nothing any more, whenever its parent may collect it


def processes() -> dict[int, Process]:
    return {process.pid: process for process in (_of_linux() if sys.platform == "linux" else _of_ps())}


def _of_linux() -> Iterable[Process]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:  # it ended meanwhile
                continue
            state, parent, group, *rest = line[line.rindex(")") + 2 :].split()
            # Killed, its first thread is a zombie at once; the others may still hold its ports.
            ended = state in "ZX" and int(rest[14]) <= 1
            yield Process(int(folder.name), int(parent), int(group), rest[16], ended)


def _of_ps() -> Iterable[Process]:
    command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,lstart="]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():  # noqa: S603  our own words
        pid, parent, group, state, born = line.split(maxsplit=4)
        yield Process(int(pid), int(parent), int(group), born, state.startswith("Z"))


def born(pid: int) -> str | None:
    """When it began, in the system's own notation; None when there is no such process."""
    found = processes().get(pid)
    return None if found is None or found.ended else found.born


def family(leader: int, leader_born: str) -> list[int]:
    """The process, its group and their descendants, as far as they are alive."""
    there = processes()
    if leader in there and there[leader].born != leader_born:
        return []  # the number is somebody else's by now
    found = {pid for pid, process in there.items() if leader in (pid, process.group)}
    growing = True
    while growing:
        children = {pid for pid, process in there.items() if process.parent in found} - found
        found |= children
        growing = bool(children)
    return sorted(pid for pid in found if not there[pid].ended)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # it ended by itself
            pass


def wait_for_the_end(pids: Iterable[int], seconds: float) -> list[int]:
    """Those that are still there after this time."""
    births = {pid: process.born for pid, process in processes().items()}
    waiting = {pid: births[pid] for pid in pids if pid in births}
    deadline = time.monotonic() + seconds
    while True:
        there = processes()
        left = [pid for pid, at in waiting.items() if pid in there and there[pid].born == at and not there[pid].ended]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
