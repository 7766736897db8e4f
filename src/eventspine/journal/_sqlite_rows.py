"""Rows of a query that reads many, in half the time.

The interpreter's sqlite3 lets go of the interpreter's lock and takes it back for every row of a query, and again for every
column of it (seen in 3.11 to 3.13): some seventeen times for an event, and each time another thread may be the one that gets
it. The arguments of a function in SQL come at one go. So a query of many columns hands them to a function, which keeps
them; what the query itself gives is nothing.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

_KEEP = "spine_keep"


class Connection(sqlite3.Connection):
    """Of ours, with that function. No cursor of one is read while another is."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        kept: list[tuple[Any, ...]] = []

        def append(*row: Any) -> None:  # not a method: the connection would be in a circle that no collector sees
            kept.append(row)

        self._kept = kept
        self.create_function(_KEEP, -1, append)

    def keep(self, cursor: sqlite3.Cursor, sql: str, values: Sequence[Any]) -> None:
        """Run a query that selects what is `kept`, to `fetch` from it."""
        self._kept.clear()
        cursor.execute(sql, values)

    def fetch(self, cursor: sqlite3.Cursor, most: int) -> list[tuple[Any, ...]]:
        """So many rows more, or one more than that: a cursor has begun the next one whenever it gives a row. None: that was all."""
        deque(islice(cursor, most), maxlen=0)
        rows = self._kept.copy()
        self._kept.clear()
        return rows


def kept(columns: str) -> str:
    """What to select instead of these columns, to `fetch` them."""
    return f"{_KEEP}({columns})"
