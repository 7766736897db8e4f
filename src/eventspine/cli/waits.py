"""Waiting for the write lock, told by a command that does: else it stands still for half a minute, and nobody knows for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..journal.held import waits_for_lock
from ..journal.port import Journal
from .output import note

WAIT_MOST_S = 1.0
LOOK_EVERY_S = 0.2


@asynccontextmanager
async def telling_of_the_lock(journal: Journal, tell: Callable[[str], object] = note) -> AsyncIterator[None]:
    """Once, on stderr, also where no terminal is: a script that takes long has it in its log."""
    telling = asyncio.create_task(_tell(journal, tell))
    try:
        yield
    finally:
        telling.cancel()


async def _tell(journal: Journal, tell: Callable[[str], object]) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if waits := waits_for_lock(journal, WAIT_MOST_S):
            tell(waits)
            return
