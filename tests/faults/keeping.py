"""A process that keeps events for moments only: `python -m tests.faults.keeping SECONDS DIE_AT DIE_WHEN publish|consume ...`,
the rest as in child.py. At its nth commit that deletes (0: never) it kills itself, before that commit or after it."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from datetime import timedelta
from typing import Any

from eventspine.engine import upkeep
from eventspine.journal import _sql_growth, _sqlite_writer
from tests.faults import child, services


def main() -> None:
    seconds, times, when = float(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
    upkeep.EVERY_S, upkeep.EVENTS_AT_ONCE = 0.1, 20
    for service, channel in ((services.till, "till"), (services.books, "books")):
        service.retention = {channel: timedelta(seconds=seconds)}
    die(times, when)
    child.main()


def die(times: int, when: str) -> None:
    left, deleting = times, False
    sweep, commit = _sql_growth.retention.sweep, _sqlite_writer._commit

    def swept(*given: Any) -> Any:
        nonlocal left, deleting
        answer = sweep(*given)
        left -= 1
        deleting = left == 0
        return answer

    def committed(connection: sqlite3.Connection) -> None:
        if deleting and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        commit(connection)
        if deleting:
            os.kill(os.getpid(), signal.SIGKILL)

    _sql_growth.retention.sweep = swept  # type: ignore[assignment]
    _sqlite_writer._commit = committed


if __name__ == "__main__":
    main()
