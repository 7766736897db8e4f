"""A service's own tables on PostgreSQL: its script runs once per version, as one transaction, whoever comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from ..errors import SettingsError, StatementRefused
from ._postgres_connect import is_lost, is_passing
from ._postgres_sql import Cursor, Guard, bind, check_schema, statements
from ._sqlite_apply import check_version


def run_tables(
    cursor: Cursor, service: str, version: str, script: str | Callable[[Any], None], now_us: int
) -> tuple[bool, bool]:
    check_version(cursor, now_us)  # type: ignore[arg-type]
    query = "/*spine*/ select 1 from spine_tables where service = ? and version = ?"
    if cursor.execute(query, (service, version)).fetchone():
        return False, False
    before = cursor.execute("/*spine*/ select count(*) from spine_tables where service = ?", (service,)).fetchone()[0]
    try:
        _run(script, Tables(Guard(cursor.connection)))
    except psycopg.Error as error:
        if is_lost(error) or is_passing(error):
            raise
        raise _failed(service, error, again=before > 0) from error
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


def _failed(service: str, error: Exception, *, again: bool) -> SettingsError:
    changed = (
        " Another version of it has run here before, and a changed one runs once more, on what that has left: write `create "
        "table if not exists`, `insert ... on conflict do nothing`, `alter table ... add column if not exists`."
    )
    return SettingsError(
        f"The tables= of the service {service!r} failed, and nothing of them was kept: {error}.{changed if again else ''}",
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
        check_schema(sql)
        _, rows, _ = self._guard.run(sql, bind(parameters) if hasattr(parameters, "items") else tuple(parameters))
        return rows

    def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        for some in parameters:
            self.execute(sql, some)

    def executescript(self, script: str) -> None:
        for statement in statements(script):
            self.execute(statement)

    def end(self) -> None:
        self._guard = None
