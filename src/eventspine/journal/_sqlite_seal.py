"""The seal of a backup: a digest of its events, stored in it, since neither SQLite nor we keep checksums of rows."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from . import _sql_read as read

SEAL = "seal"  # in spine_meta
PAGE = 2_000


class Seal(NamedTuple):
    position: int
    events: int
    digest: str
    made_us: int


def digest(cursor: sqlite3.Cursor, page: Callable[[], None] = lambda: None) -> tuple[str, int]:
    """Of all events, column for column, in order; and how many there are. `page` is called now and then."""
    found, count = blake2b(digest_size=32), 0
    with closing(
        cursor.connection.execute(f"/*spine*/ select {read.RECORD} from spine_events order by position")
    ) as rows:
        while some := rows.fetchmany(PAGE):
            found.update(msgspec.msgpack.encode(some))
            count += len(some)
            page()
    return found.hexdigest(), count


def seal(copy: sqlite3.Connection, page: Callable[[], None]) -> None:
    cursor = copy.cursor()
    found, count = digest(cursor, page)
    made = Seal(read.head(cursor), count, found, time.time_ns() // 1_000)
    query = "/*spine*/ insert or replace into spine_meta (name, value) values (?, ?)"
    cursor.execute(query, (SEAL, json.dumps(made))).close()
