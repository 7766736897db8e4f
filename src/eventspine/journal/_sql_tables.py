"""A service's own tables: its script runs once per version, as one transaction, whoever comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..errors import SettingsError, StatementRefused
from ._sql_apply import check_version

Script = str | Callable[[Any], None]


class ScriptFile(str):
    """The text of a file, which is named when it fails."""

    __slots__ = ("path",)
    path: str


class Dialect(NamedTuple):
    """How a store takes a service's schema."""

    run: Callable[[str, Any], list[tuple[Any, ...]]]  # one statement, which may be refused
    statements: Callable[[str], Iterable[str]]
    errors: tuple[type[Exception], ...]  # the store's own
    is_trouble: Callable[[Exception], bool]  # of the journal, of which no statement is to blame
    again: str  # how what runs once more is written


class Tables:
    """What a `tables=` callable is given: enough of a connection to make and fill tables, inside the transaction."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect: Dialect | None = dialect

    def execute(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        if self._dialect is None:
            raise StatementRefused(
                "The schema has run, and its transaction is over. Use delivery.execute() in handlers."
            )
        return self._dialect.run(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> None:
        for some in parameters:
            self.execute(sql, some)

    def executescript(self, script: str) -> None:
        for statement in self._dialect.statements(script) if self._dialect else [script]:
            self.execute(statement)

    def end(self) -> None:
        self._dialect = None


def run_tables(
    cursor: Any, dialect: Dialect, service: str, version: str, script: Script, now_us: int
) -> tuple[bool, bool]:
    check_version(cursor, now_us)
    query = "/*spine*/ select 1 from spine_tables where service = ? and version = ?"
    if cursor.execute(query, (service, version)).fetchone():
        return False, False
    query = "/*spine*/ select count(*) from spine_tables where service = ?"
    (before,) = cursor.execute(query, (service,)).fetchone()  # now: a failure may end the transaction
    try:
        _run(script, Tables(dialect))
    except StatementRefused as error:
        raise StatementRefused(f"{_whose(service, script)} failed: {error}", **error.details) from error
    except dialect.errors as error:
        if dialect.is_trouble(error):
            raise
        raise _failed(service, script, error, dialect.again if before else None) from error
    cursor.execute(
        "/*spine*/ insert into spine_tables (service, version, ran_us) values (?,?,?)", (service, version, now_us)
    )
    return True, False


def _run(script: Script, tables: Tables) -> None:
    if not callable(script):
        tables.executescript(script)
        return
    try:
        script(tables)
    finally:
        tables.end()


def _whose(service: str, script: Script) -> str:
    where = f" ({script.path})" if isinstance(script, ScriptFile) else ""
    return f"The tables= of the service {service!r}{where}"


def _failed(service: str, script: Script, error: Exception, again: str | None) -> SettingsError:
    changed = f" Another version of it has run here before, and a changed one runs once more, on what that has left: write {again}."
    return SettingsError(
        f"{_whose(service, script)} failed, and nothing of them was kept: {error}.{changed if again else ''}",
        service=service,
    )
