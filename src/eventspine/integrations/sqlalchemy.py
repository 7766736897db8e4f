"""`within=` and `delivery.join` with SQLAlchemy: Session, AsyncSession, Connection, AsyncConnection.

The unit is written on the driver's connection that the session or connection has checked out, in its transaction, so it
is committed or rolled back with the caller's rows, nested transactions included. A session is flushed first: the rows
it holds back are written before the events about them, and a row that is refused refuses the events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..within import AsyncCarrier, Carrier
from .aiosqlite import in_its_thread

T = TypeVar("T")

_BEGIN_FIRST = "With SQLAlchemy: eventspine.integrations.sqlalchemy.begin_immediate(engine), once, where it is made."


class OfConnection(Carrier):
    kind = "Connection"
    begin_first = _BEGIN_FIRST

    def connection(self) -> Any:
        return _driver(self.within)


class OfSession(Carrier):
    """Also of a scoped_session, such as Flask-SQLAlchemy's `db.session`."""

    kind = "Session"
    begin_first = _BEGIN_FIRST

    def connection(self) -> Any:
        self.within.flush()
        return _driver(self.within.connection())


class OfAsyncConnection(AsyncCarrier):
    kind = "AsyncConnection"
    begin_first = _BEGIN_FIRST

    async def write_async(self, work: Callable[[Any], T]) -> T:
        return await _write_async(self.within, work)


class OfAsyncSession(AsyncCarrier):
    kind = "AsyncSession"
    begin_first = _BEGIN_FIRST

    async def write_async(self, work: Callable[[Any], T]) -> T:
        await self.within.flush()
        return await _write_async(await self.within.connection(), work)


def _driver(connection: Any) -> Any:
    """SQLAlchemy must know of the transaction, or its `commit()` would do nothing."""
    if not connection.in_transaction():
        connection.begin()
    return connection.connection.driver_connection


async def _write_async(connection: Any, work: Callable[[Any], T]) -> T:
    if not connection.in_transaction():
        await connection.begin()
    driver = (await connection.get_raw_connection()).driver_connection
    if not hasattr(driver, "_execute"):  # no aiosqlite: the journal says what it takes
        return work(driver)
    return await in_its_thread(driver, work)
