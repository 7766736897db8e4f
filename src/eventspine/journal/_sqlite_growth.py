"""The part of the SQLite journal that is about its size and state: what is kept and deleted, how much there is, copies, and
whether it is whole."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ._sql_growth import Retaining
from ._sqlite_backup import back_up
from ._sqlite_check import check
from .port import Backup

T = TypeVar("T")


class Growth(Retaining):
    backups = True
    path: Path
    _busy_s: float

    if TYPE_CHECKING:

        async def _read(self, function: Callable[[sqlite3.Cursor], T]) -> T: ...

    async def check(self) -> list[str]:
        """Read all of the file; what is damaged, in words."""
        return await self._read(check)

    async def backup(
        self, target: Path, *, force: bool = False, progress: Callable[[str, float], None] | None = None
    ) -> Backup:
        stop = threading.Event()
        try:
            return await asyncio.to_thread(
                back_up, self.path, target, busy_s=self._busy_s, force=force, progress=progress, stop=stop
            )
        except asyncio.CancelledError:
            stop.set()  # the thread ends soon, and leaves nothing behind
            raise
