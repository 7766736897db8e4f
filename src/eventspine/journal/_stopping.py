"""Work in a thread of its own that whoever asked for it may stop waiting for, such as copies that take minutes.

waited for ──► done
    │ cancelled
    └──► told to stop, and what runs just now is interrupted ──► it has stopped, and cleared away ──► cancelled
                                                 └── it was done by then: so it was done, and says so
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
AGAIN_S = 1.0  # an interrupt that comes between two statements meets nothing


class Stopped(Exception):
    """Whoever asked for it no longer waits."""


class Stop(threading.Event):
    """Set once nobody waits. `interrupt` ends what the thread waits for just now, such as a statement of SQL."""

    interrupt: Callable[[], None] | None = None

    def set(self) -> None:
        super().set()
        if self.interrupt is not None:
            with suppress(sqlite3.Error):  # closed meanwhile
                self.interrupt()

    def look(self) -> None:
        if self.is_set():
            raise Stopped


async def stoppable(work: Callable[[Stop], T]) -> T:
    stop = Stop()
    working = asyncio.create_task(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            await asyncio.to_thread(stop.set)
            await asyncio.wait([working], timeout=AGAIN_S)
        with suppress(Stopped):
            return working.result()
        raise
