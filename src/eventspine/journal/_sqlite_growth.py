"""The part of the SQLite journal that is about its size and state: what is kept and deleted, how much there is, copies, and
whether it is whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ._sql_growth import Retaining
from ._sqlite_backup import back_up
from ._sqlite_check import check
from ._stopping import stoppable
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
        return await stoppable(partial(back_up, self.path, target, self._busy_s, force, progress))
