"""A service's own tables: its script runs once per version, as one transaction, whoever comes first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from ..errors import SettingsError, StatementRefused
from ._sqlite_apply import check_version, is_journal_trouble
from ._sqlite_guard import Guard, bind, check_script, is_refusal, refused
from .migrations import statements


def run_tables(
    cursor: sqlite3.Cursor,
    guard: Guard,
    service: str,
    version: str,
    script: str | Callable[[Any], None],
    now_us: int,
) -> tuple[bool, bool]:
    check_version(cursor, now_us)
    query = "/*spine*/ select 1 from spine_tables where service = ? and version = ?"
    if cursor.execute(query, (service, version)).fetchone():
        return False, False
    try:
        _run(script, Tables(guard))
    except (sqlite3.Error, sqlite3.Warning) as error:
        if is_journal_trouble(error):
            raise
        raise _failed(cursor, service, error) from error
    cursor.execute(
        "/*spine*/ insert into spine_tables (service, version, ran_us) values (?,?,?)", (service, version, now_us)
    )
    return True, False


def _run(script: str | Callable[[Any], None], tables: Tables) -> None:
    if not callable(script):
        tables.executescript(script)
        return
    try:
        script(tables)
    finally:
        tables.end()


def _failed(cursor: sqlite3.Cursor, service: str, error: Exception) -> SettingsError:
    query = "/*spine*/ select count(*) from spine_tables where service = ?"
    (before,) = cursor.execute(query, (service,)).fetchone()
    again = (
        " Another version of it has run here before, and a changed one runs once more, on what that has left: write `create "
        "table if not exists`, `insert or ignore`, `alter table ... add column`."
    )
    return SettingsError(
        f"The tables= of the service {service!r} failed, and nothing of them was kept: {error}.{again if before else ''}",
        service=service,
    )


class Tables:
    """What a `tables=` callable is given: enough of a connection to make and fill tables, inside the transaction."""

    def __init__(self, guard: Guard) -> None:
        self._guard: Guard | None = guard

    def execute(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        if self._guard is None:
            raise StatementRefused(
                "The schema has run, and its transaction is over. Use delivery.execute() in handlers."
            )
        check_script(sql)
        try:
            _, rows, _ = self._guard.run(sql, bind(parameters) if hasattr(parameters, "items") else tuple(parameters))
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise (refused(sql, error) if is_refusal(error) else error) from error
        return rows

    def executemany(self, sql: str, parameters: Any) -> None:
        for some in parameters:
            self.execute(sql, some)

    def executescript(self, script: str) -> None:
        for statement in statements(script):
            self.execute(statement)

    def end(self) -> None:
        self._guard = None
