"""The journal's tables in a PostgreSQL schema: made by whoever comes first, and moved on as in a SQLite file (migrations.py)."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg

from ..errors import JournalCorrupt, JournalVersion, SettingsError
from ._postgres_connect import Target, entering, quoted
from ._postgres_sql import Cursor, statements
from ._sql_apply import SCHEMA_VERSION, WRITER_MIN
from .migrations import Migration, _refuse_older

MIGRATIONS: tuple[Migration, ...] = ()  # the tables were first made at version 2
MAKING_MS = 60_000  # how long a statement may take that makes tables, or waits for whoever makes them
_MAKING = 0x7370_6D6B  # the advisory lock of who makes tables, with a number of the schema


class Identity(NamedTuple):
    """What a journal is known by."""

    id: str
    incarnation: str
    schema: str  # where its tables are, quoted

    @property
    def number(self) -> int:
        """Of its advisory locks, and of its channel of notifications."""
        return signed(zlib.crc32(self.id.encode()))


def signed(number: int) -> int:
    """As PostgreSQL's integer has it."""
    return number - 2**32 if number >= 2**31 else number


def schema_of(connection: psycopg.Connection[Any], target: Target) -> str:
    if target.schema:
        return quoted(target.schema)
    row = connection.execute("select current_schema()").fetchone()
    if row is None or row[0] is None:
        raise SettingsError(
            f"The search path of this role at {target.name} has no schema that exists. Name one: ?schema=spine."
        )
    if "%" in row[0]:
        raise SettingsError(
            f"The first schema in the search path of this role at {target.name} is {row[0]!r}, and a % in it would be read "
            "as a parameter of SQL. Name another: ?schema=spine."
        )
    return quoted(row[0])


def identity(connection: Any, schema: str) -> Identity | None:
    """None: there is no journal, or one that is to be brought up to date."""
    if connection.execute("select to_regclass(%s)", (f"{schema}.spine_meta",)).fetchone()[0] is None:
        return None
    meta = dict(connection.execute(f"select name, value from {schema}.spine_meta").fetchall())
    ours = max((SCHEMA_VERSION, *(migration.version for migration in MIGRATIONS)))
    try:
        current = int(meta["schema_version"]) >= ours >= int(meta["writer_min"])
        return Identity(meta["id"], meta["incarnation"], schema) if current else None
    except (KeyError, ValueError) as error:
        raise JournalCorrupt(
            f"{schema}.spine_meta is not a journal's, or damaged. Name another schema: ?schema=...", meta=meta
        ) from error


def prepare(connection: psycopg.Connection[Any], target: Target, schema: str, now_us: int) -> bool:
    """Make the tables, or bring them up to date; whether they were made."""
    with connection.transaction():
        connection.execute(f"set local statement_timeout = {MAKING_MS}")
        if target.role:
            with entering(target):
                connection.execute(f"set local role {quoted(target.role)}")
        connection.execute("select pg_advisory_xact_lock(%s, %s)", (_MAKING, signed(zlib.crc32(schema.encode()))))
        cursor = Cursor(connection, schema)
        made = not _has_tables(cursor)
        if made:
            _create(cursor, target)
        _migrate(cursor, now_us)
        return made


def _create(cursor: Cursor, target: Target) -> None:
    try:
        if target.schema and not _has_schema(cursor, target.schema):
            cursor.run(f"create schema {cursor.schema}")
        run_script(cursor, files(__package__ or "").joinpath("postgres.sql").read_text(encoding="utf-8"))
    except psycopg.errors.InsufficientPrivilege as error:
        raise SettingsError(
            f"This role may not make the journal's tables in the schema {cursor.schema} of {target.name}: {error}. Let a "
            f"role do it that may: grant create on schema {cursor.schema}, or ?role=owner (how-to/postgresql.md)."
        ) from error
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


def _has_tables(cursor: Cursor) -> bool:
    """Asked of the catalogue's rows: `to_regclass` may still answer as of before the lock was waited for."""
    query = (
        "select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relname = 'spine_meta' and '\"' || replace(n.nspname, '\"', '\"\"') || '\"' = %s"
    )
    return cursor.run(query, (cursor.schema,)).fetchone() is not None


def _has_schema(cursor: Cursor, name: str) -> bool:
    return cursor.run("select 1 from pg_namespace where nspname = %s", (name,)).fetchone() is not None


def run_script(cursor: Cursor, script: str) -> None:
    """With names and indexes in the journal's schema."""
    for statement in statements(script):
        cursor.execute(statement)


def _migrate(cursor: Cursor, now_us: int) -> None:
    meta = dict(cursor.execute("/*spine*/ select name, value from spine_meta").fetchall())
    ours = max((SCHEMA_VERSION, *(migration.version for migration in MIGRATIONS)))
    if int(meta.get("writer_min", 0)) > ours:
        raise JournalVersion(
            f"This journal was migrated to schema {meta['writer_min']} by a newer release; this one knows schema {ours}. "
            "Upgrade eventspine in this process, then start it again.",
            writer_min=int(meta["writer_min"]),
            schema=ours,
        )
    for migration in _after(int(meta["schema_version"])):
        update = "/*spine*/ update spine_meta set value = ? where name = ?"
        if migration.removes:
            _refuse_older(cursor, migration, now_us)  # type: ignore[arg-type]
            cursor.execute(update, (str(migration.version), "writer_min"))
        run_script(cursor, migration.script)
        cursor.execute(update, (str(migration.version), "schema_version"))


def _after(version: int) -> Sequence[Migration]:
    return [migration for migration in MIGRATIONS if migration.version > version]
