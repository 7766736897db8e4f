"""A connection that is used by awaiting, with the face of one that blocks: `within=` writes a unit with the same code on either.

The code runs in a thread of its own; each statement is handed to the event loop where the connection lives, and its result
is waited for. psycopg's own AsyncConnection takes statements as they are. asyncpg asks the server for the type of every
parameter and then takes nothing else, so its statements have their values written into them, as psycopg's client-side
cursors do it."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

T = TypeVar("T")
_MARK = re.compile(r"%(?:%|(?:\((?P<name>\w+)\))?[sbt])")


async def write_beside(connection: Any, work: Callable[[Any], T]) -> T:
    """Have `work` write on it. It is finished when this returns, also when whoever waits is cancelled: the connection would
    be used by two."""
    loop = asyncio.get_running_loop()
    kind = type(connection).__module__.partition(".")[0]
    bridge = _Asyncpg(connection, loop) if kind == "asyncpg" else _Psycopg(connection, loop)
    working = asyncio.ensure_future(asyncio.to_thread(work, bridge))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


class Bridge(ABC):
    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.raw, self._loop = connection, loop

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether what is written now waits for a commit of the caller's."""

    @abstractmethod
    def cursor(self) -> Any: ...

    @property
    @abstractmethod
    def closed(self) -> bool: ...


class _Psycopg(Bridge):
    def in_transaction(self) -> bool:
        return not self.raw.autocommit or self.raw.info.transaction_status != TransactionStatus.IDLE

    def cursor(self) -> _PsycopgCursor:
        return _PsycopgCursor(self)

    @property
    def closed(self) -> bool:
        return bool(self.raw.closed)


class _PsycopgCursor:
    def __init__(self, bridge: _Psycopg) -> None:
        self._wait = bridge.wait
        self._cursor: Any = psycopg.AsyncCursor(bridge.raw, row_factory=tuple_row)

    def execute(self, query: str, parameters: Any = None, *, binary: bool = False) -> _PsycopgCursor:
        self._wait(self._cursor.execute(query, parameters, binary=binary))
        return self

    def executemany(self, query: str, rows: Iterable[Any]) -> None:
        self._wait(self._cursor.executemany(query, rows))

    def fetchone(self) -> Any:
        return self._wait(self._cursor.fetchone())

    def fetchall(self) -> list[Any]:
        rows: list[Any] = self._wait(self._cursor.fetchall())
        return rows

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        count: int = self._cursor.rowcount
        return count

    def close(self) -> None:
        self._wait(self._cursor.close())


class _Asyncpg(Bridge):
    def in_transaction(self) -> bool:
        return bool(self.raw.is_in_transaction())

    def cursor(self) -> _AsyncpgCursor:
        return _AsyncpgCursor(self)

    @property
    def closed(self) -> bool:
        return bool(self.raw.is_closed())


class _Column:
    def __init__(self, name: str) -> None:
        self.name = name


class _AsyncpgCursor:
    def __init__(self, bridge: _Asyncpg) -> None:
        self._bridge = bridge
        self._rows: list[Any] = []
        self.description: list[_Column] | None = None
        self.rowcount = -1

    def execute(self, query: str, parameters: Any = None, *, binary: bool = False) -> _AsyncpgCursor:
        self._bridge.wait(self._execute(filled(query, parameters)))
        return self

    async def _execute(self, query: str) -> None:
        if ";" in query and query.startswith("rollback"):
            await self._bridge.raw.execute(query)
            return
        statement = await self._bridge.raw.prepare(query)  # past the cache of statements, which is the caller's
        self._rows = [tuple(row) for row in await statement.fetch()]
        self.description = [_Column(column.name) for column in statement.get_attributes()] or None
        counted = statement.get_statusmsg().rpartition(" ")[2]
        self.rowcount = int(counted) if counted.isdecimal() else -1

    def executemany(self, query: str, rows: Iterable[Any]) -> None:
        count = 0
        for row in rows:
            self.execute(query, row)
            count += max(0, self.rowcount)
        self.rowcount = count

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        self._rows = []


def filled(query: str, parameters: Mapping[str, Any] | Sequence[Any] | None) -> str:
    """The statement with its values in it."""
    if parameters is None:
        return query
    values = iter(() if isinstance(parameters, Mapping) else parameters)

    def put(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        value = parameters[match["name"]] if isinstance(parameters, Mapping) else next(values)
        return literal(value)

    return _MARK.sub(put, query)


def literal(value: Any) -> str:
    """psycopg's own have two things that need a connection to be right: bytes, and lists of them."""
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    if isinstance(value, list):
        return f"array[{', '.join(map(literal, value))}]" if value else "'{}'"
    return sql.Literal(value).as_string(None)
