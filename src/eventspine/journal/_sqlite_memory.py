"""What the writer knows of the file from its last commit, for as long as nobody else has written to it since.

    begun ── nobody has written since, and what came last was a group of ours ──► remembered: where the feed and streams are
      └── else: asked                                            └── committed ──► believed in the next transaction

SQLite itself tells whether another connection has committed: `data_version` is another number then, for this one. What this
connection does by itself, as a call or for a conversation, is not remembered: only what follows a group at once is believed,
and a commit that failed, or of which nothing is known, leaves nothing that is."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._sql_known import Known
    from ._sql_plan import Plan

STREAMS_MAX = 10_000


class Memory:
    """Of one connection."""

    def __init__(self) -> None:
        self._committed = False  # what came last was a group, and was remembered
        self._believed = False  # in this transaction
        self._version = 0  # of the data, as SQLite counts commits of others
        self.recorded_us = self.head = 0
        self.stream_last: int | None = None  # the highest number; None: not asked yet
        self.streams: dict[tuple[str, str], tuple[int, int]] = {}  # their numbers and versions

    def begun(self) -> None:
        """A transaction, of whatever kind."""
        self._believed, self._committed = self._committed, False

    def holds(self, cursor: sqlite3.Cursor) -> bool:
        """Whether all that is here is so, in the transaction that has begun; else it is forgotten."""
        version: int = cursor.execute("/*spine*/ pragma data_version").fetchone()[0]
        believed, self._believed = self._believed and version == self._version, False
        if not believed:
            self._version, self.stream_last, self.streams = version, None, {}
        return believed

    def wrote(self, known: Known, plan: Plan, recorded_us: int) -> None:
        """What this group has written."""
        if plan.records:
            self.recorded_us, self.head = recorded_us, plan.last
        if len(self.streams) > STREAMS_MAX:
            self.streams = {}
        for stream in plan.touched:
            head = known.heads[stream]
            self.streams[stream] = head.number, head.version
            if self.stream_last is not None:
                self.stream_last = max(self.stream_last, head.number)

    def committed(self) -> None:
        """And this was the end of the transaction."""
        self._committed = True
