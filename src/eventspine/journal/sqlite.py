"""The journal in one SQLite file, for all processes of one host.

A commit that was acknowledged survives the kill of any process and the loss of power (`synchronous=FULL`); it does not
survive the loss of the disk. Writes go through one thread per process with group commit (_sqlite_writer), processes
take turns (lockfile), reads have connections of their own and never wait for a writer, and other processes learn of
new events by a doorbell (doorbell). Whoever forks gets a journal that opens itself anew in the child.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..clock import Clock, SystemClock
from ..errors import JournalBusy
from . import (
    _sql_control as control,
    _sql_read as read,
    _sql_registry as registry,
    _sqlite_describe as describe,
    _sqlite_feed as feed,
    _sqlite_file as file,
    migrations,
)
from ._records import Wanted, filter_of
from ._sql_apply import STATEMENTS_S, Safeguards
from ._sql_jobs import Call, LoopAnswer, ThreadAnswer
from ._sql_opening import Opening
from ._sql_reading import Reading
from ._sql_tables import run_tables
from ._sql_writing import Writing
from ._sqlite_growth import Growth
from ._sqlite_interactive import Held, SQLiteTransaction
from ._sqlite_readers import Readers
from ._sqlite_tables import dialect
from ._sqlite_within import write_within
from ._sqlite_writer import Writer
from .doorbell import Bells, Lookout
from .port import (
    Control,
    LeaseView,
    Page,
    Process,
    Registered,
    Registration,
    Unit,
    Verdict,
)

log = logging.getLogger("eventspine.journal")
T = TypeVar("T")

INLINE = 500  # records or notes that are read on the loop itself: sooner done than handed to a thread and back


class SQLiteJournal(Opening["_Running"], Writing, Reading, Growth):
    sql, dialect = True, "sqlite"

    def __init__(
        self, url: str, clock: Clock | None = None, *, busy_s: float = 30.0, statements_s: float = STATEMENTS_S
    ) -> None:
        """`busy_s`: how long to wait for another program's transaction; `statements_s`: how long one delivery's SQL may
        take, during which nobody else can write."""
        super().__init__()
        self.url = url
        self.path: Path = file.path_of(url)
        self.id = ""
        self.incarnation = ""
        self.created = False  # whether open() made the tables
        self._clock = clock or SystemClock()
        self._busy_s = busy_s
        self._statements_s = statements_s
        self._safeguards = Safeguards()
        self._preparing: _Running | None = None  # while the tables are made

    def exists(self) -> bool:
        return describe.is_journal(self.path, self._busy_s)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def begin(self, limit_s: float) -> SQLiteTransaction:
        answer = LoopAnswer(asyncio.get_running_loop())
        held = Held(answer, limit_s)
        self._here().writer.submit(held)
        try:
            await answer.future
        except asyncio.CancelledError:
            held.abandon()
            raise
        return SQLiteTransaction(held)

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        return write_within(connection, unit, self.path, self._clock.now_us())

    async def fire(self, now_us: int, limit: int) -> int:
        return await self._call(lambda cursor: registry.fire(cursor, now_us, limit, self._clock.now_us()))

    async def control(self, operations: Sequence[Control]) -> int:
        return await self._call(lambda cursor: control.carry_out(cursor, operations, self._clock.now_us()))

    async def run_tables(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        writer = self._here().writer
        return await self._call(
            lambda cursor: run_tables(cursor, dialect(writer.guard), service, version, script, self._clock.now_us())
        )

    # --- who does the work ------------------------------------------------------------------------------------------

    async def register(self, registration: Registration, now_us: int) -> Registered:
        return await self._call(lambda cursor: registry.register(cursor, registration, now_us))

    async def lease(
        self, process: Process, take: Sequence[str], release: Sequence[str], now_us: int, until_us: int
    ) -> LeaseView:
        return await self._call(lambda cursor: registry.lease(cursor, process, take, release, now_us, until_us))

    async def leave(self, process: Process) -> None:
        await self._call(lambda cursor: registry.leave(cursor, process, self._clock.now_us()))

    # --- reading ----------------------------------------------------------------------------------------------------

    async def head(self) -> int:
        return await self._read(read.head)

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
        recent, wanted = self._here().writer.recent, Wanted(channels, partitions, types, private)
        if recent.reaches(after) and (page := recent.page(after, limit, upto, filter_of(wanted))) is not None:
            return page
        return await self._few(limit, lambda cursor: feed.page(cursor, after, limit, upto, wanted))

    async def describe(self) -> dict[str, str | int | None]:
        turn, now_us = Path(f"{self.path}-lock"), self._clock.now_us()
        return await self._read(lambda cursor: describe.describe(cursor, self.path, turn, now_us))

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        readers = self._here().readers
        rows = readers.query_quickly(sql, parameters)
        return rows if rows is not None else await asyncio.wrap_future(readers.submit_query(sql, parameters))

    def query_blocking(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """For callers in threads, on their own thread."""
        return self._here().readers.query(sql, parameters)

    # --- waking up, and what health looks at --------------------------------------------------------------------------

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        return self._here().lookout.watch(changed)

    def lock_holder(self) -> tuple[int, int] | None:
        """Who holds the write lock: (pid, since when in microseconds UTC)."""
        return (self._preparing or self._here()).writer.holder()

    def waiting_since(self) -> float | None:
        """Since when (monotonic seconds) this process has waited for its turn or for the write lock, while it does; also to
        make the tables."""
        running = self._preparing or (self._here() if self._opened else None)
        return running.writer.waiting_since if running is not None else None

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _call(self, function: Callable[[sqlite3.Cursor], tuple[T, bool]]) -> T:
        answer = LoopAnswer(asyncio.get_running_loop())
        self._here().writer.submit(Call(function, answer))
        value: T = await answer.future
        return value

    def _forget_recent(self) -> None:
        self._here().writer.recent.forget()

    async def _few(self, count: int, function: Callable[[sqlite3.Cursor], T]) -> T:
        return self._here().readers.read(function) if count <= INLINE else await self._read(function)

    async def _read(self, function: Callable[[sqlite3.Cursor], T]) -> T:
        return await asyncio.wrap_future(self._here().readers.submit(function))

    def _forked(self, running: _Running) -> None:
        running.writer.turn.close()  # else a turn of the parent's would outlive it here

    def _start(self) -> _Running:
        file.check_path(self.path)
        known = describe.identity_if_current(self.path, self._busy_s)
        running = _Running(self.path, self._clock, self._busy_s, self._statements_s, self._safeguards)
        try:
            if known is None:
                self._preparing = running
                self._prepare(running)
            else:
                self.id, self.incarnation = known
        except BaseException:
            running.close(self._busy_s)
            raise
        finally:
            self._preparing = None
        return running

    def _prepare(self, running: _Running) -> None:
        """Make the tables or bring them up to date. Only this needs the write lock, so that a journal can be opened and
        looked at while somebody holds it (R6)."""
        empty = self.path.exists() and not file.size(self.path)
        answer = ThreadAnswer()
        running.writer.submit(
            Call(lambda cursor: (migrations.prepare(cursor.connection, self._clock.now_us()), False), answer)
        )
        try:
            made = answer.future.result()
        except migrations.Foreign as error:
            raise file.corrupt(self.path, error) from error
        self.created = made or self.created
        if empty and made:  # else another process has just begun to make it, and was seen at that
            log.warning(
                "%s was empty; a new journal was made in it. If it had held one, stop, and restore a backup.", self.path
            )
        answer = ThreadAnswer()
        running.writer.submit(Call(lambda cursor: (migrations.identity(cursor.connection), False), answer))
        self.id, self.incarnation = answer.future.result()


class _Running:
    """What an open journal has running in one process."""

    def __init__(self, path: Path, clock: Clock, busy_s: float, statements_s: float, safeguards: Safeguards) -> None:
        self.pid = os.getpid()
        self.bells = Bells(path)
        self.writer = Writer(
            path, clock, busy_s=busy_s, rang=self._rang, safeguards=safeguards, statements_s=statements_s
        )
        self.readers = Readers(path, busy_s=busy_s)
        self.lookout = Lookout(
            path,
            self.bells,
            busy_s=busy_s,
            look=lambda: self.writer.refuse_waiting(busy_s),
            others_wrote=self.writer.recent.others_wrote,
        )

    def _rang(self, rings: bool) -> None:
        if rings:
            self.bells.ring()
            self.lookout.tell()

    def close(self, limit_s: float) -> None:
        ended = self.writer.close(limit_s)
        self.lookout.close()
        self.readers.close()
        self.bells.close()
        if not ended:
            raise JournalBusy(
                f"Another process has held the journal's turn for more than {limit_s:g} s while this one closed: "
                f"{self.writer.holder_in_words()}. What waited was refused; nothing acknowledged is lost."
            )
