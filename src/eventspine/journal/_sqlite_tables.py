"""A service's own tables: its script runs once per version, as one transaction, whoever comes first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from ..errors import StatementRefused
from ._sqlite_apply import check_version
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
    tables = Tables(guard)
    if callable(script):
        try:
            script(tables)
        finally:
            tables.end()
    else:
        tables.executescript(script)
    cursor.execute(
        "/*spine*/ insert into spine_tables (service, version, ran_us) values (?,?,?)", (service, version, now_us)
    )
    return True, False


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
