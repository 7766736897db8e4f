"""The part of the SQLite journal that is about its size and state: what is kept and deleted, how much there is, copies, and
whether it is whole."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ._sql_growth import Retaining
from ._sqlite_backup import Stopped, back_up
from ._sqlite_check import check
from .port import Backup

T = TypeVar("T")
HISTORY_BUSY_S = 30.0


class Growth(Retaining):
    backups = True
    path: Path
    _busy_s: float

    if TYPE_CHECKING:

        async def _read(self, function: Callable[[sqlite3.Cursor], T]) -> T: ...

    async def check(self) -> list[str]:
        """Read all of the file; what is damaged, in words."""
        return await self._read(check)

    def history(self) -> AbstractContextManager[Any]:
        from ._sqlite_scratch import held

        return held(self.path, HISTORY_BUSY_S)

    async def backup(
        self, target: Path, *, force: bool = False, progress: Callable[[str, float], None] | None = None
    ) -> Backup:
        stop = threading.Event()
        copying = asyncio.create_task(
            asyncio.to_thread(
                back_up, self.path, target, busy_s=self._busy_s, force=force, progress=progress, stop=stop
            )
        )
        try:
            return await asyncio.shield(copying)
        except asyncio.CancelledError:
            stop.set()  # too late once the copy has been given its name: then there is a backup, and this says so
            with suppress(Stopped):
                return await copying
            raise
