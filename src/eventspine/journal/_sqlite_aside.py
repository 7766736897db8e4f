"""Moving a journal's file aside, so that the next start makes a new one. For development.

    every commit is in the one file, and nobody else has it open    (leaving WAL mode needs both, and tells)
      └── the file is renamed, or removed
            └── the folder of bells goes, the lock file stays: whoever waits for its turn has it open

A process that opens the file in the moment between the two finds out at its first commit, which is refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from ..errors import JournalBusy
from . import _sqlite_file as file
from .doorbell import bells_of

WAIT_S = 1.0  # for others to close it


def move_aside(path: Path, backup: Path | None) -> None:
    """`backup`: its new name; None removes it. The journal must not be open in this process."""
    if backup is not None and os.path.lexists(backup):
        raise JournalBusy(
            f"{backup}, to which {path} was to be moved, has come to be meanwhile. Nothing was changed; look who made it, "
            "then try again.",
            path=str(path),
        )
    _leave_wal(path)
    if backup is None:
        os.unlink(path)
    else:
        os.rename(path, backup)
    with contextlib.suppress(OSError):
        os.rmdir(bells_of(path))


def _leave_wal(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=WAIT_S)
    try:
        mode = connection.execute("pragma journal_mode=delete").fetchone()[0]
    except sqlite3.Error as error:
        if not file.is_busy(error):
            raise file.translate(error, path) or error from error
        mode = "wal"
    finally:
        connection.close()
    if mode != "delete":
        raise JournalBusy(
            f"Another program has {path} open, so nothing was changed. End it, then try again.", path=str(path)
        )


def free_name(path: Path) -> Path:
    """`spine.db.bak`, or the first of `spine.db.bak2`, `spine.db.bak3` and so on that is not taken."""
    number, name = 1, Path(f"{path}.bak")
    while name.exists():
        number += 1
        name = Path(f"{path}.bak{number}")
    return name
