"""The write-ahead log of the file: kept small whatever readers do (R20), and missed when somebody takes it away.

SQLite copies the log into the database by itself, but starts it anew only when nobody reads from it at that moment,
which beside several readers is never. So whoever has written, and finds the log past LOG_BYTES_MAX, has everybody wait
until it is copied and cut to nothing. Writers wait already, since it happens in one's turn (lockfile); readers that come
now read the database itself; those that are at it finish. Hence it is one process at a time that does it, and no lease
is needed: a process that only publishes looks after the log as well, and a process at work writes its leases, and so
looks, even when there is nothing to do.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from . import _sqlite_file as file

LOG_BYTES_MAX = 64 * 1024 * 1024
AGAIN_BYTES = 4 * 1024 * 1024  # after a reader stood in the way: so much later, so that commits go on meanwhile
READERS_MS = 200  # how long to wait for readers


class Log:
    """Of one connection. `bytes_max` and `checkpoints` may be asked by any thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._log = path, f"{path}-wal"
        self._size = 0  # before the transaction
        self._opened: tuple[int, int] | None = None  # which file it was
        self._at = LOG_BYTES_MAX
        self.bytes_max = 0
        self.checkpoints = 0

    def closed(self) -> None:
        """The connection; with the last one SQLite itself deletes the log."""
        self._opened = None

    def check(self) -> None:
        """Before a transaction: what goes into a log without a name is soon in none."""
        found = file.status(self._log)
        self._size = 0 if found is None else found.st_size
        if self._opened is None:
            self._opened = file.identity_of(found)  # there is none before the first transaction
        elif file.identity_of(found) != self._opened:
            raise file.log_vanished(self._path)

    def look_after(self, connection: sqlite3.Connection) -> bool:
        """Cut it to nothing when it was large before this transaction, in one's turn; whether that was tried (and the busy
        timeout changed)."""
        size = self._size
        self.bytes_max = max(self.bytes_max, size)
        if size < self._at:
            return False
        self.checkpoints += 1
        self._at = LOG_BYTES_MAX if _cut(connection) else size + AGAIN_BYTES
        return True


def _cut(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute(f"/*spine*/ pragma busy_timeout={READERS_MS}").close()
        blocked: int = connection.execute("/*spine*/ pragma wal_checkpoint(truncate)").fetchone()[0]
    except sqlite3.Error:
        return False
    return not blocked
