"""The lookout: one thread that hears PostgreSQL's notifications, looks now and then, and tells the watchers.

A notification is a hint: one may be lost with the connection that listens, none comes through a pooler that gives each
transaction another session, and a gap in the feed closes without a word when a transaction is rolled back. So it looks at the
end of the feed every 250 ms, and as long as a gap holds the feed up every few milliseconds, ever less often."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from ..errors import JournalError
from ._postgres_connect import reading
from ._postgres_feed import Fence
from ._postgres_lineage import Connecting
from ._postgres_session import channel_of
from ._postgres_sql import Cursor
from .watching import Watchers

LOOK_EVERY_S = 0.25
GAP_S, GAP_S_MAX = 0.002, 0.05
RECONNECT_S = 0.5


class Lookout:
    def __init__(self, connecting: Connecting, fence: Fence) -> None:
        self._connecting, self._fence = connecting, fence
        self._target, self._identity = connecting.target, connecting.identity
        self._watchers = Watchers()
        self._nudged = threading.Event()
        self._ended = False
        self._seen: tuple[int, int, int] | None = None
        self._thread = threading.Thread(target=self._work, name=f"spine lookout {self._target.name}", daemon=True)
        self._started = threading.Lock()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        stop = self._watchers.watch(changed)
        with self._started:
            if not self._ended and self._thread.ident is None:
                self._thread.start()
        return stop

    def tell(self) -> None:
        """This process has committed something itself."""
        self._watchers.tell()

    def close(self) -> None:
        with self._started:
            self._ended = True
            started = self._thread.ident is not None
        if started:
            self._thread.join(5)

    # --- on the lookout's thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._ended:
            try:
                with contextlib.closing(self._connecting()[0]) as connection:
                    connection.execute(f"listen {channel_of(self._identity)}")
                    self._listen(connection)
            except (psycopg.Error, JournalError):
                # Whoever reads or writes will say what is wrong; what has been missed meanwhile is looked for first.
                self._seen = None
                self._pause(RECONNECT_S)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        cursor, gap_s = Cursor(connection, self._identity.schema), GAP_S
        while not self._ended:
            with reading(connection, self._target):
                self._look(cursor)
            waiting = self._fence.waiting_since is not None
            heard = next(connection.notifies(timeout=gap_s if waiting else LOOK_EVERY_S, stop_after=1), None)
            if heard:
                list(connection.notifies(timeout=0))  # several say no more than one
            gap_s = min(gap_s * 2, GAP_S_MAX) if waiting and heard is None else GAP_S

    def _look(self, cursor: Cursor) -> None:
        """Tell, if there is more than there was."""
        if not self._watchers:
            return
        self._fence.advance(cursor)
        control, timers = cursor.run(
            f"select (select value::bigint from {cursor.schema}.spine_meta where name = 'control'),"
            f" (select coalesce(min(due_us), 0) from {cursor.schema}.spine_timers)"
        ).fetchone()
        seen = (self._fence.decided, control, timers)
        if seen != self._seen:
            self._seen = seen
            self._watchers.tell()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._ended and time.monotonic() < until:
            self._nudged.wait(0.05)
