"""The writer: one thread per open journal that writes to the file, for everybody in this process.

Units wait in a queue while a commit is on its way; the next commit takes all that have come meanwhile (within bounds),
so that many units share one transaction and one fsync, without any waiting on purpose. Each unit has a verdict of its
own (see _sql_apply). When a group fails as a whole, because a statement ended the transaction or COMMIT itself was
refused, nothing of it was stored, and it runs again in halves until the culprit stands alone (R5).

        queue ──► turn lock ──► BEGIN IMMEDIATE ──► judge, write ──► COMMIT ──► verdicts, one call per event loop
                                     │                                 │ I/O error: outcome unknown
                                     └── failed as a whole: halves     └── reopen, look for what was written

What waits in the queue is taken only after the turn lock is held: it can still be refused, as JournalBusy, when the
lock doesn't come within the limit, or when this process itself keeps others from giving it back (R21).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..errors import JournalError, OutcomeUnknown
from . import _sqlite_file as file
from ._groups import Figures, Queue, answers_of, cause, run
from ._sql_apply import STATEMENTS_S, Applied, Applier, Safeguards
from ._sql_jobs import Call, Given, Job, Units, deliver
from ._sql_plan import Repeated
from ._sqlite_guard import Guard, as_unit_failed
from ._sqlite_locks import Watch, WriteLock, write_lock_holder
from ._sqlite_log import Log
from ._sqlite_memory import Memory
from ._sqlite_outcome import was_committed
from ._sqlite_recent import Recent
from .forks import inside_sqlite
from .lockfile import Turn, TurnLock, read_holder
from .port import Unit, Verdict


class Writer:
    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        busy_s: float,
        rang: Callable[[bool], None],
        safeguards: Safeguards,
        statements_s: float = STATEMENTS_S,
    ) -> None:
        self.path, self.clock, self.busy_s = path, clock, busy_s
        self._name = str(path)
        self._statements_s = statements_s
        self.figures = Figures()
        self._rang = rang  # called after a commit; True: others may have more to read
        self._safeguards = safeguards
        self._queue = Queue()
        self.submit = self._queue.put
        self.turn = TurnLock(Path(f"{path}-lock"))
        self._lock = WriteLock(path, self.turn, busy_s, safeguards)
        self._watch = Watch(path)
        self.recent = Recent(clock)
        self.commit_statement: Callable[[sqlite3.Connection], Any] = _commit  # a seam for faults at COMMIT
        self._opened: tuple[int, int] | None = None  # which file it was: every commit goes into that one or is refused
        self.log = Log(path)
        self._connected = False  # the first transaction connects, so that even making the file has its turn
        self._thread = threading.Thread(target=self._work, name=f"spine writer {path.name}", daemon=True)
        self._thread.start()

    # --- from any thread --------------------------------------------------------------------------------------------

    def refuse_waiting(self, limit_s: float) -> None:
        """Refuse what waits when another process has held the turn for longer than the limit (R6), or at once when that
        process can't give it back, since it waits for a transaction of a caller in this one (R21)."""
        since, now = self.turn.waiting_since, time.monotonic()
        if since is None:
            return
        turn = self.turn_elsewhere()
        pid = write_lock_holder(self.path) if turn else None
        own = self._safeguards.own_lock and self._watch.kept_by_ourselves(pid, since, now)
        if now - since < limit_s and not own:
            return
        for job in self._queue.take_all():
            job.refuse(file.busy(self.path, turn, pid))

    @property
    def waiting_since(self) -> float | None:
        return self.turn.waiting_since or self._lock.waiting_since

    def holder(self) -> tuple[int, int] | None:
        """Who holds the write lock, and since when: whoever has its turn, unless that one waits for it too."""
        turn = read_holder(Path(f"{self.path}-lock"))
        if self._lock.holder or turn is None:
            return self._lock.holder
        pid = write_lock_holder(self.path) if turn.waits else turn.pid
        return (pid, turn.since_us) if pid else None

    def holder_in_words(self) -> str:
        holder = self.holder()
        return f"process {holder[0]}, since {file.utc(holder[1])}" if holder else "by whom can't be told"

    def close(self, limit_s: float) -> bool:
        """Finish what waits, then end; False when another process held the turn for too long."""
        self._queue.close()
        deadline = time.monotonic() + limit_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.25)
            self.refuse_waiting(limit_s)
        return not self._thread.is_alive()

    # --- on the writer's thread -------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self.connection = file.connect(self.path, busy_s=self.busy_s)
        self.guard = Guard(self.connection)
        self._memory = Memory()
        self.applier = Applier(
            self.connection, self.guard, self._safeguards, statements_s=self._statements_s, memory=self._memory
        )
        self.cursor = self.connection.cursor()
        self._lock.set_up(self.connection)
        self._opened = self._opened or file.identity(self.path)
        self._connected = True

    def _disconnect(self) -> None:
        if self._connected:
            self._connected = False
            self.log.closed()
            self.applier.close()
            self.cursor.close()
            self.connection.close()

    def _work(self) -> None:
        try:
            while self._queue.wait():
                self._serve()
        finally:
            with inside_sqlite():
                self._disconnect()
            self.turn.close()

    def _serve(self) -> None:
        """One turn: what fits into one transaction, or one call, or one conversation."""
        jobs: list[Job] = []
        try:
            self.figures.lock_wait_s_max = max(self.figures.lock_wait_s_max, self.turn.take())
            try:
                jobs = self._queue.take()
                with inside_sqlite():
                    answers, rings = self._do(jobs)
                    self._look_after_log()
            finally:
                self.turn.give_back()
        except Exception as error:  # noqa: BLE001 -- the writer must live on, and nobody may wait for ever
            self.figures.errors.append(repr(error))
            for job in jobs or self._queue.take():
                job.refuse(_unexpected(error))
            return
        try:
            self._rang(rings)  # before the answers: another process needs the longer time to wake up
        except Exception as error:  # noqa: BLE001 -- a bell is only a hint
            self.figures.errors.append(repr(error))
        deliver(answers)

    def _do(self, jobs: list[Job]) -> tuple[list[Given], bool]:
        if not jobs:
            return [], False
        first = jobs[0]
        if not isinstance(first, Units):
            answers, rings = self._call(first) if isinstance(first, Call) else ([], first.hold(self))
            self.recent.others_wrote()  # it may have: what it has inserted is not known here
            return answers, rings
        batch = [job for job in jobs if isinstance(job, Units)]
        applied = self._run([unit for job in batch for unit in job.units])
        self.figures.units += len(applied.verdicts)
        return answers_of(batch, applied.verdicts), applied.rings

    def _call(self, job: Call) -> tuple[list[Given], bool]:
        try:
            self.begin()
            value, rings = job.function(self.cursor)
            self.commit_statement(self.connection)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, it is the answer
            self.rollback()
            if file.is_io_error(error):
                self._disconnect()
            return [(job.answer, None, file.translate(error, self.path, self.turn_elsewhere()) or error)], False
        return [(job.answer, value, None)], rings

    # --- units ------------------------------------------------------------------------------------------------------

    def _run(self, units: Sequence[Unit]) -> Applied:
        return run(units, self._once, self.figures, rerun=self._safeguards.rerun)

    def finish(self, units: Sequence[Unit]) -> Applied:
        """Apply units in the transaction that is open, and commit it if all are well."""
        try:
            applied = self.applier.apply(units, self.clock.now_us(), beside=True)
            if not all(verdict.kind == "done" for verdict in applied.verdicts):
                self.rollback()
                return applied
            self.commit_statement(self.connection)
        except Exception as error:  # noqa: BLE001 -- it becomes the verdict
            self.rollback()
            trouble = file.translate(error, self.path) or as_unit_failed(cause(error))
            return Applied([Verdict("failed", error=trouble) for _ in units], False)
        self.figures.commits += 1
        return applied

    def _once(self, units: Sequence[Unit]) -> Applied:
        others = self.recent.others
        try:
            applied = self._apply(units)
        except BaseException as error:
            self.rollback()
            if file.is_io_error(error):
                self._disconnect()
            trouble = file.translate(error, self.path, self.turn_elsewhere())
            if trouble:
                raise trouble from error
            raise
        try:
            self.commit_statement(self.connection)
        except sqlite3.Error as error:
            self.recent.others_wrote()
            return self._after_failed_commit(applied, error)
        self._memory.committed()
        self.figures.commits += 1
        if applied.first:
            self.recent.add(applied.first, applied.inserted, others)
        elif applied.rings:
            self.recent.others_wrote()
        return applied

    def _apply(self, units: Sequence[Unit]) -> Applied:
        self.begin()
        try:
            return self.applier.apply(units, self.clock.now_us(), trusting=True)
        except Repeated:
            self.rollback()
            self.begin()
            return self.applier.apply(units, self.clock.now_us())

    def _after_failed_commit(self, applied: Applied, error: sqlite3.Error) -> Applied:
        if not file.is_io_error(error):
            self.rollback()
            if trouble := file.translate(error, self.path):
                raise trouble from error
            raise error
        self._disconnect()
        happened = self._was_committed(applied)
        if happened is None:
            raise OutcomeUnknown(
                f"The disk failed while committing ({error}), and nothing in {self.path} tells whether it happened. "
                "Ask again with the same ids."
            ) from error
        if not happened:
            if trouble := file.translate(error, self.path):
                raise trouble from error
            raise error
        return applied

    def _was_committed(self, applied: Applied) -> bool | None:
        try:
            self._connect()
            return was_committed(self.cursor, applied.trace)
        except (sqlite3.Error, JournalError):
            self._disconnect()
            return None

    # --- for calls and conversations --------------------------------------------------------------------------------

    def begin(self) -> None:
        if self._opened is not None and file.identity(self._name) != self._opened:
            raise file.vanished(self.path)
        if not self._connected:
            self._connect()
        self.log.check()
        self._lock.take(self.connection)
        self._memory.begun()

    def rollback(self) -> None:
        try:
            if self._connected and self.connection.in_transaction:
                self.connection.execute("/*spine*/ rollback")
        except sqlite3.Error:
            self._disconnect()  # the next transaction connects anew

    def turn_elsewhere(self) -> Turn | None:
        turn = read_holder(Path(f"{self.path}-lock"))
        return turn if turn and turn.pid != os.getpid() else None

    def _look_after_log(self) -> None:
        if self._connected and self.log.look_after(self.connection):
            self._lock.set_up(self.connection)


def _commit(connection: sqlite3.Connection) -> None:
    connection.execute("/*spine*/ commit")


def _unexpected(error: Exception) -> JournalError:
    if isinstance(error, JournalError):
        return error
    failed = JournalError(
        f"The journal's writer failed: {type(error).__name__}: {error}. Whether it was stored is not known."
    )
    failed.__cause__ = error
    return failed
