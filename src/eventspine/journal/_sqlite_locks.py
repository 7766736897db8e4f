"""Waiting for SQLite's own write lock, and knowing for whom.

Our writers take turns (lockfile), so SQLite's lock is only ever held against us by a connection that is none of ours: a
caller's, or another program's. A caller that holds it and waits for a commit of ours waits for itself. Where the system
tells who holds the lock (Linux, in /proc/locks), that is refused at once instead of after the long limit (R21):

    BEGIN IMMEDIATE ── begun
          │ busy; a look every 50 ms
          ├── held by this very process for GRACE_S, nothing committed meanwhile ──► collect what nobody has any more;
          │                                                     if it still is ──► JournalBusy, naming within=
          ├── busy for longer than the limit, whoever holds it ──► JournalBusy, naming the pid
          └── else: again

The system knows the process and not the thread: it may be another thread's transaction, about to be committed. Hence
the grace; and hence JournalBusy, not WouldDeadlock, which engines take for the journal's trouble and ask again, and
never for a failed attempt. The -shm is only asked for its inode, and never opened (R7).
"""

from __future__ import annotations

import gc
import os
import sqlite3
import time
from pathlib import Path

from . import _sqlite_file as file
from ._sql_apply import Safeguards
from .lockfile import TurnLock, read_holder

LOCKS = Path("/proc/locks")
GRACE_S = 0.25
LOOK_EVERY_S = 0.05
_WRITE_LOCK = 120  # the byte of the -shm that whoever writes has locked: part of SQLite's format


class WriteLock:
    """`waiting_since` (monotonic) and `holder` (pid, and since when it was seen to hold it) may be asked by any thread."""

    def __init__(self, path: Path, turn: TurnLock, limit_s: float, safeguards: Safeguards) -> None:
        self._path, self._turn, self._limit_s, self._safeguards = path, turn, limit_s, safeguards
        self.waiting_since: float | None = None
        self.holder: tuple[int, int] | None = None

    def set_up(self, connection: sqlite3.Connection) -> None:
        """SQLite itself is to wait no longer than until the next look."""
        connection.execute(f"/*spine*/ pragma busy_timeout={int(LOOK_EVERY_S * 1000)}").close()

    def take(self, connection: sqlite3.Connection) -> None:
        """Begin a write transaction, in our turn. Who has to wait says so, lest others take it for the holder."""
        since = time.monotonic()
        if not _begun(connection):
            self.waiting_since = since
            self._turn.say_waits()
            try:
                self._wait(connection, since)
            finally:
                self.waiting_since = self.holder = None
            self._turn.say_holds()

    def _wait(self, connection: sqlite3.Connection, since: float) -> None:
        watch = Watch(self._path)
        while True:
            pid, now = self._look(), time.monotonic()
            own = self._safeguards.own_lock and watch.kept_by_ourselves(pid, since, now)
            if own and _begun_without_what_nobody_has(connection):
                return
            if own or now - since >= self._limit_s:
                raise file.busy(self._path, None, pid)
            if _begun(connection):
                return

    def _look(self) -> int | None:
        pid = write_lock_holder(self._path)
        if pid is None:
            self.holder = None
        elif self.holder is None or self.holder[0] != pid:
            self.holder = (pid, time.time_ns() // 1000)
        return pid


class Watch:
    """Tells when this very process has kept the write lock for GRACE_S of a wait, without committing anything."""

    def __init__(self, path: Path) -> None:
        self._wal = f"{os.path.realpath(path)}-wal"
        self._since = -1.0
        self._written = 0

    def kept_by_ourselves(self, holder: int | None, waiting_since: float, now: float) -> bool:
        written = _written_ns(self._wal)
        if holder != os.getpid() or written != self._written or self._since < waiting_since:
            self._since, self._written = now, written
        return holder == os.getpid() and now - self._since >= GRACE_S


def holder_seen_from_outside(path: Path) -> tuple[int, int] | None:
    """Who holds the write lock, for a process that has not opened the journal: (pid, since when in microseconds). Who has
    its turn, else who holds SQLite's own lock; since when is then not known, and 0."""
    turn = read_holder(Path(f"{path}-lock"))
    if turn is not None and not turn.waits:
        return turn.pid, turn.since_us
    pid = write_lock_holder(path)
    return None if pid is None else (pid, 0)


def write_lock_holder(path: Path) -> int | None:
    """The process that holds SQLite's write lock on this database. None: nobody, or it can't be told."""
    try:
        shm = os.stat(f"{os.path.realpath(path)}-shm")
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return None
    device = f"{os.major(shm.st_dev):02x}:{os.minor(shm.st_dev):02x}:{shm.st_ino}"
    # number: POSIX ADVISORY WRITE pid major:minor:inode first last; a waiter has an arrow before POSIX
    fields = [words for words in map(str.split, lines) if len(words) == 8 and words[1] == "POSIX"]
    here = [words for words in fields if words[5].endswith(f":{shm.st_ino}")]
    # stat and the list of locks name the device differently on some file systems (btrfs, overlays); then the inode has
    # to do. Elsewhere our own connections' locks are in the list under the very name.
    here = [words for words in here if words[5] == device] or here
    for _, _, _, kind, pid, _, first, last in here:
        if kind == "WRITE" and int(first) <= _WRITE_LOCK and (last == "EOF" or int(last) >= _WRITE_LOCK):
            return int(pid) if int(pid) > 0 else None  # 0: it is in another pid namespace
    return None


def _begun(connection: sqlite3.Connection) -> bool:
    """False: somebody else is writing."""
    try:
        connection.execute("/*spine*/ begin immediate")
    except sqlite3.OperationalError as error:
        if not file.is_busy(error):
            raise
        return False
    return True


def _begun_without_what_nobody_has(connection: sqlite3.Connection) -> bool:
    """sqlite3's connections are part of a circle: one that is open and forgotten keeps its lock until it is collected. Those who
    wait for the lock make nothing that would have the collector run."""
    gc.collect()
    return _begun(connection)


def _written_ns(wal: str) -> int:
    try:
        return os.stat(wal).st_mtime_ns
    except OSError:
        return 0
