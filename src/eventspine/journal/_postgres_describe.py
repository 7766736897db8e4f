"""What an operator may ask about a journal in PostgreSQL: found with a few reads. Waits for no lock."""

from __future__ import annotations

from typing import Any

import psycopg

from . import _sql_retention as retention
from ._postgres_connect import Target
from ._postgres_feed import Fence
from ._postgres_lineage import moved
from ._postgres_sql import Cursor

ROWS_COUNTED = 100_000  # of a table at most: `spine top` asks every second
_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "server_version")
_DURABILITY = {
    "remote_apply": "process kill, OS crash, power loss, and loss of the primary once a synchronous standby has it",
    "on": "process kill, OS crash and power loss; not the loss of the disk (synchronous_commit=on)",
}


def is_journal(connection: psycopg.Connection[Any], schema: str) -> bool:
    row = connection.execute("select to_regclass(%s)", (f"{schema}.spine_meta",)).fetchone()
    return row is not None and row[0] is not None


def describe(cursor: Cursor, target: Target, fence: Fence, now_us: int) -> dict[str, str | int | None]:
    meta = dict(cursor.execute("/*spine*/ select name, value from spine_meta").fetchall())
    settings = {name: cursor.run(f"show {name}").fetchone()[0] for name in _SETTINGS}
    held = fence.waiting_for(cursor)
    return {
        "kind": "postgres",
        "database": target.name,
        "schema": cursor.schema,
        "id": meta["id"],
        "incarnation": int(meta["incarnation"]),
        "durability": _durability(settings),
        **retention.facts(cursor, now_us).described(),  # type: ignore[arg-type]
        **{f"{name}_rows": _rows(cursor, f"spine_{name}") for name in ("deliveries", "timers", "stream_events")},
        "file_bytes": _bytes(cursor),
        "schema_version": int(meta["schema_version"]),
        "writer_min": int(meta["writer_min"]),
        "postgres": settings["server_version"],
        "synchronous_commit": settings["synchronous_commit"],
        "promoted": moved(cursor, meta.get("lineage")),
        "feed_held_up_by": ", ".join(f"server process {pid}, for {age:.1f} s" for pid, age in held) or None,
        "lock_pid": None,
        "lock_since_us": None,
    }


def _durability(settings: dict[str, str]) -> str:
    if settings["fsync"] == "off" or settings["full_page_writes"] == "off":
        return "nothing certain: fsync=off or full_page_writes=off"
    standbys = settings["synchronous_standby_names"]
    kind = (
        "remote_apply"
        if standbys and settings["synchronous_commit"] in ("on", "remote_apply", "remote_write")
        else "on"
    )
    return _DURABILITY[kind]


def _rows(cursor: Cursor, table: str) -> int:
    """Counted so far, lest asking takes long."""
    query = f"/*spine*/ select count(*) from (select 1 from {table} limit {ROWS_COUNTED}) as counted"
    return int(cursor.execute(query).fetchone()[0])


def _bytes(cursor: Cursor) -> int:
    """Of the events, their indexes included."""
    return int(
        cursor.run("select pg_total_relation_size(%s::regclass)", (f"{cursor.schema}.spine_events",)).fetchone()[0]
    )
