"""`within=` and `delivery.join` with connections to PostgreSQL that are used by awaiting: psycopg's AsyncConnection, asyncpg's
Connection, one of its pool included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..within import AsyncCarrier

T = TypeVar("T")


class OfPostgres(AsyncCarrier):
    kind = "PostgreSQL connection"

    def driver(self) -> Any:
        return self.within

    async def write_async(self, work: Callable[[Any], T]) -> T:
        from ..journal._postgres_bridge import write_beside

        return await write_beside(self.driver(), work)

    async def roll_back_async(self) -> None:
        """As SQL: psycopg refuses its own inside `transaction()`, asyncpg has none but that of the transaction's object. Both
        find their blocks' own end later to be one that ends nothing."""
        await self.driver().execute("rollback")


class OfPooled(OfPostgres):
    """What asyncpg's pool hands out stands before the connection."""

    kind = "connection of asyncpg's pool"

    def driver(self) -> Any:
        return self.within._con
