"""Applying a group of units inside one transaction: each is judged in turn, then all that was accepted is written.

Judging only reads, but for a handler's statements, which can't see our tables and so may run before they are written;
each unit with statements runs them in a savepoint, so that its failure undoes nothing of another's (R5). A cursor is
written once, after the last verdict, from the ranges of the units that were accepted (R3).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Conflict, JournalVersion, SpineError, UnitFailed
from . import _sql_refusals as refusals, notes
from ._sql_known import Known
from ._sql_plan import Plan, StreamRows
from ._sql_repeated import first_result, version_of
from ._sqlite_guard import Guard, as_unit_failed, run_statement
from ._sqlite_outcome import Trace
from .asking import refuse_appends, refuse_weight
from .port import Record, Statement, Unit, Verdict

if TYPE_CHECKING:
    from ._sqlite_memory import Memory

SCHEMA_VERSION = 2
WRITER_MIN = 1  # the oldest schema whose releases may write to a file that this one makes
STATEMENTS_S = 5.0  # for all statements of one unit: everybody waits while they run
VERSION = (
    "/*spine*/ select value, recorded_us, position from spine_meta left join"
    " (select position, recorded_us from spine_events order by position desc limit 1) as last on true where name = 'writer_min'"
)
CHECK_EVERY = 10_000  # steps of SQLite's machine between two looks at the clock


class TransactionGone(Exception):
    """A statement ended the transaction: nothing of the group is stored, whatever was said of it so far (R5).

    `slow`: the statements of the unit that is to blame, since they were ended for taking too long. Others in the group
    are not tried one by one for its sake."""

    def __init__(self, slow: Sequence[Statement] | None = None) -> None:
        super().__init__()
        self.slow = slow


@dataclass(slots=True)
class Safeguards:
    """Each can be switched off by a test that shows what it is good for, and by nobody else."""

    savepoints: bool = True
    rerun: bool = True  # by the writer: a group that fails as a whole runs again in parts
    fences: bool = True
    fold_after_verdicts: bool = True
    statements_limit: bool = True  # a unit's SQL is ended when it takes too long
    needs: bool = True  # a stream is not cut while somebody needs what would go
    own_lock: bool = True  # a wait for a lock that this process holds itself is refused at once (R21)


@dataclass(slots=True)
class Applied:
    verdicts: list[Verdict]
    rings: bool  # other processes may have more to read
    trace: Trace | None = None  # tells whether the commit happened, should COMMIT not say
    first: int = 0  # the position of the first of `inserted`, if all that it has to append is new
    inserted: Sequence[tuple[Any, ...]] = ()


class Applier:
    plans: type[Plan] = Plan

    def __init__(
        self,
        connection: sqlite3.Connection,
        guard: Guard,
        safeguards: Safeguards,
        *,
        statements_s: float = STATEMENTS_S,
        memory: Memory | None = None,
    ) -> None:
        """`memory`: of the last group on this connection, if its transactions are all by whoever gives it."""
        self._connection = connection
        self._statements_s = statements_s
        self._guard = guard
        self._cursor = connection.cursor()
        self._cursor.row_factory = None
        self._safeguards = safeguards
        self._memory = memory
        self._beside = False

    def close(self) -> None:
        self._cursor.close()

    def apply(self, units: Sequence[Unit], now_us: int, *, beside: bool = False, trusting: bool = False) -> Applied:
        """`beside`: the transaction has done more for the one unit than the unit says, so that it must not be applied
        again even if it only finishes ranges. `trusting`: raises Repeated where it was wrong to be (see _sql_known)."""
        self._beside = beside
        known, recorded_us, head = self._read(units, now_us, trusting=trusting)
        plan = self.plans(now_us, head)
        verdicts = [self._judge(unit, known, plan, recorded_us) for unit in units]
        trace = plan.write(self._cursor, known)
        if self._memory is not None:
            self._memory.wrote(known, plan, recorded_us)
        return Applied(verdicts, plan.public or plan.timers, trace, plan.first, plan.records)

    def _read(self, units: Sequence[Unit], now_us: int, *, trusting: bool) -> tuple[Known, int, int]:
        """And the time to record events with, and where the feed ends."""
        recorded_us, head = self._check_version(now_us)
        return Known(self._cursor, units, self._memory, trusting=trusting), recorded_us, head

    def _check_version(self, now_us: int) -> tuple[int, int]:
        memory = self._memory
        if memory is None:
            return check_version(self._cursor, now_us)
        if not memory.holds(self._cursor):
            memory.recorded_us, memory.head = check_version(self._cursor, 0)
        return max(now_us, memory.recorded_us), memory.head

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(self, unit: Unit, known: Known, plan: Plan, recorded_us: int) -> Verdict:
        if not self._safeguards.fold_after_verdicts:
            _accept_ranges(unit, known)
        if self._safeguards.fences and (unit.fences or unit.done) and (fenced := refusals.fenced(unit, known)):
            return Verdict("fenced", error=fenced)
        if (unit.done or unit.marks) and (self._beside or refusals.does_more(unit)):
            if refusals.is_repetition(unit, known):
                return self._repeat(unit, known, plan)
            if fenced := refusals.finished_in_part(unit, known):
                return Verdict("fenced", error=fenced)
        if unit.puts and refusals.is_dropped(unit, known):
            return self._repeat(unit, known, plan)
        if unit.changes and (fenced := refusals.changed_meanwhile(unit, known)):
            return Verdict("fenced", error=fenced)
        if known.ids and unit.appends and refusals.is_published(unit, known):
            return first_result(self._cursor, unit, known, plan)
        if (unit.appends or unit.timers or unit.notes) and (heavy := refuse_weight(unit)):
            return Verdict("failed", error=heavy)
        streams = bool(unit.appends) and any(append.stream is not None for append in unit.appends)
        if streams and (unfit := refuse_appends(unit.appends)):
            return Verdict("failed", error=unfit)
        if streams and (conflict := refusals.conflict(unit.appends, known)):
            return Verdict("conflict", error=conflict)
        if unit.notes and (refused := notes.refuse(unit.notes, known.note_version)):
            return Verdict("conflict" if isinstance(refused, Conflict) else "failed", error=refused)
        if unit.statements and (error := self._run(unit.statements)):
            return Verdict("failed", error=error)
        return self._accept(unit, known, plan, recorded_us, streams)

    def _repeat(self, unit: Unit, known: Known, plan: Plan) -> Verdict:
        """What it did is done; what its owner has passed, and that it runs no more, is still news."""
        _accept_ranges(unit, known)
        for mark in unit.starts:
            if not mark.times:
                plan.start(mark)
        return first_result(self._cursor, unit, known, plan)

    def _run(self, statements: Sequence[Statement]) -> SpineError | None:
        if not self._safeguards.savepoints:
            return self._run_all(statements)
        self._cursor.execute("/*spine*/ savepoint spine_unit")
        error = self._run_in_time(statements)
        if error:
            self._cursor.execute("/*spine*/ rollback to spine_unit")
        self._cursor.execute("/*spine*/ release spine_unit")
        return error

    def _run_in_time(self, statements: Sequence[Statement]) -> SpineError | None:
        """What shares its transaction has the limit of that one, if any."""
        if self._beside or not self._safeguards.statements_limit:
            return self._run_all(statements)
        deadline = time.monotonic() + self._statements_s
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, CHECK_EVERY)
        try:
            return self._run_all(statements)
        finally:
            self._connection.set_progress_handler(None, 0)

    def _run_all(self, statements: Sequence[Statement]) -> SpineError | None:
        sql = ""
        try:
            for statement in statements:
                sql = statement.sql
                run_statement(self._guard, statement)
        except Exception as error:
            slow = not self._beside and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
            told = too_slow(sql, self._statements_s) if slow else error
            if not self._connection.in_transaction:  # SQLite itself ends that of a write that is interrupted
                raise TransactionGone(statements if slow else None) from told
            if is_journal_trouble(error):
                raise
            return as_unit_failed(told, sql)
        return None

    # --- accepting --------------------------------------------------------------------------------------------------

    def _accept(self, unit: Unit, known: Known, plan: Plan, recorded_us: int, streams: bool) -> Verdict:
        verdict = Verdict("done")
        if streams:
            plan.append(verdict, unit, self._accept_streams(unit, known, plan, verdict), recorded_us)
        elif unit.appends:
            plan.append(verdict, unit, None, recorded_us)
        known.appended(unit)
        if (unit.done or unit.marks) and self._safeguards.fold_after_verdicts:
            _accept_ranges(unit, known)
        for put in unit.puts:
            plan.put(put, verdict)
            known.put((put.subscription, put.feed, put.partition, put.record.position), put.state)
        for change in unit.changes:
            plan.change(change)
            if change.state:
                known.states[change.number] = change.state
        for mark in unit.starts:
            plan.start(mark)
        for id in unit.cancels:
            plan.cancel(id, verdict)
        for timer in unit.timers:
            plan.timer(timer)
        for note in unit.notes:
            plan.note(note, known.noted(note))
        return verdict

    def _accept_streams(self, unit: Unit, known: Known, plan: Plan, verdict: Verdict) -> list[Record]:
        """The unit's records that are not in the feed yet; those of streams get their versions."""
        inserted: list[Record] = []
        for append in unit.appends:
            if append.stream is None:
                inserted += append.records
                continue
            stream = (append.service, append.stream)
            head, new = known.head(stream), refusals.not_yet_in(append, known)
            at = len(plan.records) + len(inserted)
            if new:
                ids = [record[1] for record in new]
                plan.stream_rows.append(StreamRows(head.number, head.version + 1, ids, at))
                head.version += len(new)
                known.ids.update(dict.fromkeys(ids))
                plan.touched.add(stream)
            inserted += new
            verdict.versions.append(
                head.version if new or not append.records else version_of(self._cursor, append, known, plan)
            )
        return inserted


def check_version(cursor: sqlite3.Cursor, now_us: int) -> tuple[int, int]:
    """Refuse to write a file that newer releases have closed to this one (R9). Gives the time to record events with,
    which never goes back, so that positions can be found by time; and where the feed ends."""
    return checked(cursor.execute(VERSION).fetchone(), now_us)


def checked(row: tuple[Any, ...], now_us: int) -> tuple[int, int]:
    """The row of VERSION, as `check_version` gives it."""
    writer_min, last_us, head = row
    if int(writer_min or 0) > SCHEMA_VERSION:
        raise JournalVersion(
            f"This journal was migrated to schema {writer_min} by a newer release; this one writes schema {SCHEMA_VERSION}. "
            "Upgrade eventspine in this process, then start it again.",
            writer_min=int(writer_min),
            schema=SCHEMA_VERSION,
        )
    return max(now_us, last_us or 0), head or 0


def too_slow(sql: str, limit_s: float) -> UnitFailed:
    short = " ".join(sql.split())[:120]
    return UnitFailed(
        f"The SQL of this delivery took longer than {limit_s:g} s, and nobody can write meanwhile; it was ended, in: "
        f"{short}. Nothing of this unit was stored. Give the statement an index, or fewer rows at a time.",
        sql=short,
        limit_s=limit_s,
    )


def is_journal_trouble(error: BaseException) -> bool:
    """Whether the journal, and no statement, is to blame."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _TROUBLE


_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL,
    }
)  # fmt: skip


def _accept_ranges(unit: Unit, known: Known) -> None:
    for done in unit.done:
        known.coming((done.subscription, done.feed, done.partition)).accepted += done.ranges
    for seen in unit.marks:
        known.mark((seen.subscription, seen.origin, seen.channel, seen.slot)).accepted += seen.ranges
