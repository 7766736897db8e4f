"""The schema in a SQLite file, and how it moves on while processes of several releases share it (R9).

The file stores its schema's version and the oldest version that may write. A migration only adds, and older releases
go on writing. Removing comes a release later, as a step that closes the file to releases before `needs`; it refuses to
run while a process of such a release is registered and alive. Every write transaction checks `writer_min`.
"""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from ..errors import JournalVersion
from . import _sql_read as read
from ._sql_apply import SCHEMA_VERSION, WRITER_MIN
from ._sql_registry import is_live


@dataclass(frozen=True, slots=True)
class Migration:
    version: int  # the schema's version after it
    script: str
    removes: bool = False  # older releases can't write any more
    needs: str = ""  # with `removes`: the first release that can


class Foreign(Exception):
    """Tables of our names are there, and are not ours."""


NOTES = Migration(
    2,
    """
    create table spine_notes (
      service text not null, kind text not null, key text not null, version integer not null, value blob not null,
      until_us integer, primary key (service, kind, key)
    );
    create index spine_notes_until on spine_notes (until_us) where until_us is not null;
    """,
)
MIGRATIONS: tuple[Migration, ...] = (NOTES,)


def prepare(connection: sqlite3.Connection, now_us: int, migrations: Sequence[Migration] | None = None) -> bool:
    """Make the tables, or bring them up to date, in the transaction that the caller has begun; whether they were made."""
    migrations = MIGRATIONS if migrations is None else migrations
    cursor = connection.cursor()
    try:
        made = not _exists(cursor)
        try:
            if made:
                _create(cursor)
            stored, writer_min = int(_meta(cursor, "schema_version")), int(_meta(cursor, "writer_min"))
        except (sqlite3.Error, ValueError) as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
                raise Foreign(str(error)) from error
            raise
        if stored < 0 or _meta(cursor, "id") == "0":
            raise Foreign("its spine_meta is not a journal's")
        ours = max((SCHEMA_VERSION, *(migration.version for migration in migrations)))
        if writer_min > ours:
            raise JournalVersion(
                f"This journal was migrated to schema {writer_min} by a newer release; this one knows schema {ours}. "
                "Upgrade eventspine in this process, then start it again.",
                writer_min=writer_min,
                schema=ours,
            )
        for migration in migrations:
            if migration.version > stored:
                _migrate(cursor, migration, now_us)
        return made
    finally:
        cursor.close()


def identity(connection: sqlite3.Connection) -> tuple[str, str]:
    cursor = connection.cursor()
    try:
        return _meta(cursor, "id"), _meta(cursor, "incarnation")
    finally:
        cursor.close()


def run_script(cursor: sqlite3.Cursor, script: str) -> None:
    """Statement by statement, since sqlite3's own executescript commits first."""
    for statement in statements(script):
        cursor.execute(statement)


def statements(script: str) -> list[str]:
    """A script's statements; triggers, whose bodies have semicolons, stay whole."""
    found, begun = [], ""
    for piece in re.split(r"(?<=;)", script):
        begun += piece
        if sqlite3.complete_statement(begun):
            found.append(begun.strip())
            begun = ""
    rest = re.sub(r"--[^\n]*|/\*.*?\*/", "", begun, flags=re.DOTALL).strip()
    return [*found, begun.strip()] if rest else found


def _exists(cursor: sqlite3.Cursor) -> bool:
    query = "/*spine*/ select 1 from sqlite_master where type = 'table' and name = 'spine_meta'"
    return cursor.execute(query).fetchone() is not None


def _create(cursor: sqlite3.Cursor) -> None:
    run_script(cursor, files(__package__ or "").joinpath("schema.sql").read_text(encoding="utf-8"))
    cursor.executemany(
        "/*spine*/ insert into spine_meta (name, value) values (?, ?)",
        [
            ("id", uuid.uuid4().hex),
            ("incarnation", "1"),
            ("schema_version", str(SCHEMA_VERSION)),
            ("writer_min", str(WRITER_MIN)),
            ("control", "0"),
        ],
    )


def _meta(cursor: sqlite3.Cursor, name: str) -> str:
    row = cursor.execute("/*spine*/ select value from spine_meta where name = ?", (name,)).fetchone()
    return str(row[0]) if row else "0"


def _migrate(cursor: sqlite3.Cursor, migration: Migration, now_us: int) -> None:
    if migration.removes:
        _refuse_older(cursor, migration, now_us)
        cursor.execute("/*spine*/ update spine_meta set value = ? where name = 'writer_min'", (str(migration.version),))
    run_script(cursor, migration.script)
    cursor.execute("/*spine*/ update spine_meta set value = ? where name = 'schema_version'", (str(migration.version),))


def _refuse_older(cursor: sqlite3.Cursor, migration: Migration, now_us: int) -> None:
    older = [
        row
        for row in read.processes(cursor)
        if is_live(row, now_us) and _release(row.release) < _release(migration.needs)
    ]
    if older:
        names = ", ".join(f"{row.service} (pid {row.pid}, eventspine {row.release})" for row in older)
        raise JournalVersion(
            f"Schema {migration.version} removes what older releases still write, and {names} is running. "
            f"Upgrade it to {migration.needs} or later, or stop it, then start this again.",
            processes=[row.id for row in older],
        )


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
