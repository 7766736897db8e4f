"""`within=` and `delivery.join` with SQLAlchemy: Session, AsyncSession, Connection, AsyncConnection.

The unit is written on the driver's connection that the session or connection has checked out, in its transaction, so it
is committed or rolled back with the caller's rows, nested transactions included. A session is flushed first: the rows
it holds back are written before the events about them, and a row that is refused refuses the events.

Two things to set up where the engine and its sessions are made, each for one mistake that can't be seen afterwards:
`begin_immediate(engine)`, so that what a transaction has read still holds when it writes; and
`refuse_dual_writes(sessions)`, so that an event is not published beside uncommitted rows when `within=` was forgotten.

And for who would rather write expressions than SQL as text: `as_sql(select(...))` is what `delivery.execute`, `query` and
views take, with each value as a session would store it, and `view_table(View)` has the columns of a view.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from ..errors import DeclarationError, SettingsError
from ..within import AsyncCarrier, Carrier
from ._sqlalchemy_dual_writes import refuse_dual_writes
from .aiosqlite import in_its_thread

if TYPE_CHECKING:
    from sqlalchemy import Connection, Dialect, Engine, Executable, TableClause
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["as_sql", "begin_immediate", "refuse_dual_writes", "view_table"]  # beside what `within=` finds by itself

T = TypeVar("T")
READ_ONLY = "spine_read_only"

_BEGIN_ITSELF = (
    'With SQLAlchemy it does so where isolation_level="AUTOCOMMIT" was set: leave that out of create_engine(...), or take '
    'engine.execution_options(isolation_level="READ COMMITTED") here.'
)
_BEGIN_FIRST = "With SQLAlchemy: eventspine.integrations.sqlalchemy.begin_immediate(engine), once, where it is made."


class OfConnection(Carrier):
    kind = "Connection"
    begin_first = _BEGIN_FIRST
    begin_itself = _BEGIN_ITSELF

    def connection(self) -> Any:
        return _driver(self.within)

    def roll_back(self) -> None:
        self.within.rollback()


class OfSession(Carrier):
    """Also of a scoped_session, such as Flask-SQLAlchemy's `db.session`."""

    kind = "Session"
    begin_first = _BEGIN_FIRST
    begin_itself = _BEGIN_ITSELF

    def connection(self) -> Any:
        self.within.flush()
        with _telling_which():
            connection = self.within.connection()
        return _driver(connection)

    def roll_back(self) -> None:
        """Also the connection that it was given, if it was: a session that began in a savepoint of it gives back no more."""
        self.within.rollback()
        if hasattr(self.within.bind, "rollback"):
            self.within.bind.rollback()


class OfAsyncConnection(AsyncCarrier):
    kind = "AsyncConnection"
    begin_first = _BEGIN_FIRST
    begin_itself = _BEGIN_ITSELF

    async def write_async(self, work: Callable[[Any], T]) -> T:
        return await _write_async(self.within, work)


class OfAsyncSession(AsyncCarrier):
    kind = "AsyncSession"
    begin_first = _BEGIN_FIRST
    begin_itself = _BEGIN_ITSELF

    async def write_async(self, work: Callable[[Any], T]) -> T:
        await self.within.flush()
        with _telling_which():
            connection = await self.within.connection()
        return await _write_async(connection, work)

    async def roll_back_async(self) -> None:
        await self.within.rollback()
        if hasattr(self.within.bind, "rollback"):
            await self.within.bind.rollback()


@contextmanager
def _telling_which() -> Iterator[None]:
    """A session that is bound by class only has no connection of its own."""
    from sqlalchemy.exc import UnboundExecutionError

    try:
        yield
    except UnboundExecutionError as error:
        raise SettingsError(
            "This session has several engines, and none that is meant when nothing is said. Flush it, then pass the "
            "connection of the one on the journal's file: within=session.connection(bind_arguments={'mapper': ...})."
        ) from error


def _driver(connection: Any) -> Any:
    """SQLAlchemy must know of the transaction, or its `commit()` would do nothing."""
    if not connection.in_transaction():
        connection.begin()
    return _checked(connection.connection.driver_connection, nested=connection.in_nested_transaction())


async def _write_async(connection: Any, work: Callable[[Any], T]) -> T:
    if not connection.in_transaction():
        await connection.begin()
    driver = (await connection.get_raw_connection()).driver_connection
    if type(driver).__module__.partition(".")[0] in ("psycopg", "asyncpg"):
        return await _write_to_postgres(connection, driver, work)
    if type(driver).__module__.partition(".")[0] != "aiosqlite":  # the journal says what it takes
        return work(driver)
    nested = connection.in_nested_transaction()
    return await in_its_thread(driver, lambda raw: work(_checked(raw, nested=nested)))


async def _write_to_postgres(connection: Any, driver: Any, work: Callable[[Any], T]) -> T:
    from ..journal._postgres_bridge import write_beside

    await connection.exec_driver_sql("select 1")  # with asyncpg, the first statement is what begins
    return await write_beside(driver, work)


def _checked(driver: Any, *, nested: bool) -> Any:
    """With SQLite: Python begins no transaction before a SAVEPOINT, and SQLite commits when the outermost one is released."""
    if (
        nested
        and isinstance(driver, sqlite3.Connection)
        and driver.isolation_level is not None
        and getattr(driver, "autocommit", -1) == -1
    ):
        raise SettingsError(
            "This is a nested transaction, and with Python's own transaction control its end may commit what the outer one "
            "could still roll back. Have transactions begin with BEGIN IMMEDIATE, or write in the outer one."
        )
    return driver


# --- expressions --------------------------------------------------------------------------------------------------------


def as_sql(statement: Executable, dialect: Literal["sqlite", "postgresql"] = "sqlite") -> tuple[str, dict[str, Any]]:
    """A `select`, `insert`, `update` or `delete` as text with `:name` parameters, and their values, for the journal's
    database: `sql, values = as_sql(...)`, then `delivery.execute(sql, **values)`.

    Text and values are those that a session would send: each value as the type of its column stores it, and the defaults
    (`default=`, `onupdate=`) that are made in Python."""
    import sqlalchemy as sa

    spoken, given = _spoken(dialect), cast(Any, statement)
    if not isinstance(given, sa.Executable) or isinstance(given, sa.schema.ExecutableDDLElement):
        raise DeclarationError(
            f"as_sql takes a statement of SQLAlchemy's: select(...), insert(...), update(...), delete(...). This is {given!r:.80}. "
            "SQL as text needs no as_sql: it is given to execute or query as it is."
        )
    # No keys: as in a session that is given no values beside the statement.
    compiled = cast(Any, given).compile(dialect=spoken, column_keys=[])
    nowhere: Any = _Unconnected(spoken)
    sent: Any = spoken.execution_ctx_cls._init_compiled(
        spoken, nowhere, nowhere, compiled.execution_options, compiled, [], statement, None
    )
    return sent.statement, dict(sent.parameters[0])


@cache
def _spoken(dialect: str) -> Dialect:
    """Without its driver, and so without the driver's own wrappers of values; the PostgreSQL of psycopg, which the journal has."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

        return SQLiteDialect_pysqlite(paramstyle="named")
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        spoken: Dialect = PGDialect_psycopg(paramstyle="named")  # type: ignore[no-untyped-call]
        return spoken
    meant = " Perhaps 'postgresql'?" if str(dialect).startswith("p") else ""
    raise DeclarationError(f"as_sql speaks 'sqlite' and 'postgresql', and no {dialect!r}.{meant}")


class _Unconnected:
    """What SQLAlchemy asks of a connection while it makes ready what it would send: nothing is run."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def cursor(self) -> None: ...


def view_table(view: type[Any], name: str | None = None) -> TableClause:
    """A view's columns, to build expressions on: for `view.query` under its own name; in its projection, where the table is
    that of one version, `view_table(View, view.table)`."""
    from sqlalchemy import column, table

    from ..state.views import describe_view

    described, kept = describe_view(view), _kept()
    columns = [column(one.name, kept(one.store if one.kind == "time" else None)) for one in described.columns]
    return table(name or described.name, *columns)


@cache
def _kept() -> Any:
    """The type of a view's column: values are left to the journal, which binds them as it does those beside text. But for times,
    which SQLite compares as texts: they are in the form of the column."""
    from sqlalchemy import String
    from sqlalchemy.sql.operators import add, concat_op
    from sqlalchemy.types import NullType

    class Kept(NullType):
        def __init__(self, store: Callable[[Any], Any] | None) -> None:
            self.store = store

        def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
            return self._stored if self.store is not None and dialect.name == "sqlite" else None

        def _stored(self, value: Any) -> Any:
            return self.store(value) if self.store is not None and isinstance(value, datetime) else value

        def coerce_compared_value(self, op: Any, value: Any) -> Any:
            return String() if op in (add, concat_op) and isinstance(value, str) else self  # a text is added by ||

    return Kept


# --- setting up an engine -----------------------------------------------------------------------------------------------


def begin_immediate(engine: Engine | AsyncEngine) -> None:
    """Begin this engine's transactions with BEGIN IMMEDIATE: they take the write lock before they read, so that what
    they have read still holds when they write, and savepoints are SQLite's own. As the driver comes, it begins at the
    first write: what was read before may be out of date by then.

    Who only reads needs no lock: `engine.execution_options(spine_read_only=True)` begins without. With the option
    `isolation_level="AUTOCOMMIT"`, as for VACUUM, nothing begins."""
    from sqlalchemy import event

    event.listen(getattr(engine, "sync_engine", engine), "begin", _begin)


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    driver: Any = connection.connection.dbapi_connection
    if driver.isolation_level is not None:  # else Python would begin, too
        driver.isolation_level = None
    connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY) else "BEGIN IMMEDIATE")
