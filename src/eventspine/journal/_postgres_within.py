"""Units on a connection that the caller owns (R21): the caller begins, and the caller commits.

The unit holds the appender token from before its first position until the caller's transaction ends, so readers wait for that
and not one event is passed over. Nothing of it is waited for by other writers but the rows that it locks. All of the unit runs
in a savepoint: when it is refused, the caller's transaction is as it was.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from ..errors import JournalBusy, JournalError, SettingsError, SpineError
from ..wording import BEGIN_ONE
from ._postgres_apply import PostgresApplier
from ._postgres_bridge import Bridge
from ._postgres_connect import Target, is_passing, trouble
from ._postgres_known import Raced
from ._postgres_schema import Identity
from ._postgres_session import TRIES, channel_of, take_token
from ._postgres_sql import check_theirs, opened
from ._sql_apply import Safeguards
from ._sqlite_guard import as_unit_failed
from ._sqlite_within import apply_beside
from .port import Unit, Verdict


def write_within(connection: Any, unit: Unit, target: Target, identity: Identity, now_us: int) -> Verdict:
    _check_kind(connection, target)
    for statement in unit.statements:
        check_theirs(statement.sql)
    try:
        _check_place(connection, target, identity)
        for _ in range(TRIES - 1):
            try:
                return _write(connection, unit, identity, now_us)
            except Raced:
                pass
        return _write(connection, unit, identity, now_us)
    except Raced as error:
        raise JournalBusy("Others published the same events at the same moment, again and again.") from error
    except psycopg.Error as error:
        raise _explained(error, target) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "asyncpg":
            raise
        raise _explained(_as_psycopg(error), target) from error


def _write(connection: Any, unit: Unit, identity: Identity, now_us: int) -> Verdict:
    cursor = opened(connection)
    cursor.execute("savepoint spine_within")
    try:
        cursor.execute(take_token(identity))
        applier = PostgresApplier(connection, identity, Safeguards(savepoints=False))
        verdict = apply_beside(applier, unit, now_us)
        if unit.appends or unit.timers:  # heard when the caller commits
            cursor.execute(f"notify {channel_of(identity)}")
    except BaseException:
        if not connection.closed:
            cursor.execute("rollback to spine_within; release spine_within")
        raise
    cursor.execute("release spine_within")
    return verdict


def _in_transaction(connection: Any) -> bool:
    """Or in one as soon as something is written."""
    if isinstance(connection, Bridge):
        return connection.in_transaction()
    return not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE


def _as_psycopg(error: Exception) -> psycopg.Error:
    """asyncpg's errors in psycopg's words, which the rest of the journal knows."""
    try:
        kind: type[psycopg.Error] = psycopg.errors.lookup(str(getattr(error, "sqlstate", "")))
    except KeyError:
        kind = psycopg.OperationalError
    return kind(str(error))


def _explained(error: psycopg.Error, target: Target) -> SpineError:
    if is_passing(error):
        return JournalBusy(
            "Others changed the same rows since this transaction began, so it can't write any more. Roll it back and try "
            "again; in `read committed`, PostgreSQL's default, this is rare."
        )
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return JournalError(
            "Your transaction is read-only, so nothing can be written in it, and nothing was. Begin one that may write: with "
            "psycopg connection.read_only = None, with SQLAlchemy no postgresql_readonly=True, in SQL `begin read write`; and on "
            "the primary, since a standby's are all read-only."
        )
    return trouble(error, target) or as_unit_failed(error)


def _check_kind(connection: Any, target: Target) -> None:
    if not isinstance(connection, (psycopg.Connection, Bridge)):
        raise SettingsError(
            f"The journal is in PostgreSQL at {target.name}, and this is no connection to it of psycopg 3 or asyncpg but a "
            f"{type(connection).__module__}.{type(connection).__qualname__}. Two stores are two commits (a dual write), and "
            "a crash in between leaves one without the other: keep both in one database, and hand over the connection of "
            "your transaction.",
        )
    if not _in_transaction(connection):
        raise SettingsError(
            "This connection commits each statement by itself, so the event would not share the fate of your own writes. "
            f"{BEGIN_ONE}"
        )


def _check_place(connection: Any, target: Target, identity: Identity) -> None:
    table = f"{identity.schema}.spine_meta"
    cursor = opened(connection)
    found = cursor.execute("select to_regclass(%s)", (table,)).fetchone()
    row = found and found[0] and cursor.execute(f"select value from {table} where name = 'id'").fetchone()
    if not row or row[0] != identity.id:
        name = cursor.execute("select current_database()").fetchone()[0]
        raise SettingsError(
            f"This connection is on the database {name!r}, where the journal of {target.name} is not. Two "
            "databases are two commits (a dual write), and a crash in between leaves one without the other: open the "
            "connection on the journal's database.",
        )
