"""The journal in one of the project's PostgreSQL databases, by psycopg 3.

Handlers write side by side: what they read may be changed by others until they lock it (`select_for_update`, `F(...)`), as
everywhere in PostgreSQL. What was handled is written last, under row locks that are held until COMMIT; two that would settle the
same event meet there, and the second is fenced. Whoever listens hears of it when the transaction commits, and only then.

Where the tables are is asked once of each connection that Django makes, unless `EVENTSPINE["SCHEMA"]` says it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary

from django.db import transaction

from ...clock import SystemClock
from ...errors import SettingsError
from ...journal import _postgres_calls as calls, _sql_read as read
from ...journal._postgres_connect import Target, opening, quoted, target_of
from ...journal._postgres_readers import queried
from ...journal._postgres_schema import Identity, identity, prepare, schema_of, signed
from ...journal._postgres_sql import Cursor
from ...journal._postgres_tables import dialect
from ...journal._postgres_within import write_within
from ...journal._sql_tables import Script, run_tables
from ...journal.port import Registration, Unit, Verdict
from ...service import Service, tables_script
from . import settings
from .store import Kind, Store, clear_all, driver_of
from .within import in_transaction

_TURNS = 0x7370_7475  # the advisory lock of one command or aggregate, with a number of its name
_NOT_LIBPQS = {"autocommit", "client_encoding", "context", "cursor_factory", "prepare_threshold", "row_factory"}
_PLAIN_HOST = re.compile(r"[A-Za-z0-9._-]+")  # no folder of a socket, and not several
_KEPT = {"spine_meta", "spine_tables"}

# Of each connection of the driver's, by what EVENTSPINE["SCHEMA"] was.
_seen: WeakKeyDictionary[Any, dict[str, Identity]] = WeakKeyDictionary()


class OnPostgres(Store):
    dialect = "postgresql"

    def __init__(self, target: Target, identity: Identity) -> None:
        self.id, self.url = identity.id, target.shown
        self._target, self._identity = target, identity

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        return write_within(connection, unit, self._target, self._identity, SystemClock().now_us())

    def is_same(self, journal: Any) -> bool:
        return getattr(journal, "id", None) == self.id

    @contextmanager
    def reading(self, wrapper: Any) -> Iterator[Cursor]:
        connection = driver_of(wrapper)
        with wrapper.wrap_database_errors:
            yield Cursor(connection, self._identity.schema)

    def query(self, wrapper: Any, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        path = f"{self._identity.schema}, public" if self._target.schema else None
        return queried(driver_of(wrapper), sql, parameters, path)

    def lock(self, wrapper: Any, name: str | None = None) -> None:
        """Two that are sent the same command, or change the same aggregate, do it one after the other, and the second finds what
        the first has done."""
        if name is None:
            return
        number = signed(zlib.crc32(f"{self.id} {name}".encode("utf-8", "surrogatepass")))
        with wrapper.wrap_database_errors:
            Cursor(wrapper.connection, "").run("select pg_advisory_xact_lock(%s, %s)", (_TURNS, number))

    def ring_after_commit(self, wrapper: Any) -> None:
        """The notification is part of the transaction."""

    def clear(self, wrapper: Any) -> None:
        of_schema = (
            "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'r'"
        )
        query = f"{of_schema} and quote_ident(n.nspname) = any(%s) and c.relname like 'spine\\_%%'"
        schema = self._identity.schema
        with self.reading(wrapper) as cursor:
            names = cursor.run(query, ([schema, schema.strip('"')],)).fetchall()
        clear_all(wrapper, [name for (name,) in names if name not in _KEPT], f"{schema}.")

    def run_tables(self, wrapper: Any, service: str, version: str, script: Script) -> bool:
        cursor = Cursor(driver_of(wrapper), self._identity.schema)
        return _run_tables(cursor, self._target, service, version, script, SystemClock().now_us())

    def searching(self, wrapper: Any) -> AbstractContextManager[None]:
        return _searching(Cursor(driver_of(wrapper), self._identity.schema), self._target)

    def register(self, wrapper: Any, registration: Registration) -> None:
        with self.reading(wrapper) as cursor:
            calls.register(cursor, registration, SystemClock().now_us(), read.head(cursor))  # type: ignore[arg-type]


class Postgres(Kind):
    def check(self, wrapper: Any) -> None:
        """`target_of` refuses what can't be an option of the journal's."""
        target_of(self.url_of(wrapper))

    def url_of(self, wrapper: Any) -> str:
        """What Django connects with, in a URL."""
        options = {name: value for name, value in wrapper.get_connection_params().items() if name not in _NOT_LIBPQS}
        database, user = options.pop("dbname", ""), options.pop("user", "")
        password = options.pop("password", None)
        who = quote(user, safe="") + ("" if password is None else f":{quote(str(password), safe='')}")
        where = ""
        if _PLAIN_HOST.fullmatch(str(options.get("host", ""))) and str(options.get("port", "1")).isdecimal():
            where = ":".join(str(options.pop(name)) for name in ("host", "port") if name in options)
        journal = {
            "schema": settings.read().schema,
            "role": wrapper.settings_dict["OPTIONS"].get("assume_role"),
            # By which a project says that there is a pooler between, which may not keep statements of a session's.
            "prepare": "off" if wrapper.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS") else "",
        }
        query = urlencode({**options, **{name: value for name, value in journal.items() if value}}, quote_via=quote)
        return f"postgresql://{who}{'@' if who else ''}{where}/{quote(database or '', safe='')}{'?' if query else ''}{query}"

    def store_of(self, wrapper: Any) -> Store:
        seen, schema = _seen.setdefault(driver_of(wrapper), {}), settings.read().schema
        target = target_of(self.url_of(wrapper))
        if schema not in seen:
            wrapper.validate_no_broken_transaction()
            seen[schema] = self._see(wrapper, target)
        return OnPostgres(target, seen[schema])

    def make(self, wrapper: Any, services: Sequence[Service[Any]]) -> None:
        self._make(wrapper, target_of(self.url_of(wrapper)), services)

    def make_first(self, wrapper: Any) -> bool:
        target = target_of(self.url_of(wrapper))
        return _found(wrapper, target) is None and self._make(wrapper, target)

    def _see(self, wrapper: Any, target: Target) -> Identity:
        found = _found(wrapper, target)
        if found is not None:
            return found
        if in_transaction(wrapper):
            raise SettingsError(
                f"The database {wrapper.alias!r} has no tables of the journal yet, or those of an older release, and they are "
                "not made inside of your transaction. Run `python manage.py migrate` first; it makes them."
            )
        self._make(wrapper, target)
        found = _found(wrapper, target)
        assert found is not None
        return found

    def _make(self, wrapper: Any, target: Target, services: Sequence[Service[Any]] = ()) -> bool:
        """On Django's own connection, which may be the only one that a test database should have."""
        connection, now_us = driver_of(wrapper), SystemClock().now_us()
        with opening(target):
            schema = schema_of(connection, target)
            made = prepare(connection, target, schema, now_us)
            for service in services:
                assert service.tables is not None
                version, script = tables_script(service.tables)
                with transaction.atomic(using=wrapper.alias):
                    _run_tables(Cursor(connection, schema), target, service.name, version, script, now_us)
        return made


def _run_tables(cursor: Cursor, target: Target, service: str, version: str, script: Script, now_us: int) -> bool:
    with _searching(cursor, target):
        return run_tables(cursor, dialect(cursor), service, version, script, now_us)[0]


@contextmanager
def _searching(cursor: Cursor, target: Target) -> Iterator[None]:
    """Where the engine would look for tables of services and views. The transaction may be a test's, which goes on where it looked
    for its own; one that fails is rolled back, and this with it."""
    if not target.schema:
        yield
        return
    before = cursor.run("select current_setting('search_path')").fetchall()[0]
    cursor.run(f"set local search_path = {quoted(target.schema)}, public")
    yield
    cursor.run("select set_config('search_path', %s, true)", before)


def _found(wrapper: Any, target: Target) -> Identity | None:
    connection = driver_of(wrapper)
    with opening(target):
        return identity(connection, schema_of(connection, target))
