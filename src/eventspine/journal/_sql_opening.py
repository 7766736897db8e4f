"""The part of a journal in SQL that opens and closes it: as often as anybody likes, started once in each process.

Whoever forks gets a journal that starts anew in the child: the parent's threads don't exist there, and its connections must
be neither used nor closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ..errors import JournalError


class Running(Protocol):
    """What an open journal has running in one process."""

    pid: int

    def close(self, limit_s: float) -> None: ...


R = TypeVar("R", bound=Running)


class Opening(Generic[R]):
    if TYPE_CHECKING:
        _busy_s: float

        def _start(self) -> R: ...

    def __init__(self) -> None:
        self._opened = 0
        self._running: R | None = None
        self._lock = threading.Lock()

    async def open(self) -> None:
        await asyncio.to_thread(self.open_blocking)

    def open_blocking(self) -> None:
        self._leave_parent()
        with self._lock:
            if self._running is None:
                self._running = self._start()
            self._opened += 1

    async def close(self) -> None:
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        self._leave_parent()
        with self._lock:
            self._opened = max(0, self._opened - 1)
            if self._opened or self._running is None:
                return
            running, self._running = self._running, None
        running.close(self._busy_s)

    def _here(self) -> R:
        running = self._running
        if running is not None and running.pid == os.getpid():
            return running
        self._leave_parent()
        with self._lock:
            if not self._opened:
                raise JournalError(
                    "The journal is not open. Open it first, or keep its spine open for as long as it is used."
                )
            if self._running is None:
                self._running = self._start()
            return self._running

    def _leave_parent(self) -> None:
        running = self._running
        if running is not None and running.pid != os.getpid():
            self._lock = threading.Lock()  # a thread of the parent may have held the old one
            self._forked(running)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(running))  # for ever: even a finalizer would close them
            self._running = None

    def _forked(self, running: R) -> None:
        """What of the parent's must end here, in the child."""
