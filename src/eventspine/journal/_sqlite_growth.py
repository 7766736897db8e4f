"""The part of the SQLite journal that is about its size and state: what is kept and deleted, how much there is, copies, and
whether it is whole."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..clock import Clock
from . import _sqlite_retention as retention
from ._sqlite_backup import Stopped, back_up
from ._sqlite_check import check
from .port import Backup, ChannelSize, Deleted, Fence, Keep, Sweep
from .retention import said

T = TypeVar("T")


class Growth:
    backups = True
    path: Path
    _clock: Clock
    _busy_s: float
    _indexed = False  # whether what sweeping needs has been seen to be there

    if TYPE_CHECKING:

        async def _call(self, function: Callable[[sqlite3.Cursor], tuple[T, bool]]) -> T: ...
        async def _read(self, function: Callable[[sqlite3.Cursor], T]) -> T: ...
        def _forget_recent(self) -> None: ...

    async def keep(self, service: str, channels: Mapping[str, int | None], now_us: int) -> None:
        if said(await self.keeps(), service, channels, now_us) is not None:
            await self._call(lambda cursor: retention.keep(cursor, service, channels, now_us))

    async def keeps(self) -> list[Keep]:
        return await self._read(retention.keeps)

    async def sweep(self, channel: str, *, after: int, upto: int, limit: int, fence: Fence | None = None) -> Sweep:
        now_us = self._clock.now_us()
        if not self._indexed:
            await self._call(lambda cursor: retention.prepare(cursor, now_us))
            self._indexed = True
        found = await self._read(lambda cursor: retention.find(cursor, channel, after, upto, limit))
        if not found.positions:
            return Sweep(0, found.scanned, found.more)
        sweep = await self._call(lambda cursor: retention.sweep(cursor, channel, found, limit, fence, now_us))
        self._forget_recent()
        return sweep

    async def deleted(self) -> list[Deleted]:
        return await self._read(retention.deleted)

    async def channel_sizes(self) -> list[ChannelSize]:
        return await self._read(retention.channel_sizes)

    async def check(self) -> list[str]:
        """Read all of the file; what is damaged, in words."""
        return await self._read(check)

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
