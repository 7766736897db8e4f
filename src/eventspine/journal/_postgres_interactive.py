"""A transaction that a handler holds open, to read its own writes (R4): on a connection of its own, so that others commit
meanwhile. It holds the rows that it wrote, and nothing of the journal's until its unit is committed.

Past its limit it is rolled back by a timer; should this whole process be stopped, by the server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psycopg

from ..clock import Clock
from ..errors import JournalError, OutcomeUnknown, UnitFailed
from ._postgres_apply import PostgresApplier
from ._postgres_connect import is_lost, trouble
from ._postgres_known import Raced
from ._postgres_lineage import Connecting
from ._postgres_session import Again, Session, take_token
from ._postgres_sql import Guard, bind, check_query
from ._sql_apply import Safeguards
from ._sqlite_guard import as_unit_failed, run_statement
from .port import Statement, Unit, Verdict

T = TypeVar("T")


class Transactions:
    """As many at once as the URL allows; the next waits for its turn, which is no time of its own."""

    def __init__(
        self,
        connecting: Connecting,
        clock: Clock,
        safeguards: Safeguards,
        *,
        busy_s: float,
        rang: Callable[[bool], None],
    ) -> None:
        self.connecting, self.clock, self.safeguards = connecting, clock, safeguards
        self.target, self.identity = connecting.target, connecting.identity
        self.busy_s, self.rang = busy_s, rang
        self._idle: list[Session] = []
        self._free = threading.Semaphore(self.target.transactions)
        self._lock = threading.Lock()
        self._closed = False
        # Who waits for its turn waits at the door, so that there is a thread for each whose turn it is.
        self._door = ThreadPoolExecutor(1, thread_name_prefix=f"spine door {self.target.name}")
        self.threads = ThreadPoolExecutor(
            self.target.transactions, thread_name_prefix=f"spine transaction {self.target.name}"
        )

    async def begin(self, limit_s: float) -> PostgresTransaction:
        loop = asyncio.get_running_loop()
        begun = loop.run_in_executor(self._door, self._begin, limit_s)
        try:
            return PostgresTransaction(await asyncio.shield(begun), self.threads)
        except asyncio.CancelledError:
            begun.add_done_callback(_leave)
            raise

    def _begin(self, limit_s: float) -> Held:
        deadline = time.monotonic() + self.busy_s
        while not self._free.acquire(timeout=0.1):
            if time.monotonic() < deadline and not self._closed:
                continue
            raise JournalError(
                f"All {self.target.transactions} transactions of handlers have been in use for {self.busy_s:g} s. Keep them "
                "short, or allow more: ?transactions=8 in the journal's URL."
            )
        try:
            with self._lock:
                session = self._idle.pop() if self._idle else Session(self.connecting)
            while True:
                try:
                    xid = session.begin(deadline, limit_s=limit_s, token=False)
                    return Held(self, session, xid, limit_s)
                except JournalError:
                    session.disconnect()
                    raise
                except psycopg.Error as error:
                    session.roll_back(error)
                    if not is_lost(error) or time.monotonic() > deadline:
                        raise trouble(error, self.target) or error from error
        except BaseException:
            self._free.release()
            raise

    def give_back(self, session: Session) -> None:
        with self._lock:
            if self._closed:
                session.disconnect()
            else:
                self._idle.append(session)
        self._free.release()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        self._door.shutdown(wait=True)
        self.threads.shutdown(wait=True)
        for session in idle:
            session.disconnect()


def _leave(begun: asyncio.Future[Held]) -> None:
    """Nobody will use it: whoever began it was cancelled."""
    if not begun.cancelled() and begun.exception() is None:
        threading.Thread(target=begun.result().end, args=("has been left",), daemon=True).start()


class Held:
    def __init__(self, owner: Transactions, session: Session, xid: str, limit_s: float) -> None:
        self._owner, self._session, self._xid, self._limit_s = owner, session, xid, limit_s
        self._lock = threading.Lock()  # while something runs on the connection
        self._over = ""
        self._timer = threading.Timer(limit_s, self._expire)
        self._timer.daemon = True
        self._timer.start()

    @property
    def over(self) -> bool:
        return bool(self._over)

    def execute(self, statement: Statement) -> int:
        return self._run(lambda guard: run_statement(guard, statement), statement.sql)

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        def ask(guard: Any) -> list[dict[str, Any]]:
            check_query(sql)
            _, rows, columns = guard.run(sql, bind(parameters))
            return [dict(zip(columns, row, strict=True)) for row in rows]

        return self._run(ask, sql)

    def _run(self, function: Callable[[Any], T], sql: str) -> T:
        """In a savepoint: a handler may catch what a statement raises, and go on."""
        with self._lock:
            self._refuse_if_over()
            connection = self._session.connection
            assert connection is not None
            try:
                connection.execute("savepoint spine_step")
                value = function(Guard(connection))
                connection.execute("release spine_step")
            except Exception as error:
                self._after(error, connection)
                raise (trouble(error, self._session.target) or as_unit_failed(error, sql)) from error
            return value

    def _after(self, error: Exception, connection: psycopg.Connection[Any]) -> None:
        if self._over:
            raise self._gone() from error
        if is_lost(error):
            self._finish("was ended by the server", error)
            return
        try:
            connection.execute("rollback to spine_step; release spine_step")
        except psycopg.Error as lost:
            self._finish("was ended by the server", lost)

    def commit(self, unit: Unit) -> Verdict:
        with self._lock:
            self._refuse_if_over()
            verdict, error = self._commit(unit)
            self._finish("has been committed" if verdict.ok else f"was refused ({verdict.kind})", error)
            return verdict

    def _commit(self, unit: Unit) -> tuple[Verdict, Exception | None]:
        owner, session = self._owner, self._session
        try:
            assert session.connection is not None
            session.connection.execute(take_token(owner.identity))
            applier = PostgresApplier(session.connection, owner.identity, owner.safeguards)
            applied = applier.apply([unit], owner.clock.now_us(), beside=True)
            verdict = applied.verdicts[0]
            if verdict.kind != "done":
                return verdict, verdict.error or UnitFailed("repeated")
            deadline = time.monotonic() + owner.busy_s
            session.commit(self._xid, deadline, rings=applied.rings, trace=applied.trace)
            owner.rang(applied.rings)
        except OutcomeUnknown as error:
            return Verdict("unknown", error=error), error
        except Exception as error:  # noqa: BLE001 -- it becomes the verdict
            passing = isinstance(error, (Again, Raced))
            told = (
                JournalError("The journal was busy, or lost its connection. Nothing of this was stored.")
                if passing
                else None
            )
            told = told or trouble(error, session.target)
            return Verdict("failed", error=told or as_unit_failed(error)), error
        return verdict, None

    def end(self, why: str) -> None:
        with self._lock:
            if not self._over:
                self._finish(why, UnitFailed(why))

    def _expire(self) -> None:
        connection = self._session.connection
        if not self._lock.acquire(blocking=False):  # a statement is at work
            self._over = self._over or self._too_long
            if connection is not None and not connection.closed:
                connection.cancel()
            self._lock.acquire()
            self._finish(self._too_long, UnitFailed(self._too_long))
        elif not self._over:
            self._finish(self._too_long, UnitFailed(self._too_long))
        self._lock.release()

    @property
    def _too_long(self) -> str:
        return f"held its rows for longer than {self._limit_s:g} s"

    def _finish(self, why: str, error: Exception | None) -> None:
        """Once; with the lock held."""
        self._timer.cancel()
        self._over = self._over or why
        if self._owner is not None:
            owner, self._owner = self._owner, None  # type: ignore[assignment]
            if error is not None:
                self._session.roll_back(error)
            owner.give_back(self._session)

    def _refuse_if_over(self) -> None:
        if self._over:
            raise self._gone()

    def _gone(self) -> UnitFailed:
        return UnitFailed(
            f"This transaction {self._over}, and was rolled back. Nothing of it was stored; keep transactions short, and "
            "do slow work before they begin."
        )


class PostgresTransaction:
    """The port's Transaction, for one event loop."""

    def __init__(self, held: Held, threads: ThreadPoolExecutor) -> None:
        self._held, self._threads = held, threads

    async def execute(self, sql: str, parameters: Mapping[str, Any], expect_rows: int | None = None) -> int:
        return await self._ask(self._held.execute, Statement(sql, parameters, expect_rows))

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await self._ask(self._held.query, sql, parameters)

    async def commit(self, unit: Unit) -> Verdict:
        return await self._ask(self._held.commit, unit)

    async def rollback(self) -> None:
        if not self._held.over:
            await self._ask(self._held.end, "has been left")

    async def _ask(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
