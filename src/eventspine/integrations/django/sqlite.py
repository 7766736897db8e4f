"""The journal in the file of one of the project's SQLite databases.

A transaction that writes has the write lock, and handlers take it before they read, so that no read of theirs can be stale.
One of them writes at a time, as SQLite has it; they take turns with all other writers of the journal rather than starve one
another. Waiting for the turn is not the handler's time (R4).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.db import transaction

from ...clock import SystemClock
from ...delivery import Delivery
from ...errors import SettingsError
from ...journal import _sql_registry as registry, _sqlite_within as within, migrations
from ...journal._sql_apply import SCHEMA_VERSION
from ...journal._sql_tables import Script, run_tables
from ...journal._sqlite_guard import Unguarded, as_unit_failed, bind, check_read
from ...journal._sqlite_tables import dialect
from ...journal._sqlite_within import TAKE_LOCK
from ...journal.doorbell import Bells
from ...journal.lockfile import TurnLock
from ...journal.port import Registration, Unit, Verdict
from ...journal.sqlite import SQLiteJournal
from ...service import Service, tables_script
from ...sync import Spine
from . import settings
from .store import Kind, Store, clear_all, driver_of, in_tests
from .within import in_transaction

_HAS_TABLES = "/*spine*/ select 1 from sqlite_master where type = 'table' and name = 'spine_meta'"
_VERSION = "/*spine*/ select value from spine_meta where name = 'schema_version'"


class _OnSqlite(Store):
    dialect = "sqlite"
    path: Path

    def is_same(self, journal: Any) -> bool:
        return getattr(journal, "path", None) == self.path

    @contextmanager
    def reading(self, wrapper: Any) -> Iterator[sqlite3.Cursor]:
        cursor = driver_of(wrapper).cursor()
        cursor.row_factory = None  # plain tuples, whatever the project has set on its connection
        with closing(cursor):
            yield cursor

    def query(self, wrapper: Any, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        check_read(sql)
        connection = driver_of(wrapper)
        try:
            _, rows, columns = Unguarded(connection).run(sql, bind(parameters))
        except Exception as error:
            raise as_unit_failed(error, sql) from error
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def lock(self, wrapper: Any, name: str | None = None) -> None:
        """The write lock, which keeps everybody else from anything that matters here."""
        with wrapper.wrap_database_errors:
            wrapper.connection.execute(TAKE_LOCK).close()

    def turn(self, delivery: Delivery[Any]) -> Any:
        return _our_turn(delivery, self.path)

    def clear(self, wrapper: Any) -> None:
        tables = {name for name in wrapper.introspection.table_names() if name.startswith("spine_")}
        clear_all(wrapper, sorted(tables - {"spine_meta", "spine_tables"}))

    def run_tables(self, wrapper: Any, service: str, version: str, script: Script) -> bool:
        return _run_tables(wrapper.connection, service, version, script, SystemClock().now_us())

    def register(self, wrapper: Any, registration: Registration) -> None:
        with self.reading(wrapper) as cursor:
            registry.register(cursor, registration, SystemClock().now_us())


class InFile(_OnSqlite):
    seen = False  # whether its tables are known to be there

    def __init__(self, url: str) -> None:
        self._journal = SQLiteJournal(url)  # never opened: it only says how to write on a connection
        self.path, self.url = self._journal.path, self._journal.url

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        return self._journal.write_within(connection, unit)

    def ring_after_commit(self, wrapper: Any) -> None:
        blocks = wrapper.atomic_blocks
        in_test_case = bool(blocks) and blocks[0]._from_testcase  # it never commits, and counts the callbacks that wait
        if wrapper.in_atomic_block and not in_test_case:
            wrapper.on_commit(partial(_ring, self.path), robust=True)


class InMemory(_OnSqlite):
    """The journal's tables in a test's database in memory. No engine can run on it; `testing` runs the handlers."""

    id = url = "memory"
    path = Path(":memory:")

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        return within.write_unchecked(connection, unit, self.path, SystemClock().now_us())

    def ring_after_commit(self, wrapper: Any) -> None:
        """There is nobody else."""


class Sqlite(Kind):
    def check(self, wrapper: Any) -> None:
        if settings.read().schema:
            raise SettingsError(
                "EVENTSPINE['SCHEMA'] is for PostgreSQL; a SQLite file has no schemas, and one journal. Leave it out."
            )

    def url_of(self, wrapper: Any) -> str:
        path = path_of(wrapper)
        if path is None:
            raise SettingsError(
                f"The database {wrapper.alias!r} is in memory, where no other thread or process finds the journal. "
                "Give it a file: DATABASES[...]['NAME'] = BASE_DIR / 'db.sqlite3'; in tests TEST = {'NAME': BASE_DIR / "
                "'test.sqlite3'}, or call self.handle() of eventspine.integrations.django.testing."
            )
        return f"sqlite:///{path}"

    def store_of(self, wrapper: Any) -> Store:
        if path_of(wrapper) is not None:
            store = _in_file(self.url_of(wrapper))
            if not store.seen:
                self._see(wrapper, store)
            return store
        if not in_tests():
            self.url_of(wrapper)  # refuses: outside of tests an event in memory is an event lost
        if not _has_tables(driver_of(wrapper)):
            _make_on(wrapper)
        return InMemory()

    def make(self, wrapper: Any, services: Sequence[Service[Any]]) -> None:
        if path_of(wrapper) is None or in_tests():
            _make_on(wrapper, services)
            return
        url = self.url_of(wrapper)
        with Spine(url):
            for service in services:
                Spine(url, service=service).open().close()

    def make_first(self, wrapper: Any) -> bool:
        """On Django's connection, which may have made the file just now."""
        if _has_tables(driver_of(wrapper)):
            return False
        _make_on(wrapper)
        return True

    def _see(self, wrapper: Any, store: InFile) -> None:
        if not _is_current(driver_of(wrapper)):
            if in_transaction(wrapper):
                raise SettingsError(
                    f"{store.path} has no tables of the journal yet, or those of an older release, and they can't be made "
                    f"inside of your transaction. Run `python manage.py migrate` first; it makes them."
                )
            self.make(wrapper, ())
        store.seen = True


def path_of(wrapper: Any) -> Path | None:
    """The file; None where the database is in memory. Tests give a connection another name, so it is asked, each time."""
    name = str(wrapper.settings_dict["NAME"])
    if wrapper.is_in_memory_db():
        return None
    return Path(os.path.realpath(unquote(urlsplit(name).path) if name.startswith("file:") else name))


@lru_cache(maxsize=8)
def _in_file(url: str) -> InFile:
    return InFile(url)


def _is_current(connection: sqlite3.Connection) -> bool:
    ours = max((SCHEMA_VERSION, *(migration.version for migration in migrations.MIGRATIONS)))
    return _has_tables(connection) and int(_rows_of(connection, _VERSION)[0][0]) >= ours


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(_rows_of(connection, _HAS_TABLES))


def _rows_of(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.row_factory = None
    with closing(cursor):
        return cursor.execute(sql).fetchall()


def _make_on(wrapper: Any, services: Sequence[Service[Any]] = ()) -> None:
    """On Django's own connection. Also in the file of a test: Django copies it for parallel tests, and would miss what is
    in the write-ahead log, which an open journal begins."""
    now_us = SystemClock().now_us()
    with transaction.atomic(using=wrapper.alias):
        connection: sqlite3.Connection = wrapper.connection
        migrations.prepare(connection, now_us)
        for service in services:
            assert service.tables is not None
            version, script = tables_script(service.tables)
            _run_tables(connection, service.name, version, script, now_us)


def _run_tables(connection: sqlite3.Connection, service: str, version: str, script: Script, now_us: int) -> bool:
    return run_tables(connection.cursor(), dialect(Unguarded(connection)), service, version, script, now_us)[0]


def _ring(path: Path) -> None:
    """Tell the processes that run handlers that there is something new; they would look by themselves, a little later."""
    with closing(Bells(path)) as bells:  # not kept: a worker may fork, and has few to tell
        bells.ring()


# --- turns --------------------------------------------------------------------------------------------------------------


@contextmanager
def _our_turn(delivery: Delivery[Any], path: Path) -> Iterator[None]:
    turn = _turn(path, os.getpid())
    item, clock = delivery._item, delivery._subscription.clock
    started, asked = item.started, clock.monotonic()
    item.started = 0.0
    with turn:
        if started:
            item.started = started + clock.monotonic() - asked
        yield


class _Turn:
    """The journal's turn lock, for many threads of this process."""

    def __init__(self, path: Path) -> None:
        self._here = threading.Lock()
        self._everywhere = TurnLock(Path(f"{path}-lock"))

    def __enter__(self) -> None:
        self._here.acquire()
        try:
            self._everywhere.take()
        except BaseException:
            self._here.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._everywhere.give_back()
        finally:
            self._here.release()


@lru_cache(maxsize=8)
def _turn(path: Path, _pid: int) -> _Turn:
    """A forked child has one of its own: it would share its parent's turn, and end it."""
    return _Turn(path)
