"""The part of a journal in SQL that is about its size: what is kept and deleted, and how much there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..clock import Clock
from . import _sql_cutting as cutting, _sql_retention as retention
from ._sql_apply import Safeguards
from .asking import check_cut
from .port import ChannelSize, Deleted, Fence, Keep, StreamCut, Sweep
from .retention import said

T = TypeVar("T")


class Retaining:
    _clock: Clock
    _safeguards: Safeguards
    _locking = ""  # in a query: what keeps others from changing the row that it reads
    _indexed = False  # whether what sweeping needs has been seen to be there

    if TYPE_CHECKING:

        async def _call(self, function: Callable[[Any], tuple[T, bool]]) -> T: ...
        async def _read(self, function: Callable[[Any], T]) -> T: ...

    async def keep(self, service: str, channels: Mapping[str, int | None], now_us: int) -> None:
        if said(await self.keeps(), service, channels, now_us) is not None:
            await self._call(lambda cursor: retention.keep(cursor, service, channels, now_us))

    async def keeps(self) -> list[Keep]:
        return await self._read(retention.keeps)

    async def sweep(self, channel: str, *, after: int, upto: int, limit: int, fence: Fence | None = None) -> Sweep:
        now_us = await self._ready_to_delete()
        found = await self._read(lambda cursor: retention.find(cursor, channel, after, upto, limit))
        if not found.positions:
            return Sweep(0, found.scanned, found.more)
        sweep = await self._call(lambda cursor: retention.sweep(cursor, channel, found, limit, fence, now_us))
        self._forget_recent()
        return sweep

    async def _ready_to_delete(self) -> int:
        now_us = self._clock.now_us()
        if not self._indexed:
            await self._call(lambda cursor: retention.prepare(cursor, now_us))
            self._indexed = True
        return now_us

    async def cut(self, service: str, stream: str, *, before: int, expected: int | None = None) -> StreamCut:
        check_cut(service, stream, before, expected)
        now_us = self._clock.now_us()
        done = await self._call(
            lambda cursor: cutting.cut(
                cursor, service, stream, before, expected,
                now_us=now_us, safeguards=self._safeguards, locking=self._locking,
            )
        )  # fmt: skip
        self._forget_recent()
        return done

    async def cut_off(self) -> list[Deleted]:
        return await self._read(cutting.cut_off)

    def _forget_recent(self) -> None:
        """What was kept of the feed outside of the store may be deleted by now."""

    async def deleted(self) -> list[Deleted]:
        return await self._read(retention.deleted)

    async def channel_sizes(self) -> list[ChannelSize]:
        return await self._read(retention.channel_sizes)
