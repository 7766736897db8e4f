"""The writer: one thread and one connection per open journal that commit units, for everybody in this process.

As on SQLite, units wait in a queue while a commit is on its way, and the next takes all that have come meanwhile; but other
processes commit at the same time. What they hold is waited for row by row (see _postgres_known); what is in the way all the
same, a deadlock or a race for one event, goes away by trying again. What becomes of a lost connection: _postgres_session.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from ..clock import Clock
from ..errors import JournalBusy, JournalError
from ._groups import BYTES_MAX, UNITS_MAX, Figures, run
from ._postgres_apply import PostgresApplier
from ._postgres_connect import Target, is_lost, is_passing, is_slow, trouble
from ._postgres_known import Raced
from ._postgres_schema import Identity
from ._postgres_session import Again, Session
from ._sqlite_apply import STATEMENTS_S, Applied, Safeguards
from ._sqlite_jobs import Given, Units, deliver
from .port import Unit

TRIES = 8  # of a group that others got in the way of


class Writer:
    def __init__(
        self,
        target: Target,
        identity: Identity,
        clock: Clock,
        *,
        busy_s: float,
        rang: Callable[[bool], None],
        safeguards: Safeguards,
        statements_s: float = STATEMENTS_S,
    ) -> None:
        self.session, self.clock = Session(target, identity), clock
        self.busy_s, self.statements_s = busy_s, statements_s
        self.figures = Figures()
        self._rang = rang  # called after a commit; True: others may have more to read
        self._safeguards = safeguards
        self._applier: PostgresApplier | None = None
        self._queue: deque[Units] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"spine writer {target.name}", daemon=True)
        self._thread.start()

    # --- from any thread --------------------------------------------------------------------------------------------

    def submit(self, job: Units) -> None:
        with self._changed:
            if self._closing:
                raise JournalError(
                    "The journal is closed. Open it again, or keep its spine open for as long as it is used."
                )
            self._queue.append(job)
            self._changed.notify()

    def close(self, limit_s: float) -> None:
        """Finish what waits, then end."""
        with self._changed:
            self._closing = self.session.ended = True
            self._changed.notify()
        self._thread.join(limit_s)

    # --- on the writer's thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait():
                self._serve(self._take())
        finally:
            self.session.disconnect()

    def _wait(self) -> bool:
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            return bool(self._queue)

    def _take(self) -> list[Units]:
        jobs: list[Units] = []
        units = weight = 0
        with self._changed:
            while self._queue:
                job = self._queue[0]
                units, weight = units + len(job.units), weight + job.weight
                if jobs and (units > UNITS_MAX or weight > BYTES_MAX):
                    break
                jobs.append(self._queue.popleft())
        return jobs

    def _serve(self, jobs: Sequence[Units]) -> None:
        try:
            applied = run(
                [unit for job in jobs for unit in job.units], self._once, self.figures, rerun=self._safeguards.rerun
            )
        except Exception as error:  # noqa: BLE001 -- the writer must live on, and nobody may wait for ever
            self.figures.errors.append(repr(error))
            for job in jobs:
                job.refuse(JournalError(f"The journal's writer failed: {type(error).__name__}: {error}."))
            return
        self.figures.units += len(applied.verdicts)
        answers: list[Given] = []
        start = 0
        for job in jobs:
            answers.append((job.answer, applied.verdicts[start : start + len(job.units)], None))
            start += len(job.units)
        try:
            self._rang(applied.rings)
        except Exception as error:  # noqa: BLE001 -- watchers are told again sooner or later
            self.figures.errors.append(repr(error))
        deliver(answers)

    # --- one transaction --------------------------------------------------------------------------------------------

    def _once(self, units: Sequence[Unit]) -> Applied:
        deadline = time.monotonic() + self.busy_s
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(units, deadline)
            except (Again, Raced, psycopg.Error) as error:
                self.session.roll_back(error)
                if not self._may_try_again(error, tries, deadline):
                    raise self._explained(error) from error
                time.sleep(random.uniform(0, 0.005) * tries)
            except BaseException as error:
                self.session.roll_back(error)
                raise

    def _may_try_again(self, error: Exception, tries: int, deadline: float) -> bool:
        if time.monotonic() > deadline:
            return False
        if isinstance(error, Again) or is_lost(error):
            return True
        return tries < TRIES and (isinstance(error, Raced) or is_passing(error))

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, (Again, Raced)) or is_slow(error):
            return JournalBusy(
                f"{self.session.target.name}: others' transactions were in the way for too long "
                f"({str(error) or type(error).__name__}). Nothing of this was stored."
            )
        return trouble(error, self.session.target) or error

    def _try(self, units: Sequence[Unit], deadline: float) -> Applied:
        xid = self.session.begin(deadline, limit_s=self.statements_s)
        applied = self._applier_on(self.session.connection).apply(units, self.clock.now_us())
        self.session.commit(xid, deadline, rings=applied.rings, trace=applied.trace)
        self.figures.commits += 1
        return applied

    def _applier_on(self, connection: Any) -> PostgresApplier:
        if self._applier is None or self._applier._connection is not connection:
            identity = self.session.identity
            self._applier = PostgresApplier(connection, identity, self._safeguards, statements_s=self.statements_s)
        return self._applier
