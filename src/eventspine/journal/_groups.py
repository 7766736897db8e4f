"""What waits for a writer, and running a group of units: all in one transaction; and in halves, when that fails as a whole, until the culprit stands alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import JournalError, OutcomeUnknown
from ._sql_apply import Applied, TransactionGone
from ._sql_jobs import Given, Job, Units, weigh
from ._sqlite_guard import as_unit_failed
from .port import Unit, Verdict

UNITS_MAX = 2_000
BYTES_MAX = 4 * 1024 * 1024


@dataclass
class Figures:
    """What health, doctor and the benchmarks look at."""

    commits: int = 0
    units: int = 0
    reruns: int = 0
    lock_wait_s_max: float = 0.0
    unknown: int = 0
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=10))


def run(
    units: Sequence[Unit], once: Callable[[Sequence[Unit]], Applied], figures: Figures, *, rerun: bool = True
) -> Applied:
    """`once` runs them in one transaction. Raised by it: JournalError is everybody's, whatever else some unit's."""
    if not units:
        return Applied([], False)
    try:
        return once(units)
    except JournalError as error:
        figures.errors.append(str(error))
        return Applied([Verdict("failed", error=error) for _ in units], False)
    except OutcomeUnknown as error:
        figures.unknown += len(units)
        return Applied([Verdict("unknown", error=error) for _ in units], True)
    except Exception as error:  # noqa: BLE001 -- a unit is to blame, and it becomes its verdict
        if len(units) == 1:
            return Applied([Verdict("failed", error=as_unit_failed(cause(error)))], False)
        if not rerun:
            return Applied([Verdict("done") for _ in units], False)
        figures.reruns += 1
        slow = _slow_one(units, error)
        half = len(units) // 2 if slow is None else slow
        blamed = [] if slow is None else [Verdict("failed", error=as_unit_failed(cause(error)))]
        left = run(units[:half], once, figures)
        right = run(units[half + len(blamed) :], once, figures)
        return Applied(left.verdicts + blamed + right.verdicts, left.rings or right.rings)


def _slow_one(units: Sequence[Unit], error: Exception) -> int | None:
    """Which unit's statements were ended for taking too long."""
    slow = error.slow if isinstance(error, TransactionGone) else None
    return next((n for n, unit in enumerate(units) if slow is not None and unit.statements is slow), None)


def cause(error: Exception) -> Exception:
    found = error.__cause__
    return found if isinstance(error, TransactionGone) and isinstance(found, Exception) else error


class Queue:
    """Jobs that wait for the writer's thread; put in by any other."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._lock = threading.Lock()
        self._bell = threading.Lock()  # let go once for each time that somebody waits
        self._bell.acquire()
        self._waits = self._closing = False

    def put(self, job: Job) -> None:
        with self._lock:
            if self._closing:
                raise JournalError(
                    "The journal is closed. Open it again, or keep its spine open for as long as it is used."
                )
            self._jobs.append(job)
            self._wake()

    def close(self) -> None:
        """What waits is still taken; nothing more comes."""
        with self._lock:
            self._closing = True
            self._wake()

    def _wake(self) -> None:
        if self._waits:
            self._waits = False
            self._bell.release()

    def wait(self) -> bool:
        """Until there is something; False when nothing will come any more. For one thread."""
        while True:
            with self._lock:
                if self._jobs or self._closing:
                    return bool(self._jobs)
                self._waits = True
            self._bell.acquire()

    def take(self) -> list[Job]:
        """Units up to the bounds of one transaction, or else the first job."""
        jobs: list[Job] = []
        units = weight = 0
        with self._lock:
            while self._jobs:
                job = self._jobs[0]
                if isinstance(job, Units):
                    units, weight = units + len(job.units), weight + job.weight
                if jobs and (not isinstance(job, Units) or units > UNITS_MAX or weight > BYTES_MAX):
                    break
                jobs.append(self._jobs.popleft())
                if not isinstance(job, Units):
                    break
        return jobs

    def take_all(self) -> list[Job]:
        with self._lock:
            jobs = list(self._jobs)
            self._jobs.clear()
        return jobs


def answers_of(jobs: Sequence[Units], verdicts: Sequence[Verdict]) -> list[Given]:
    """Each job's part of them."""
    answers: list[Given] = []
    start = 0
    for job in jobs:
        end = start + len(job.units)
        answers.append((job.answer, verdicts[start:end], None))
        start = end
    return answers


def portions(units: Sequence[Unit]) -> list[tuple[Sequence[Unit], int]]:
    """Units in portions that fit one transaction."""
    weight = weigh(units)
    if len(units) <= UNITS_MAX and weight <= BYTES_MAX:
        return [(units, weight)] if units else []
    half = len(units) // 2
    return [(units, weight)] if not half else [*portions(units[:half]), *portions(units[half:])]
