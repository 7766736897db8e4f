"""No fork while a thread of ours is inside SQLite.

SQLite has mutexes for the whole process. A fork copies them as they are, and the thread that would open a locked one does
not exist in the child, which then waits for ever in its first call. So our threads say when they are inside, and a
fork waits until none is, for FORK_WAIT_S at most; meanwhile none goes in. It costs a fraction of a microsecond.

A fork of Python's is meant (`os.fork`, multiprocessing, pre-forking servers). What `subprocess` starts shares no memory.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

FORK_WAIT_S = 1.0  # a handler's own transaction may take longer; its thread is rarely inside SQLite then


class Door:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._forking: int | None = None  # the thread that does
        self._inside = 0
        self._mine = threading.local()

    def enter(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        self._mine.depth = depth + 1
        if depth:
            return
        with self._lock:
            while self._forking is not None and self._forking != threading.get_ident():
                self._changed.wait()
            self._inside += 1

    def leave(self) -> None:
        depth = getattr(self._mine, "depth", 0)  # 0: in a child, by whom forked while it was inside
        self._mine.depth = max(0, depth - 1)
        if depth != 1:
            return
        with self._lock:
            self._inside -= 1
            if self._forking is not None:
                self._changed.notify_all()

    def close(self) -> None:
        """Before a fork."""
        with self._changed:
            while self._forking is not None:  # two threads fork at once
                self._changed.wait()
            self._forking = threading.get_ident()
            own = 1 if getattr(self._mine, "depth", 0) else 0
            self._changed.wait_for(lambda: self._inside == own, FORK_WAIT_S)

    def open(self) -> None:
        """After it, in the parent."""
        with self._changed:
            self._forking = None
            self._changed.notify_all()


_door = Door()


def enter() -> None:
    _door.enter()


def leave() -> None:
    _door.leave()


class _Inside:
    def __enter__(self) -> None:
        _door.enter()

    def __exit__(self, *_: object) -> None:
        _door.leave()


_inside = _Inside()


def inside_sqlite() -> AbstractContextManager[None]:
    return _inside


def _close() -> None:
    _door.close()


def _open() -> None:
    _door.open()


def _renew() -> None:
    global _door  # noqa: PLW0603 -- the parent's threads, which would have to leave by the old one, are not here
    _door = Door()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close, after_in_parent=_open, after_in_child=_renew)
