"""`within=` an aiosqlite connection: the unit is written in the thread where that connection lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..within import AsyncCarrier, roll_back

T = TypeVar("T")


class OfAiosqlite(AsyncCarrier):
    kind = "aiosqlite connection"
    begin_first = 'Here: await connection.execute("BEGIN IMMEDIATE").'

    async def write_async(self, work: Callable[[Any], T]) -> T:
        return await in_its_thread(self.within, work)

    async def roll_back_async(self) -> None:
        await in_its_thread(self.within, roll_back)


async def in_its_thread(connection: Any, work: Callable[[Any], T]) -> T:
    """Nothing in aiosqlite's public interface runs a function on the connection, so this is the one its own methods use."""
    done: T = await connection._execute(lambda: work(connection._conn))
    return done
