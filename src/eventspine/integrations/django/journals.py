"""The journal of the project: tables in the file of one of its databases.

`migrate` makes the tables, and so does whoever publishes first outside of a transaction. What is published later needs
nothing but Django's own connection.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.db import connections, transaction
from django.test import utils as testing

from ...clock import SystemClock
from ...errors import SettingsError
from ...journal import _sqlite_within as within, migrations
from ...journal._sql_apply import SCHEMA_VERSION
from ...journal._sql_tables import run_tables
from ...journal._sqlite_guard import Unguarded
from ...journal._sqlite_tables import dialect
from ...journal.doorbell import Bells
from ...journal.port import Unit, Verdict
from ...journal.sqlite import SQLiteJournal
from ...service import Service, tables_script
from ...sync import Spine
from . import settings
from .within import check_sqlite, in_transaction

_HAS_TABLES = "/*spine*/ select 1 from sqlite_master where type = 'table' and name = 'spine_meta'"
_VERSION = "/*spine*/ select value from spine_meta where name = 'schema_version'"


class InMemory:
    """The journal's tables in a test's database in memory. No engine can run on it; `testing` runs the handlers."""

    id = url = "memory"
    path = Path(":memory:")

    def write_within(self, connection: sqlite3.Connection, unit: Unit) -> Verdict:
        return within._write(connection, unit, self.path, SystemClock().now_us())


Journal = SQLiteJournal | InMemory


def wrapper() -> Any:
    """Django's connection, of this thread, to the database that has the journal."""
    alias = settings.read().database
    if alias not in connections:
        raise SettingsError(f"EVENTSPINE['DATABASE'] is {alias!r}; DATABASES has {', '.join(connections)}.")
    found = connections[alias]
    check_sqlite(found)
    return found


def path_of(wrapper: Any) -> Path | None:
    """The file; None where the database is in memory. Tests give a connection another name, so it is asked, each time."""
    name = str(wrapper.settings_dict["NAME"])
    if wrapper.is_in_memory_db():
        return None
    return Path(os.path.realpath(unquote(urlsplit(name).path) if name.startswith("file:") else name))


def url_of(wrapper: Any) -> str:
    path = path_of(wrapper)
    if path is None:
        raise SettingsError(
            f"The database {wrapper.alias!r} is in memory, where no other thread or process finds the journal. "
            "Give it a file: DATABASES[...]['NAME'] = BASE_DIR / 'db.sqlite3'; in tests TEST = {'NAME': BASE_DIR / "
            "'test.sqlite3'}, or call self.handle() of eventspine.integrations.django.testing."
        )
    return f"sqlite:///{path}"


def journal_of(wrapper: Any) -> Journal:
    """Ready to be written to on this connection."""
    if path_of(wrapper) is not None:
        journal = _journal(url_of(wrapper))
        if not journal.seen:
            _see(wrapper, journal)
        return journal
    if not in_tests():
        url_of(wrapper)  # refuses: outside of tests an event in memory is an event lost
    wrapper.ensure_connection()
    if not _has_tables(wrapper.connection):
        _make_on(wrapper)
    return InMemory()


class _Seen(SQLiteJournal):
    """Never opened: it only says how to write on a connection."""

    seen = False  # whether its tables are known to be there


@lru_cache(maxsize=8)
def _journal(url: str) -> _Seen:
    return _Seen(url)


def _see(wrapper: Any, journal: _Seen) -> None:
    wrapper.ensure_connection()
    if not _is_current(wrapper.connection):
        if in_transaction(wrapper):
            raise SettingsError(
                f"{journal.path} has no tables of the journal yet, or those of an older release, and they can't be made "
                f"inside of your transaction. Run `python manage.py migrate` first; it makes them."
            )
        make(wrapper)
    journal.seen = True


def _is_current(connection: sqlite3.Connection) -> bool:
    ours = max((SCHEMA_VERSION, *(migration.version for migration in migrations.MIGRATIONS)))
    return _has_tables(connection) and int(rows_of(connection, _VERSION)[0][0]) >= ours


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(rows_of(connection, _HAS_TABLES))


def rows_of(connection: sqlite3.Connection, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """As plain tuples, whatever the project has set on its connection."""
    cursor = connection.cursor()
    cursor.row_factory = None
    with closing(cursor):
        return cursor.execute(sql, values).fetchall()


def make(wrapper: Any, services: Sequence[Service[Any]] = ()) -> None:
    """The journal's tables, and those of services that have some; what is there stays as it is."""
    wanting = [service for service in services if service.tables is not None]
    if path_of(wrapper) is None or in_tests():
        _make_on(wrapper, wanting)
        return
    url = url_of(wrapper)
    with Spine(url):
        for service in wanting:
            Spine(url, service=service).open().close()


def make_first(wrapper: Any) -> bool:
    """The journal's tables, where there are none: on Django's connection, which may have made the file just now. Whether."""
    wrapper.ensure_connection()
    if _has_tables(wrapper.connection):
        return False
    _make_on(wrapper)
    return True


def in_tests() -> bool:
    return hasattr(testing._TestState, "saved_data")


def _make_on(wrapper: Any, wanting: Sequence[Service[Any]] = ()) -> None:
    """On Django's own connection. Also in the file of a test: Django copies it for parallel tests, and would miss what is
    in the write-ahead log, which an open journal begins."""
    now_us = SystemClock().now_us()
    with transaction.atomic(using=wrapper.alias):
        connection: sqlite3.Connection = wrapper.connection
        migrations.prepare(connection, now_us)
        for service in wanting:
            assert service.tables is not None
            version, script = tables_script(service.tables)
            run_tables(connection.cursor(), dialect(Unguarded(connection)), service.name, version, script, now_us)


def ring(path: Path) -> None:
    """Tell the processes that run handlers that there is something new; they would look by themselves, a little later."""
    with closing(Bells(path)) as bells:  # not kept: a worker may fork, and has few to tell
        bells.ring()


def ring_after_commit(wrapper: Any, journal: Journal) -> None:
    blocks = wrapper.atomic_blocks
    in_test_case = bool(blocks) and blocks[0]._from_testcase  # it never commits, and counts the callbacks that wait
    if isinstance(journal, SQLiteJournal) and wrapper.in_atomic_block and not in_test_case:
        wrapper.on_commit(partial(ring, journal.path), robust=True)
