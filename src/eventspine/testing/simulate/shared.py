"""What all processes of a history share: the memory journal, and beside it a database for the services' own tables. Each
unit's SQL runs in the database when the journal takes the unit, and not at all when it doesn't.

A handler's own transaction holds both, as it would hold the write lock of a file: everybody else waits until it commits,
rolls back, takes too long, or its process dies."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ...clock import Clock
from ...errors import SettingsError, UnitFailed
from ...journal._memory_units import commit_unit, rings
from ...journal.memory import MemoryJournal
from ...journal.port import Control, Statement, Unit, Verdict
from .loop import others_turn
from .unmarked import Effect, Unmarked

if TYPE_CHECKING:
    from .process import Process

MARK = "/* an effect */"
FAILING = "/* fails */"
LOOK_S = 0.01  # between two looks at whether a transaction is over


class Tables:
    """The services' own tables, in a database of this history's alone; and the marks of units that committed."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.unmarked = Unmarked(self.effects)
        self.wrong: list[str] = []  # what was seen to be wrong with a commit
        self._connection: sqlite3.Connection | None = None
        self._ran: set[tuple[str, str]] = set()

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def run(self, statements: Sequence[Statement]) -> Exception | None:
        """All of a unit's statements, or none."""
        marks = [Effect(**statement.parameters) for statement in statements if statement.sql == MARK]
        if len(marks) < len(statements):
            try:
                self._run([statement for statement in statements if statement.sql != MARK])
            except (sqlite3.Error, UnitFailed) as error:
                return error if isinstance(error, UnitFailed) else UnitFailed(str(error))
        self.effects += marks
        return None

    def _run(self, statements: Sequence[Statement]) -> None:
        cursor = self.connection.cursor()
        cursor.execute("savepoint unit")
        try:
            for statement in statements:
                self.execute(statement)
        except BaseException:
            cursor.execute("rollback to unit")
            raise
        finally:
            cursor.execute("release unit")

    def execute(self, statement: Statement) -> int:
        if statement.sql == FAILING:
            raise UnitFailed("The simulator has this unit fail.")
        count = self.connection.execute(statement.sql, _plain(statement.parameters)).rowcount
        if statement.expect_rows not in (None, count):
            raise UnitFailed(f"{count} rows instead of {statement.expect_rows}: {statement.sql}")
        return count

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        cursor = self.connection.execute(sql, _plain(parameters))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def make(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        if (service, version) in self._ran:
            return False
        self._ran.add((service, version))
        self.connection.executescript(script) if isinstance(script, str) else script(self.connection)
        return True


class SharedJournal(MemoryJournal):
    """The one journal of a history, with tables; each process has its own way to it."""

    sql, dialect = True, "sqlite"

    def __init__(self, clock: Clock, business: Tables) -> None:
        super().__init__(clock)
        self.business = business
        self.held: Held | None = None
        self.refused: str | None = None  # what was asked of it that no history can do
        self.commits = 0  # and whatever else may finish something
        self._tables.run_statements = business.run

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        if self.held is not None:
            await self._free()
        return self._commit(units)

    def _commit(self, units: Sequence[Unit]) -> list[Verdict]:
        self.commits += 1
        verdicts = super()._commit(units)
        self._look(units, verdicts)
        return verdicts

    def _look(self, units: Sequence[Unit], verdicts: Sequence[Verdict]) -> None:
        self.business.wrong += self.business.unmarked.look(self._tables, units, verdicts)

    async def fire(self, now_us: int, limit: int) -> int:
        self.commits += 1
        return await super().fire(now_us, limit)

    async def control(self, operations: Sequence[Control]) -> int:
        self.commits += 1
        return await super().control(operations)

    async def begin_for(self, process: Process, limit_s: float) -> Held:
        await self._free()
        self.held = Held(self, process)
        self.held.limit(limit_s)
        return self.held

    async def _free(self) -> None:
        while self.held is not None:  # noqa: ASYNC110 -- who holds it may be killed, and would tell nobody
            await asyncio.sleep(LOOK_S)

    def dies(self, process: Process) -> None:
        """What a dead process holds is rolled back."""
        if self.held is not None and self.held.process is process:
            self.held.end("died with its process")

    def write_within(self, connection: Any, unit: Unit) -> NoReturn:
        self.refused = (
            "This can't be simulated: a simulated history has no database that within= or delivery.join() could write on. Simulate "
            "handlers that use delivery.execute(), delivery.publish() or delivery.transaction(); the others' promises are kept by the "
            "journal that your transaction is on, and testing.spine(..., url=...) tests them."
        )
        raise SettingsError(self.refused)

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        await self._free()
        return self.business.query(sql, parameters)

    async def run_tables(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        await self._free()
        return self.business.make(service, version, script)

    def _ring(self) -> None:
        """At once, and in nobody's turn: who commits may be killed before its own loop turns."""
        for _, changed in list(self._watchers.values()):
            changed()

    def finish(self, unit: Unit) -> Verdict:
        self.commits += 1
        verdict = commit_unit(self._live(), unit, self.clock.now_us())
        self._look([unit], [verdict])
        if verdict.kind == "done" and rings(unit):
            self._ring()
        return verdict


class Held:
    """A handler's own transaction, the port's `Transaction`."""

    def __init__(self, journal: SharedJournal, process: Process) -> None:
        self.process = process
        self._journal = journal
        self._over = ""
        journal.business.connection.execute("savepoint held")

    def limit(self, limit_s: float) -> None:
        why = f"held the journal for longer than {limit_s:g} s"
        asyncio.get_running_loop().call_later(limit_s, self.end, why)

    async def execute(self, sql: str, parameters: Mapping[str, Any], expect_rows: int | None = None) -> int:
        await self._turn()
        try:
            return self._journal.business.execute(Statement(sql, parameters, expect_rows))
        except sqlite3.Error as error:
            raise UnitFailed(str(error)) from error

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        await self._turn()
        return self._journal.business.query(sql, parameters)

    async def commit(self, unit: Unit) -> Verdict:
        await self._turn()
        verdict = self._journal.finish(unit)
        world = self.process.world
        world.committed(self.process, unit, verdict)
        self.end("has been committed", keep=verdict.kind == "done")
        if world.falls(self.process.name, "lost_answers", world.faults.lost_answers) is not None:
            return Verdict("unknown")
        return verdict

    async def rollback(self) -> None:
        self.end("has been left")

    async def _turn(self) -> None:
        await others_turn()
        if self._over:
            raise UnitFailed(f"This transaction {self._over}, and was rolled back.")

    def end(self, why: str, *, keep: bool = False) -> None:
        if self._over:
            return
        self._over = why
        if not keep:
            self._journal.business.connection.execute("rollback to held")
        self._journal.business.connection.execute("release held")
        self._journal.held = None


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    from ...journal._sqlite_guard import bind

    return dict(bind(parameters))
