"""What this process has just committed to the feed, so that its own readers need not ask SQLite for it again.

Positions without a hole, up to our last commit that inserted. Others may have written since, or before our next commit:
so nothing is ever said about what comes after, and a commit that does not go on where the last one ended begins anew.
Only that whoever watches will be told of it is said (`Page.told`), as long as nothing that was told came after:

    others, counted ── our commit begins ── what we inserted ── a page up to its end ── watchers are told of others' commits
           └───────────────────── the same count: none was told yet ────────┘          (counted first, told then)

Kept for a few seconds only, since another process may delete what is old (retention)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from ..clock import Clock
from .port import Page, Record

KEPT = 4_000  # events; up to twice as many before some are dropped
BYTES_MAX = 4 * 1024 * 1024
AGE_MAX_US = 5_000_000

_data = itemgetter(13)
_new: Callable[[type[Record], Any], Record] = tuple.__new__


class Recent:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # the writer's thread adds, others read
        self._first = 1
        self._rows: list[tuple[Any, ...]] = []  # as they were inserted: records without their position
        self._bytes = 0
        self._as_of = 0  # `others` before our last commit began
        self.others = 0  # commits that are not here, as far as we were told

    def others_wrote(self) -> None:
        """To be called before watchers are told of it."""
        with self._lock:
            self.others += 1

    def add(self, first: int, rows: Sequence[tuple[Any, ...]], others: int = 0) -> None:
        """These have been committed, from this position on; `others` as it was before that commit began."""
        with self._lock:
            self._as_of = others
            if first != self._first + len(self._rows):
                self._first, self._rows, self._bytes = first, [], 0
            self._rows += rows
            self._bytes += sum(map(len, map(_data, rows)))
            if len(self._rows) > 2 * KEPT or self._bytes > BYTES_MAX:
                self._drop()

    def _drop(self) -> None:
        count = len(self._rows)
        drop = max(0, count - KEPT)
        self._bytes -= sum(map(len, map(_data, self._rows[:drop])))
        while drop < count and self._bytes > BYTES_MAX // 2:
            self._bytes -= len(_data(self._rows[drop]))
            drop += 1
        del self._rows[:drop]
        self._first += drop

    def forget(self) -> None:
        with self._lock:
            self._first, self._rows, self._bytes = 1, [], 0

    def reaches(self, after: int) -> bool:
        """Whether there may be something after this position; a look without the lock."""
        return self._first <= after + 1 < self._first + len(self._rows)

    def page(self, after: int, limit: int, upto: int | None, wanted: Callable[[Record], bool]) -> Page | None:
        """As `Journal.feed` would read it; None: that has to be asked."""
        with self._lock:
            start = after + 1 - self._first
            if start < 0 or start >= len(self._rows):
                return None
            end = len(self._rows) if upto is None else upto + 1 - self._first
            rows = self._rows[start : max(start, min(end, start + limit))]
            told = self._as_of == self.others and start + len(rows) == len(self._rows)
        if not rows or self._clock.now_us() - rows[0][7] > AGE_MAX_US:
            return None
        records = (_new(Record, (position, *row)) for position, row in enumerate(rows, after + 1))
        return Page([record for record in records if wanted(record)], after + len(rows), told=told)
