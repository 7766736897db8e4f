"""The part of a journal in SQL that only reads: the same functions on every store, with a cursor of the store's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from . import _sql_read as read, _sql_registry as registry
from .asking import check_names, check_number
from .cursors import Range
from .port import Cursor, Delivery, Lease, Noted, Process, Record, State, StreamHead, Subscription, Timer

T = TypeVar("T")


class Reading:
    if TYPE_CHECKING:

        async def _read(self, function: Callable[[Any], T]) -> T: ...
        async def _few(self, count: int, function: Callable[[Any], T]) -> T: ...

    async def position_at(self, time_us: int) -> int:
        return await self._read(lambda cursor: read.position_at(cursor, time_us))

    async def stream(
        self, service: str, stream: str, *, after: int = 0, limit: int = 1000, folded: bool = False
    ) -> list[Record]:
        check_names(service, stream)
        check_number("after", after)
        check_number("limit", limit)
        some = read.folded if folded else read.stream
        return await self._few(limit, lambda cursor: some(cursor, service, stream, after, limit))

    async def streams(self, service: str | None, after: tuple[str, str], limit: int) -> list[StreamHead]:
        check_names(service, *after)
        check_number("limit", limit)
        return await self._read(lambda cursor: read.streams(cursor, service, after, limit))

    async def stream_version(self, service: str, stream: str) -> int:
        check_names(service, stream)
        return await self._few(1, lambda cursor: read.stream_version(cursor, service, stream))

    async def event(self, id: bytes) -> Record | None:
        return await self._read(lambda cursor: read.event(cursor, id))

    async def correlated(self, correlation: str, limit: int = 10_000) -> list[Record]:
        return await self._read(lambda cursor: read.correlated(cursor, correlation, limit))

    async def subscriptions(self, service: str | None = None) -> list[Subscription]:
        return await self._read(lambda cursor: read.subscriptions(cursor, service))

    async def cursors(self, subscriptions: Sequence[int]) -> list[Cursor]:
        return await self._read(lambda cursor: read.cursors(cursor, subscriptions))

    async def deliveries(
        self,
        *,
        subscriptions: Sequence[int] | None = None,
        states: Sequence[State] | None = None,
        partitions: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        events: Sequence[bytes] | None = None,
        after: int = 0,
        limit: int = 1000,
        records: bool = True,
    ) -> list[Delivery]:
        return await self._read(
            lambda cursor: read.deliveries(
                cursor,
                subscriptions=subscriptions,
                states=states,
                partitions=partitions,
                numbers=numbers,
                events=events,
                after=after,
                limit=limit,
                records=records,
            )
        )

    async def starts(self, subscription: int) -> dict[tuple[int, int], tuple[int, int]]:
        return await self._read(lambda cursor: read.starts(cursor, subscription))

    async def marks(self, subscription: int, origin: str, channel: str) -> dict[int, tuple[int, Sequence[Range]]]:
        return await self._read(lambda cursor: read.marks(cursor, subscription, origin, channel))

    async def notes(
        self, service: str, kind: str, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1000
    ) -> list[Noted]:
        count = limit if keys is None else len(keys)
        return await self._few(count, lambda cursor: read.notes(cursor, service, kind, keys, after, limit))

    async def control_version(self) -> int:
        return await self._read(read.control)

    async def next_due(self) -> int | None:
        return await self._read(read.next_due)

    async def timers(self, limit: int = 1000) -> list[Timer]:
        return await self._read(lambda cursor: read.timers(cursor, limit))

    async def processes(self) -> list[Process]:
        return await self._read(read.processes)

    async def leases(self) -> list[Lease]:
        return await self._read(read.leases)

    async def declarations(self, service: str) -> list[tuple[int, str]]:
        return await self._read(lambda cursor: registry.declarations(cursor, service))
