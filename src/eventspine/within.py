"""A transaction of the caller's, from whatever the caller has in hand: `within=` and `delivery.join(...)` (R21).

A `Carrier` finds the driver's own connection behind a session, a wrapper or an alias, and runs work on it in the thread
to which that connection belongs. It begins a transaction only where its library would begin one by itself, at the first
statement, and commits nothing. What it is given is known by its class's name, so no library is imported that the
program itself does not use; for the same reason each library's carrier stands in a module of its own.

A carrier of your own is a subclass of `Carrier` with a line in `KINDS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar

from .errors import JournalBusy, SettingsError
from .journal.port import Journal, Unit, Verdict
from .wording import BEGIN_ONE

T = TypeVar("T")

# Asked before something is published without within=: whether a transaction of this task or thread forbids it.
beside: ContextVar[tuple[Any, ...]] = ContextVar("eventspine_beside", default=())


class Awaiting(Protocol):
    """To type checkers, what is used by awaiting: AsyncSession, AsyncConnection, aiosqlite's connection."""

    def commit(self) -> Coroutine[Any, Any, None]: ...


class Carrier:
    """A plain connection of the driver's, such as `sqlite3.connect(...)`, used in the thread that calls."""

    kind = "connection"  # in messages
    begin_first = ""  # in messages: how to take the write lock first, in the words of this library
    begin_itself = ""  # in messages: how to have it begin transactions, where each statement is one
    is_async = False

    def __init__(self, within: Any) -> None:
        self.within = within

    def connection(self) -> Any:
        """The driver's connection, in the caller's transaction, with everything written that the caller has pending."""
        return self.within

    def check_blocking(self) -> None:
        """Raise where this can only be used by awaiting."""

    def write(self, work: Callable[[Any], T]) -> T:
        return work(self.connection())

    async def write_async(self, work: Callable[[Any], T]) -> T:
        return self.write(work)

    def roll_back(self) -> None:
        """End the caller's transaction, at once and as a whole: nothing that was written in it stays, and its locks are free,
        whatever the caller does next. It is safe where there is none."""
        roll_back(self.connection())

    async def roll_back_async(self) -> None:
        self.roll_back()


def roll_back(connection: Any) -> None:
    """A blocking connection of sqlite3 or psycopg. Their `rollback()` is refused inside psycopg's `transaction()`, and does
    nothing where sqlite3 has `autocommit=True`; SQL of our own is taken everywhere else."""
    import sqlite3  # here, since a program that gives no transaction of its own may do without

    if isinstance(connection, sqlite3.Connection):
        connection.rollback()
        if connection.in_transaction and getattr(connection, "autocommit", None) is True:
            connection.execute("rollback").close()
    else:
        connection.execute("rollback")


class AsyncCarrier(Carrier):
    """One whose connection is used by awaiting; subclasses override `write_async`, and `roll_back_async` where that is not the
    `rollback()` of what they were given."""

    is_async = True

    def connection(self) -> Any:
        self.check_blocking()

    def check_blocking(self) -> None:
        raise SettingsError(
            f"An asynchronous {self.kind} is written on by awaiting: `await spine.publish(..., within=...)` of "
            f"eventspine.Spine, `await delivery.join(...)` in an `async def` handler. Without a loop use a blocking one."
        )

    async def roll_back_async(self) -> None:
        await self.within.rollback()


# Class, by any of its bases → module:carrier. The first that fits, in the class's method resolution order.
KINDS: Final[dict[str, str]] = {
    "sqlite3.Connection": "eventspine.within:Carrier",
    "psycopg.Connection": "eventspine.within:Carrier",
    "psycopg.AsyncConnection": "eventspine.integrations.postgres:OfPostgres",
    "asyncpg.connection.Connection": "eventspine.integrations.postgres:OfPostgres",
    "asyncpg.pool.PoolConnectionProxy": "eventspine.integrations.postgres:OfPooled",
    "aiosqlite.core.Connection": "eventspine.integrations.aiosqlite:OfAiosqlite",
    "sqlalchemy.orm.session.Session": "eventspine.integrations.sqlalchemy:OfSession",
    "sqlalchemy.orm.scoping.scoped_session": "eventspine.integrations.sqlalchemy:OfSession",
    "sqlalchemy.engine.base.Connection": "eventspine.integrations.sqlalchemy:OfConnection",
    "sqlalchemy.ext.asyncio.session.AsyncSession": "eventspine.integrations.sqlalchemy:OfAsyncSession",
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": "eventspine.integrations.sqlalchemy:OfAsyncSession",
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": "eventspine.integrations.sqlalchemy:OfAsyncConnection",
    "django.db.backends.base.base.BaseDatabaseWrapper": "eventspine.integrations.django.within:OfDjango",
    "django.utils.connection.ConnectionProxy": "eventspine.integrations.django.within:OfDjango",
}
ALIAS: Final = "eventspine.integrations.django.within:OfDjango"  # a text is the alias of a database of Django's


def carrier_of(within: Any) -> Carrier:
    found = _named(within)
    if found is None:
        raise SettingsError(
            f"within= and join() take a transaction of yours: a connection of sqlite3, aiosqlite, psycopg or asyncpg, an SQLAlchemy Session or "
            f"Connection (also asynchronous), Django's connection or its alias. This is a {type(within).__qualname__}."
        )
    module, _, name = found.partition(":")
    carrier: Carrier = getattr(import_module(module), name)(within)
    return carrier


def _named(within: Any) -> str | None:
    if isinstance(within, str):
        return ALIAS if "django" in sys.modules else None
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(within).__mro__)
    return next((KINDS[name] for name in names if name in KINDS), None)


def write(carrier: Carrier, journal: Journal, unit: Unit) -> Verdict:
    """Write the unit in the caller's transaction, from the caller's thread."""
    with _in_its_words(carrier):
        return carrier.write(lambda connection: journal.write_within(connection, unit))


async def write_async(carrier: Carrier, journal: Journal, unit: Unit) -> Verdict:
    """The same, from an event loop; an asynchronous connection is used where it lives."""
    with _in_its_words(carrier):
        return await carrier.write_async(lambda connection: journal.write_within(connection, unit))


@contextmanager
def opening(within: Any) -> Iterator[None]:
    """A journal that has to be made at its first use can't be, while the caller's own transaction holds the file."""
    try:
        yield
    except JournalBusy as error:
        if within is None:
            raise
        raise JournalBusy(
            f"The journal was to be made or brought up to date at this first use, and that can't be done inside a "
            f"transaction of yours: open the spine before you begin one, with spine.open() or its `with` block. ({error})",
            **error.details,
        ) from error


@contextmanager
def _in_its_words(carrier: Carrier) -> Iterator[None]:
    """The journal speaks of SQL; who uses a library on top of it is told what that is there."""
    try:
        yield
    except (JournalBusy, SettingsError) as error:
        if carrier.begin_first and "BEGIN IMMEDIATE" in str(error):
            error.args = (f"{error} {carrier.begin_first}",)
        if carrier.begin_itself and BEGIN_ONE in str(error):
            error.args = (str(error).replace(BEGIN_ONE, carrier.begin_itself),)
        raise
