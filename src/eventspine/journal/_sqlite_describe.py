"""What an operator may ask about the file: found with one read, `stat`, and the turn lock's own words. Waits for no lock."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from . import (
    _sql_retention as retention,
    _sqlite_file as file,
    migrations,
)
from ._sql_apply import SCHEMA_VERSION
from ._sqlite_locks import write_lock_holder
from .forks import inside_sqlite
from .lockfile import read_holder

ROWS_COUNTED = 100_000  # of a table at most: `spine top` asks every second
_SYNCHRONOUS = {
    0: "nothing certain: synchronous=OFF",
    1: "process kill; power loss may take acknowledged commits: synchronous=NORMAL",
    2: "process kill, OS crash and power loss; not the loss of the disk (synchronous=FULL)",
    3: "process kill, OS crash and power loss; not the loss of the disk (synchronous=EXTRA)",
}


def is_journal(path: Path, busy_s: float) -> bool:
    """Whether the file is there and has our tables. An empty one, or another program's database, is none."""
    return bool(_meta_of(path, busy_s))


def identity_if_current(path: Path, busy_s: float) -> tuple[str, str] | None:
    """Identity and incarnation of a journal that this release need not prepare; None of any other."""
    meta = _meta_of(path, busy_s)
    ours = max((SCHEMA_VERSION, *(migration.version for migration in migrations.MIGRATIONS)))
    try:
        current = bool(meta) and int(meta["schema_version"]) >= ours >= int(meta["writer_min"])
    except (KeyError, ValueError) as error:
        raise file.corrupt(path, f"its spine_meta says {meta!r:.200}") from error
    return (meta["id"], meta["incarnation"]) if current else None


def _meta_of(path: Path, busy_s: float) -> dict[str, str]:
    file.check_restored(path)
    if not path.exists():
        return {}
    file.check_kind(path)
    with inside_sqlite():
        return _look(path, busy_s)


def _look(path: Path, busy_s: float) -> dict[str, str]:
    connection = file.connect(path, busy_s=busy_s, readonly=True)
    try:
        query = "/*spine*/ select 1 from sqlite_master where type = 'table' and name = 'spine_meta'"
        return _meta(connection.cursor()) if connection.execute(query).fetchone() else {}
    except sqlite3.Error as error:
        foreign = file.corrupt(path, f"its spine_meta is not a journal's: {error}")
        raise file.translate(error, path) or foreign from error
    finally:
        connection.close()


def _meta(cursor: sqlite3.Cursor) -> dict[str, str]:
    return dict(cursor.execute("/*spine*/ select name, value from spine_meta").fetchall())


def describe(cursor: sqlite3.Cursor, path: Path, turn: Path, now_us: int) -> dict[str, str | int | None]:
    meta = _meta(cursor)
    now, holder = read_holder(turn), write_lock_holder(path)
    if holder is None and now and not now.waits:
        holder = now.pid  # the system does not tell, or it is about to begin
    elsewhere = now is not None and (now.waits or now.pid != holder)  # whose turn it is finds that out by trying
    return {
        "kind": "sqlite",
        "file": str(path),
        "id": meta["id"],
        "incarnation": int(meta["incarnation"]),
        "durability": _SYNCHRONOUS.get(_pragma(cursor, "synchronous"), "unknown"),
        "journal_mode": str(_pragma(cursor, "journal_mode")),
        "file_bytes": file.size(path),
        "wal_bytes": file.size(Path(f"{path}-wal")),
        "free_bytes": _pragma(cursor, "freelist_count") * _pragma(cursor, "page_size"),
        **retention.facts(cursor, now_us).described(),
        **{f"{name}_rows": _rows(cursor, f"spine_{name}") for name in ("deliveries", "timers", "stream_events")},
        "schema_version": int(meta["schema_version"]),
        "writer_min": int(meta["writer_min"]),
        "sqlite": sqlite3.sqlite_version,
        "file_system": file.file_system(path.parent) or None,
        "lock_pid": holder,
        "lock_since_us": now.since_us if now else None,
        "lock_waits_pid": now.pid if now and elsewhere else None,
    }


def _rows(cursor: sqlite3.Cursor, table: str) -> int:
    """Counted so far, lest asking takes long."""
    query = f"/*spine*/ select count(*) from (select 1 from {table} limit {ROWS_COUNTED})"
    return int(cursor.execute(query).fetchone()[0])


def _pragma(cursor: sqlite3.Cursor, name: str) -> Any:
    value: Any = cursor.execute(f"/*spine*/ pragma {name}").fetchone()[0]
    return value
