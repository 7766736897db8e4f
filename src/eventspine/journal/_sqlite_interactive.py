"""A transaction that a handler holds open, to read its own writes (R4).

It is the writer's thread that holds it: everybody else waits meanwhile. What the handler asks for is sent over and
answered one by one, until it commits its unit, rolls back, or has held it for too long; then it is rolled back and
everything after fails with UnitFailed.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import JournalError, UnitFailed
from . import _sqlite_file as file
from ._sql_jobs import Answer, LoopAnswer, give
from ._sqlite_guard import as_unit_failed, bind, check_read, is_refusal, refused, run_statement
from .port import Statement, Unit, Verdict

if TYPE_CHECKING:
    from ._sqlite_writer import Writer

CHECK_EVERY = 10_000  # steps of SQLite's machine between two looks at the clock, in a long statement


class _Nobody:
    loop: asyncio.AbstractEventLoop | None = None

    def give(self, value: Any, error: BaseException | None) -> None:
        pass


class Held:
    """The job in the writer's queue, and what the handler's side talks to."""

    def __init__(self, answer: Answer, limit_s: float) -> None:
        self.answer = answer
        self.limit_s = limit_s
        self._asked: queue.SimpleQueue[tuple[Callable[[Writer], Any], Answer]] = queue.SimpleQueue()
        self._over: str = ""
        self._deadline = 0.0
        self._finished = False

    # --- the writer's side ------------------------------------------------------------------------------------------

    def refuse(self, error: Exception) -> None:
        give(self.answer, None, error)

    def hold(self, writer: Writer) -> bool:
        """Serve until it is over; whether to ring."""
        if self._over:
            return False
        try:
            writer.begin()
        except (sqlite3.Error, JournalError) as error:
            self.refuse(file.translate(error, writer.path, writer.turn_elsewhere()) or error)
            return False
        self._deadline = time.monotonic() + self.limit_s
        writer.connection.set_progress_handler(lambda: time.monotonic() > self._deadline, CHECK_EVERY)
        give(self.answer, self, None)
        try:
            self._serve(writer)
        finally:
            writer.connection.set_progress_handler(None, 0)
            writer.rollback()
        self._refuse_if_over()
        return self._finished

    def _serve(self, writer: Writer) -> None:
        while not self._over:
            try:
                function, answer = self._asked.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                self._end(f"held the journal for longer than {self.limit_s:g} s")
                return
            try:
                value = function(writer)
            except Exception as error:  # noqa: BLE001 -- it is the answer
                if time.monotonic() > self._deadline:
                    self._end(f"held the journal for longer than {self.limit_s:g} s")
                elif not writer.connection.in_transaction:
                    self._end("was ended by one of its own statements")
                give(answer, None, error)
            else:
                give(answer, value, None)

    def _end(self, why: str) -> None:
        self._over = self._over or why

    def _refuse_if_over(self) -> None:
        while self._over:
            try:
                _, answer = self._asked.get_nowait()
            except queue.Empty:
                return
            give(answer, None, self._gone())

    def _gone(self) -> UnitFailed:
        return UnitFailed(
            f"This transaction {self._over}, and was rolled back. Nothing of it was stored; keep transactions short, and "
            "do slow work before they begin."
        )

    # --- the handler's side -----------------------------------------------------------------------------------------

    def ask(self, function: Callable[[Writer], Any], answer: Answer) -> None:
        if self._over:
            raise self._gone()
        self._asked.put((function, answer))
        self._refuse_if_over()  # it may have ended just then; what came too late is refused by whoever sees it first

    def abandon(self) -> None:
        """Nobody will use it: whoever began it was cancelled."""
        self._end("has been left")
        self._asked.put((lambda _: None, _Nobody()))  # wakes the writer, should it be waiting for us

    def execute(self, statement: Statement) -> Callable[[Writer], int]:
        def run(writer: Writer) -> int:
            try:
                return run_statement(writer.guard, statement)
            except Exception as error:
                raise (file.translate(error, writer.path) or as_unit_failed(error, statement.sql)) from error

        return run

    def query(self, sql: str, parameters: Mapping[str, Any]) -> Callable[[Writer], list[dict[str, Any]]]:
        def run(writer: Writer) -> list[dict[str, Any]]:
            check_read(sql)
            try:
                _, rows, columns = writer.guard.run(sql, bind(parameters))
            except (sqlite3.Error, sqlite3.Warning) as error:
                raise (refused(sql, error) if is_refusal(error) else as_unit_failed(error, sql)) from error
            return [dict(zip(columns, row, strict=True)) for row in rows]

        return run

    def commit(self, unit: Unit) -> Callable[[Writer], Verdict]:
        def run(writer: Writer) -> Verdict:
            applied = writer.finish([unit])
            verdict = applied.verdicts[0]
            self._finished = verdict.kind == "done"
            self._end("has been committed" if verdict.ok else f"was refused ({verdict.kind})")
            return verdict

        return run

    def rollback(self) -> Callable[[Writer], None]:
        return lambda _: self._end("has been left")


class SQLiteTransaction:
    """The port's Transaction, for one event loop."""

    def __init__(self, held: Held) -> None:
        self._held = held

    async def execute(self, sql: str, parameters: Mapping[str, Any], expect_rows: int | None = None) -> int:
        count: int = await self._ask(self._held.execute(Statement(sql, parameters, expect_rows)))
        return count

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await self._ask(self._held.query(sql, parameters))
        return rows

    async def commit(self, unit: Unit) -> Verdict:
        verdict: Verdict = await self._ask(self._held.commit(unit))
        return verdict

    async def rollback(self) -> None:
        if not self._held._over:
            await self._ask(self._held.rollback())

    async def _ask(self, function: Callable[[Writer], Any]) -> Any:
        answer = LoopAnswer(asyncio.get_running_loop())
        self._held.ask(function, answer)
        return await answer.future
