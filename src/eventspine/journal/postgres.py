"""The journal in a PostgreSQL database, for all processes of all hosts that reach it.

A commit that was acknowledged is as durable as PostgreSQL makes it (`synchronous_commit`), never less than on its disk.
Writes go through one thread and connection per process with group commit (_postgres_writer), beside those of other processes:
row locks keep units apart (_postgres_known), and the appender token keeps the feed without a gap (_postgres_feed). Reads have
connections of their own and are of the primary; others learn of new events by a notification, or by looking (_postgres_lookout).
Whoever forks gets a journal that connects anew in the child.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from ..clock import Clock, SystemClock
from ..errors import JournalError, SettingsError
from . import Url, _postgres_calls as calls, _postgres_describe as describe, _postgres_feed as feed
from ._postgres_connect import begin, connect, entering, opening, reading, target_of
from ._postgres_interactive import PostgresTransaction, Transactions
from ._postgres_lineage import Connecting, note
from ._postgres_lookout import Lookout
from ._postgres_readers import Readers
from ._postgres_schema import Identity, identity, prepare, schema_of
from ._postgres_sql import Cursor
from ._postgres_tables import dialect
from ._postgres_within import write_within
from ._postgres_writer import Writer
from ._records import Wanted
from ._sql_apply import STATEMENTS_S, Safeguards
from ._sql_growth import Retaining
from ._sql_opening import Opening
from ._sql_reading import Reading
from ._sql_tables import run_tables
from ._sql_writing import Writing
from .port import (
    Backup,
    Control,
    LeaseView,
    Page,
    Process,
    Registered,
    Registration,
    Unit,
    Verdict,
)

T = TypeVar("T")
OPENING_S = 10.0  # how long it may take to find it
TABLES_S = 600.0  # how long a service's own schema may take to be made


class PostgresJournal(Opening["_Running"], Writing, Reading, Retaining):
    sql, dialect = True, "postgresql"
    backups = False

    def __init__(
        self, url: str, clock: Clock | None = None, *, busy_s: float = 30.0, statements_s: float = STATEMENTS_S
    ) -> None:
        """`busy_s`: how long to wait for a server that can't be reached, or for others' transactions; `statements_s`: how
        long a statement of a unit may take, its wait for others' rows included."""
        super().__init__()
        self.url: str = Url(url)
        self.target = target_of(url)
        self.id = ""
        self.incarnation = ""
        self.created = False  # whether open() made the tables
        self._clock = clock or SystemClock()
        self._busy_s = busy_s
        self._statements_s = statements_s
        self._safeguards = Safeguards()
        self._locking = " for update"

    def exists(self) -> bool:
        with (
            closing(connect(self.target)) as connection,
            opening(self.target),
            reading(connection, self.target),
        ):
            return describe.is_journal(connection, schema_of(connection, self.target))

    # --- writing ----------------------------------------------------------------------------------------------------

    async def begin(self, limit_s: float) -> PostgresTransaction:
        return await self._here().transactions.begin(limit_s)

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        return write_within(connection, unit, self.target, self._identity(), self._clock.now_us())

    async def fire(self, now_us: int, limit: int) -> int:
        return await self._call(
            lambda cursor: calls.fire(cursor, now_us, limit, self._clock.now_us()), alone=False, token=True
        )

    async def control(self, operations: Sequence[Control]) -> int:
        return await self._call(lambda cursor: calls.carry_out(cursor, operations, self._clock.now_us()))

    async def run_tables(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        return await self._call(
            lambda cursor: run_tables(cursor, dialect(cursor), service, version, script, self._clock.now_us()),
            limit_s=TABLES_S,
        )

    # --- who does the work ------------------------------------------------------------------------------------------

    async def register(self, registration: Registration, now_us: int) -> Registered:
        fence = self._here().fence

        def register(cursor: Cursor) -> tuple[Registered, bool]:
            fence.advance(cursor)
            return calls.register(cursor, registration, now_us, fence.decided)

        return await self._call(register)

    async def lease(
        self, process: Process, take: Sequence[str], release: Sequence[str], now_us: int, until_us: int
    ) -> LeaseView:
        return await self._call(lambda cursor: calls.lease(cursor, process, take, release, now_us, until_us))

    async def leave(self, process: Process) -> None:
        await self._call(lambda cursor: calls.leave(cursor, process, self._clock.now_us()))

    # --- reading ----------------------------------------------------------------------------------------------------

    async def head(self) -> int:
        fence = self._here().fence

        def head(cursor: Cursor) -> int:
            fence.advance(cursor)
            return fence.decided

        return await self._read(head)

    async def feed(
        self,
        after: int,
        *,
        limit: int,
        upto: int | None = None,
        channels: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        types: Sequence[str] | None = None,
        private: bool = False,
    ) -> Page:
        fence, wanted = self._here().fence, Wanted(channels, partitions, types, private)
        return await self._read(lambda cursor: feed.page(fence, cursor, after, limit, upto, wanted))

    async def describe(self) -> dict[str, str | int | None]:
        fence, now_us = self._here().fence, self._clock.now_us()
        return await self._read(lambda cursor: describe.describe(cursor, self.target, fence, now_us))

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await asyncio.wrap_future(self._here().readers.submit_query(sql, parameters))

    def query_blocking(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """For callers in threads, on their own thread."""
        return self._here().readers.query(sql, parameters)

    def history(self) -> AbstractContextManager[Any]:
        """Its past as of one moment; see _sqlite_scratch."""
        from ._postgres_history import held

        return held(self.target, self._identity())

    async def backup(
        self, target: Path, *, force: bool = False, progress: Callable[[str, float], None] | None = None
    ) -> Backup:
        raise SettingsError(
            f"A journal in PostgreSQL is backed up with the database that it is in: pg_dump --dbname=... for a copy, "
            f"continuous archiving for any moment. Its tables are in the schema {self._identity().schema}.",
        )

    # --- waking up, and what health looks at --------------------------------------------------------------------------

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return self._here().lookout.watch(changed)

    def lock_holder(self) -> tuple[int, int] | None:
        """Nobody has all of a database; who holds up the feed is in `describe`."""
        return None

    def waiting_since(self) -> float | None:
        return None

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _call(
        self,
        function: Callable[[Cursor], tuple[T, bool]],
        *,
        alone: bool = True,
        token: bool = False,
        limit_s: float = calls.LIMIT_S,
    ) -> T:
        submitted = self._here().calls.submit(function, alone=alone, token=token, limit_s=limit_s)
        return await asyncio.wrap_future(submitted)

    async def _read(self, function: Callable[[Cursor], T]) -> T:
        return await asyncio.wrap_future(self._here().readers.submit(function))

    async def _few(self, count: int, function: Callable[[Cursor], T]) -> T:
        return await self._read(function)

    def _identity(self) -> Identity:
        return self._here().identity

    def _start(self) -> _Running:
        with closing(connect(self.target)) as connection, opening(self.target):
            schema, known = self._found(connection)
            if known is None:
                self.created = prepare(connection, self.target, schema, self._clock.now_us()) or self.created
                schema, known = self._found(connection)
            note(connection, self.target, schema)
        if known is None:
            raise JournalError(f"The tables in {schema} of {self.target.name} were removed as soon as they were made.")
        self.id, self.incarnation = known.id, known.incarnation
        return _Running(self, known)

    def _found(self, connection: psycopg.Connection[Any]) -> tuple[str, Identity | None]:
        with entering(self.target):  # with a limit of our own: whatever a role has, the journal is found
            connection.execute(begin(self.target, None, limit_s=OPENING_S, read_only=True))
            schema = schema_of(connection, self.target)
            found = schema, identity(connection, schema)
            connection.execute("commit")
        return found


class _Running:
    """What an open journal has running in one process. Connections are made when they are first used."""

    def __init__(self, journal: PostgresJournal, identity: Identity) -> None:
        target, clock, busy_s = journal.target, journal._clock, journal._busy_s
        self.pid = os.getpid()
        self.identity = identity
        self.fence = feed.Fence(identity)
        self.connecting = Connecting(target, identity, lambda: self.fence.decided)
        self.writer = Writer(
            self.connecting,
            clock,
            busy_s=busy_s,
            rang=self._rang,
            safeguards=journal._safeguards,
            statements_s=journal._statements_s,
        )
        self.calls = calls.Calls(self.connecting, busy_s=busy_s, rang=self._rang)
        self.transactions = Transactions(self.connecting, clock, journal._safeguards, busy_s=busy_s, rang=self._rang)
        self.readers = Readers(self.connecting)
        self.lookout = Lookout(self.connecting, self.fence)

    def _rang(self, rings: bool) -> None:
        if rings:
            self.lookout.tell()

    def close(self, limit_s: float) -> None:
        patience = threading.Timer(limit_s, self.connecting.give_up)
        patience.start()
        try:
            self.writer.close(limit_s)
            self.calls.close()
            self.transactions.close()
            self.lookout.close()
            self.readers.close()
        finally:
            patience.cancel()
