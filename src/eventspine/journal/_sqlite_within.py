"""Units on a connection that the caller owns (R21): the caller begins, and the caller commits.

The first statement is a write, so that the transaction takes the write lock before it has a snapshot that somebody
else could make stale. All of the unit runs in a savepoint: when it is refused, the caller's transaction is as it was.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from ..errors import Fenced, JournalBusy, SettingsError, SpineError
from . import _sqlite_file as file
from ._sql_apply import Applier, Safeguards
from ._sqlite_guard import Unguarded, as_unit_failed, check_text
from .port import Unit, Verdict

TAKE_LOCK = "/*spine*/ delete from spine_timers where 0"


def write_within(connection: Any, unit: Unit, path: Path, now_us: int) -> Verdict:
    _check(connection, path)
    for statement in unit.statements:
        check_text(statement.sql)
    text_factory, connection.text_factory = connection.text_factory, str
    try:
        return write_unchecked(connection, unit, path, now_us)
    finally:
        connection.text_factory = text_factory


def write_unchecked(connection: sqlite3.Connection, unit: Unit, path: Path, now_us: int) -> Verdict:
    """Without a look at whose connection it is, and at the SQL."""
    applier = Applier(connection, Unguarded(connection), Safeguards(savepoints=False))
    try:
        connection.execute(TAKE_LOCK).close()
        connection.execute("/*spine*/ savepoint spine_within").close()
        try:
            verdict = apply_beside(applier, unit, now_us)
        except BaseException:
            if connection.in_transaction:
                connection.execute("/*spine*/ rollback to spine_within").close()
                connection.execute("/*spine*/ release spine_within").close()
            raise
        connection.execute("/*spine*/ release spine_within").close()
        return verdict
    except sqlite3.Error as error:
        raise _explain(error, path) from error
    finally:
        applier.close()


def apply_beside(applier: Applier, unit: Unit, now_us: int) -> Verdict:
    """Apply it in a transaction of the caller's, or raise what keeps it from being applied."""
    verdict = applier.apply([unit], now_us, beside=True).verdicts[0]
    if verdict.error is not None:
        raise verdict.error
    if verdict.kind == "repeated" and unit.done:
        raise Fenced(
            "What this unit finishes is finished already, and the rest of this transaction would happen twice."
        )
    return verdict


def _explain(error: sqlite3.Error, path: Path) -> SpineError:
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY_SNAPSHOT:
        return JournalBusy(
            "The transaction has read before others wrote, so it can't write any more. Begin it with BEGIN IMMEDIATE, or "
            "publish before the first read."
        )
    return file.translate(error, path) or as_unit_failed(error)


def _check(connection: Any, path: Path) -> None:
    if not isinstance(connection, sqlite3.Connection):
        raise SettingsError(
            f"The journal is the SQLite file {path}, and this is no sqlite3.Connection on it but a "
            f"{type(connection).__module__}.{type(connection).__qualname__}. Two stores are two commits (a dual write), and a "
            f"crash in between leaves one without the other: keep both in one file.",
        )
    cursor = connection.cursor()
    cursor.row_factory = None
    rows = cursor.execute("/*spine*/ pragma database_list").fetchall()  # unlike a select, takes no snapshot
    cursor.close()
    main = next((os.fsdecode(row[2] or "") for row in rows if os.fsdecode(row[1]) == "main"), "")
    if not main or not _same(Path(main), path):
        raise SettingsError(
            f"This connection is on {main or 'a database in memory'}, the journal on {path}. Two files are two commits (a "
            "dual write), and a crash in between leaves one without the other: open the connection on the journal's file, "
            "or give the spine the URL of this one.",
        )
    if not connection.in_transaction and not _begins_by_itself(connection):
        raise SettingsError(
            "This connection commits each statement by itself, so the event would not share the fate of your own writes. "
            "Run BEGIN IMMEDIATE on it first.",
        )


def _begins_by_itself(connection: sqlite3.Connection) -> bool:
    """Whether Python begins a transaction before the first write on it."""
    autocommit = getattr(connection, "autocommit", None)  # since Python 3.12
    if autocommit is True:
        return False
    return autocommit is False or connection.isolation_level is not None


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False
