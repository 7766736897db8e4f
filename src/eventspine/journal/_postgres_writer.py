"""The writer: one thread and one connection per open journal that commit units, for everybody in this process.

As on SQLite, units wait in a queue while a commit is on its way, and the next takes all that have come meanwhile; but other
processes commit at the same time. What they hold is waited for row by row (see _postgres_known); what is in the way all the
same, a deadlock or a race for one event, goes away by trying again. What becomes of a lost connection: _postgres_session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..clock import Clock
from ..errors import JournalError
from ._groups import Figures, Queue, answers_of, run
from ._postgres_apply import PostgresApplier
from ._postgres_lineage import Connecting
from ._postgres_session import MARK, Session
from ._sql_apply import STATEMENTS_S, Applied, Safeguards
from ._sql_jobs import Units, deliver
from .port import Unit


class Writer:
    def __init__(
        self,
        connecting: Connecting,
        clock: Clock,
        *,
        busy_s: float,
        rang: Callable[[bool], None],
        safeguards: Safeguards,
        statements_s: float = STATEMENTS_S,
    ) -> None:
        self.session, self.clock = Session(connecting), clock
        self.busy_s, self.statements_s = busy_s, statements_s
        self.figures = Figures()
        self._rang = rang  # called after a commit; True: others may have more to read
        self._safeguards = safeguards
        self._applier: PostgresApplier | None = None
        self._queue = Queue()
        self.submit = self._queue.put
        self._thread = threading.Thread(target=self._work, name=f"spine writer {connecting.target.name}", daemon=True)
        self._thread.start()

    # --- from any thread --------------------------------------------------------------------------------------------

    def close(self, limit_s: float) -> None:
        """Finish what waits, then end."""
        self.session.ended = True
        self._queue.close()
        self._thread.join(limit_s)

    # --- on the writer's thread -------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._queue.wait():
                self._serve([job for job in self._queue.take() if isinstance(job, Units)])
        finally:
            self.session.disconnect()

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
        try:
            self._rang(applied.rings)
        except Exception as error:  # noqa: BLE001 -- watchers are told again sooner or later
            self.figures.errors.append(repr(error))
        deliver(answers_of(jobs, applied.verdicts))

    # --- one transaction --------------------------------------------------------------------------------------------

    def _once(self, units: Sequence[Unit]) -> Applied:
        return self.session.repeatedly(partial(self._try, units), self.busy_s)

    def _try(self, units: Sequence[Unit], deadline: float) -> Applied:
        xid = self.session.begin(deadline, limit_s=self.statements_s)
        applied = self._applier_on(self.session.connection).apply(units, self.clock.now_us())
        if any(verdict.kind == "repeated" for verdict in applied.verdicts):
            self.session.connected(deadline).execute(
                MARK
            )  # else COMMIT would wait for nobody, though what is repeated may be on the primary only
        self.session.commit(xid, deadline, rings=applied.rings, trace=applied.trace)
        self.figures.commits += 1
        return applied

    def _applier_on(self, connection: Any) -> PostgresApplier:
        if self._applier is None or self._applier._connection is not connection:
            identity = self.session.identity
            self._applier = PostgresApplier(connection, identity, self._safeguards, statements_s=self.statements_s)
        return self._applier
