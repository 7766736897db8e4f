"""`within=` and `delivery.join` with connections to PostgreSQL that are used by awaiting: psycopg's AsyncConnection, asyncpg's
Connection, one of its pool included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..within import AsyncCarrier

T = TypeVar("T")


class OfPostgres(AsyncCarrier):
    kind = "PostgreSQL connection"

    async def write_async(self, work: Callable[[Any], T]) -> T:
        return await _beside(self.within, work)


class OfPooled(AsyncCarrier):
    """What asyncpg's pool hands out stands before the connection."""

    kind = "connection of asyncpg's pool"

    async def write_async(self, work: Callable[[Any], T]) -> T:
        return await _beside(self.within._con, work)


async def _beside(connection: Any, work: Callable[[Any], T]) -> T:
    from ..journal._postgres_bridge import write_beside

    return await write_beside(connection, work)
