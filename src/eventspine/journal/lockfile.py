"""The fairness lock: whose turn it is to write to the journal file, among processes.

SQLite's own busy handler lets processes starve one another for seconds; a blocking `flock`, on a file of its own
beside the database, serves them in turn. It is only about fairness: what keeps data whole is SQLite's own lock, so
where `flock` is missing (Windows) the turn is skipped and SQLite's busy handling remains.

The holder writes its pid and the time into the file, so that others can say whom they wait for (R6); and, should it
have to wait for SQLite's lock in its turn, that it waits: then somebody else is the one to look for. The database
file itself, its -wal and its -shm are never opened here: closing any descriptor of them would drop SQLite's locks (R7).
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import JournalBusy, JournalError
from .processes import pid_start, this_host

HAS_FLOCK = importlib.util.find_spec("fcntl") is not None  # not on Windows
if HAS_FLOCK:
    import fcntl

_BLANK = b" " * 160
_SINCE = "1700000000000000"  # as long as microseconds are written until the year 2286
_WAITS = "waits"
_as_far_as_it_can_be = suppress(
    OSError
)  # who holds the lock is told: a full disk must not keep anybody from giving it back


class Turn(NamedTuple):
    """Whose turn it is."""

    pid: int
    since_us: int  # UTC; for one that waits, since when it waits
    waits: bool = False  # for SQLite's lock, which a connection holds that takes no turns


class TurnLock:
    """Not thread-safe: one thread takes and gives it back. `holder` and `waiting_since` may be asked by any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666) if HAS_FLOCK else -1
        except OSError as error:
            raise JournalError(f"{path}, where processes take turns, can't be made: {error.strerror}.") from error
        identity = f"{os.getpid()} {pid_start(os.getpid()) or '-'} {this_host().replace(' ', '_')}"
        self._mine = f" {identity} ".encode().ljust(len(_BLANK) - len(_SINCE))
        self._waits = f" {identity} {_WAITS}".encode().ljust(len(_BLANK) - len(_SINCE))
        self.waiting_since: float | None = None  # monotonic

    def take(self) -> float:
        """For how long it was waited for, in seconds."""
        if not HAS_FLOCK:
            return 0.0
        waited = 0.0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.waiting_since = began = time.monotonic()
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            finally:
                self.waiting_since = None
            waited = time.monotonic() - began
        self.say_holds()
        return waited

    def say_holds(self) -> None:
        """Only in one's turn, as `say_waits`."""
        self._write(self._mine)

    def say_waits(self) -> None:
        self._write(self._waits)

    def _write(self, who: bytes) -> None:
        if HAS_FLOCK:
            with _as_far_as_it_can_be:
                os.pwrite(self._file, b"%d" % (time.time_ns() // 1000) + who, 0)

    def give_back(self) -> None:
        if not HAS_FLOCK:
            return
        with _as_far_as_it_can_be:
            os.pwrite(self._file, _BLANK, 0)
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """Refused with `otherwise` while another process is inside. Whoever leaves takes the file along."""
    if not HAS_FLOCK:
        yield
        return
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise JournalError(f"{path}, which keeps others away, can't be made: {error.strerror}.") from error
    try:
        if not _is_ours(lock):
            raise JournalBusy(otherwise)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # in one's own turn: who has opened it meanwhile sees that it is gone
    finally:
        os.close(lock)


def _is_ours(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(lock).st_nlink > 0  # else who was inside has removed it since it was opened: it keeps nobody away


def read_holder(path: Path) -> Turn | None:
    """The process whose turn it is, as far as the file says."""
    try:
        words = path.read_text(errors="replace").split()
    except OSError:
        return None
    if len(words) < 4 or not (words[0].isdigit() and words[1].isdigit()):
        return None
    since_us, pid, started, host = int(words[0]), int(words[1]), words[2], words[3]
    if host == this_host().replace(" ", "_") and pid_start(pid) != (started if started != "-" else ""):
        return None  # it died while it had its turn; the kernel has given the lock back
    return Turn(pid, since_us, words[4:] == [_WAITS])
