"""What SQL of a handler may do, and how its values are bound.

A handler's statement may read and write business tables. It may not control the transaction (R5), attach files,
use PRAGMA, or touch `spine_` tables. Two locks guard that: an authorizer, always installed and told by a flag when it
counts (setting it anew would expire every prepared statement), and a check of the text, because Python's statement
cache hands out a statement that was prepared before without asking the authorizer. All SQL of ours begins with
`/*spine*/` and a handler's may not, so that a cached statement of ours is never a handler's.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from ..errors import RowsUnexpected, SpineError, StatementRefused, UnitFailed
from ..wording import plural
from .port import Statement

OURS = "/*spine*/"
_BLANKS = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*", re.DOTALL)
_WORD = re.compile(r"[a-zA-Z]+")
_WRITES = frozenset({"select", "insert", "update", "delete", "replace", "with"})
_READS = frozenset({"select", "with", "values"})
_SCRIPT = frozenset({"create", "drop", "alter", "analyze", "reindex", "values"}) | _WRITES
_NEVER = frozenset(
    {
        sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH,
        sqlite3.SQLITE_PRAGMA,
    }
)  # fmt: skip


_COLUMNS = frozenset({sqlite3.SQLITE_READ, sqlite3.SQLITE_UPDATE})  # of which `second` is the name


class Guard:
    """The authorizer of one connection. `active` while a handler's SQL is prepared."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.active = False
        self._connection = connection
        connection.set_authorizer(self._authorize)

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if not self.active:
            return sqlite3.SQLITE_OK
        if action in _NEVER or _is_ours(first) or (_is_ours(second) and action not in _COLUMNS):
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and second == "load_extension":
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def check(self, sql: str) -> None:
        check_text(sql)

    def bind(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return bind(parameters)

    def run(self, sql: str, parameters: Mapping[str, Any] | tuple[()] = ()) -> tuple[int, list[Any], list[str]]:
        """Run one checked statement to its end: (rows counted, rows returned, their columns)."""
        self.active = True
        try:
            cursor = self._connection.cursor()
            cursor.row_factory = None
            cursor.execute(sql, parameters)
            rows = cursor.fetchall()
        finally:
            self.active = False
        columns = [column[0] for column in cursor.description or ()]
        count = cursor.rowcount
        if count < 0:  # Python counts no statement that begins with WITH
            count = len(rows) if columns else self._connection.execute(f"{OURS} select changes()").fetchone()[0]
        return count, rows, columns


def _is_ours(name: str | None) -> bool:
    return name is not None and name[:6].lower() == "spine_"


_checked: dict[tuple[str, frozenset[str]], None] = {}


def check_text(sql: str, allowed: frozenset[str] = _WRITES, whose: str = "A handler's statement") -> None:
    """Raise StatementRefused unless the text begins like a statement that is allowed."""
    if (sql, allowed) in _checked:
        return
    word = _WORD.match(sql, _BLANKS.match(sql).end())  # type: ignore[union-attr]  # matches the empty text too
    if sql.startswith(OURS) or word is None or word[0].lower() not in allowed:
        begin = " ".join(sql.split())[:60]
        raise StatementRefused(
            f"{whose} begins with one of {', '.join(sorted(allowed))}; this one is {begin!r}. "
            "Transactions are the spine's, and PRAGMA and ATTACH are nobody's.",
            sql=sql,
        )
    if len(_checked) < 10_000:
        _checked[(sql, allowed)] = None


def check_read(sql: str) -> None:
    check_text(sql, _READS)


def check_script(sql: str) -> None:
    check_text(sql, _SCRIPT, "A statement of tables=")


def is_refusal(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    several = isinstance(error, (sqlite3.Warning, sqlite3.ProgrammingError)) and "one statement" in str(error)
    function = isinstance(error, sqlite3.OperationalError) and "not authorized to use function" in str(error)
    return several or function or (code & 0xFF) == sqlite3.SQLITE_AUTH


def refused(sql: str, error: BaseException) -> StatementRefused:
    return StatementRefused(
        f"Not allowed: {str(error).rstrip('.')}. A unit's SQL is one statement at a time on your own tables; it can't "
        f"reach spine_ tables or control the transaction: {' '.join(sql.split())[:120]}",
        sql=sql,
    )


class Unguarded(Guard):
    """For a connection that the caller owns: its authorizer, if any, is the caller's; the text alone is checked."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.active = False
        self._connection = connection


def run_statement(guard: Guard, statement: Statement) -> int:
    """Run a handler's statement; the rows it touched. Raises what should fail the unit."""
    guard.check(statement.sql)
    try:
        count, _, _ = guard.run(statement.sql, guard.bind(statement.parameters))
    except (sqlite3.Error, sqlite3.Warning) as error:
        if is_refusal(error):
            raise refused(statement.sql, error) from error
        raise
    if statement.expect_rows is not None and count != statement.expect_rows:
        raise RowsUnexpected(
            f"{' '.join(statement.sql.split())[:120]} touched {plural(count, 'row')}; expect_rows={statement.expect_rows}. "
            "Nothing of this delivery was stored.",
            sql=statement.sql,
            rows=count,
            expected=statement.expect_rows,
        )
    return count


def as_unit_failed(error: Exception, sql: str | None = None) -> SpineError:
    """What a handler's failed statement is called; its own error is the cause."""
    if isinstance(error, (UnitFailed, StatementRefused)):
        return error
    short = None if sql is None else " ".join(sql.split())[:120]
    where = "" if short is None else f", in: {short}"
    failed = UnitFailed(f"{type(error).__name__}: {error}{where}. Nothing of this unit was stored.", sql=short)
    failed.__cause__ = error
    return failed


def bind(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in parameters.items()}


def plain(value: Any) -> Any:
    """A value as SQLite stores it."""
    kind = type(value)
    if kind in (str, int, float, bytes, type(None)):
        return value
    if kind is bool:
        return int(value)
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UnitFailed(f"{value!r} has no time zone. Give the datetime one: datetime.now(UTC).")
        return value.isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    return value


def parameters_of(values: Any) -> dict[str, Any]:
    """Named parameters, of a mapping or a dataclass."""
    if is_dataclass(values) and not isinstance(values, type):
        return bind(asdict(values))
    return bind(values)
