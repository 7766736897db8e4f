"""SQL on PostgreSQL: ours, written once for both stores, and a handler's.

Ours is SQLite's text, with its marks (`?`, `:name`) put as the driver wants them and our tables named with their schema, so
that it works whatever the search path of a connection is, a caller's included. A handler's keeps every name that it has, and
its parameters by name; values go as they are, so that PostgreSQL's own types are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from ..errors import StatementRefused, UnitFailed
from ._sqlite_guard import check_read, check_script, check_text

TABLES = (
    "meta", "events", "streams", "stream_events", "services", "subscriptions", "cursors", "deliveries", "starts", "marks",
    "timers", "leases", "processes", "tables", "notes", "positions",
)  # fmt: skip
_TEXT = r"--[^\n]*|'(?:[^']|'')*'"  # a comment may have a quote of its own
_OURS = re.compile(
    rf"({_TEXT})|(\?)|(?<!:):([a-z_]+)|(%)|\bspine_({'|'.join(TABLES)})\b"
    r"|(\w+) in \(select value from json_each\((\?|:[a-z_]+)\)\)|\bis (\?)"
)
_NUMBERS = frozenset(
    {"position", "subscription", "partition", "number"}
)  # columns that lists are asked for; others are texts
# What a name or a mark inside of is none: comments, texts, quoted names, dollar quotes.
_ASIDE = r"--[^\n]*|/\*.*?\*/|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$"
_THEIRS = re.compile(rf"(?P<aside>{_ASIDE})|(?<![:\w]):(?P<name>[A-Za-z_]\w*)|(?P<percent>%)", re.DOTALL)
_TOUCHES_OURS = re.compile(r"(?<![^:]:)\bspine_\w+", re.IGNORECASE)  # a parameter may be called so
_TEXTS_AND_COMMENTS = re.compile(
    r"--[^\n]*|/\*.*?\*/|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$", re.DOTALL
)
VALUES_MAX = 256_000_000  # of texts and bytes: a character may have four, and PostgreSQL drops who sends 1 GB


@lru_cache(maxsize=1024)
def ours(sql: str, schema: str) -> str:
    """SQL of ours, as psycopg takes it. `schema` is quoted already."""

    def put(match: re.Match[str]) -> str:
        text, mark, name, percent, table, column, listed, same = match.groups()
        if same:
            return "is not distinct from %s"
        if column:
            value = "%s" if listed == "?" else f"%({listed[1:]})s"
            kind = "bigint" if column in _NUMBERS else "text"
            return f"{column} in (select jsonb_array_elements_text({value}::jsonb)::{kind})"
        if mark:
            return "%s"
        if name:
            return f"%({name})s"
        return (text or percent).replace("%", "%%") if text or percent else f"{schema}.spine_{table}"

    return _OURS.sub(put, sql)


@lru_cache(maxsize=4096)
def theirs(sql: str) -> str:
    """A handler's SQL, as psycopg takes it: parameters are `:name`."""

    def put(match: re.Match[str]) -> str:
        return f"%({match['name']})s" if match["name"] else match[0].replace("%", "%%")

    return _THEIRS.sub(put, sql)


def check_theirs(sql: str) -> None:
    """It begins like a statement that is allowed, is one alone, and names no table of ours."""
    check_text(sql)
    _check_names(sql)


def check_query(sql: str) -> None:
    check_read(sql)
    _check_names(sql)


def check_schema(sql: str) -> None:
    """Of a `tables=` script."""
    check_script(sql)
    _check_names(sql)


@lru_cache(maxsize=4096)
def _check_names(sql: str) -> None:
    bare = _TEXTS_AND_COMMENTS.sub(" ", sql)
    if found := _TOUCHES_OURS.search(bare):
        raise StatementRefused(
            f"Not allowed: {found[0]} is the journal's. A unit's SQL works on your own tables: "
            f"{' '.join(sql.split())[:120]}",
            sql=sql,
        )
    if ";" in bare.rstrip().rstrip(";"):
        raise StatementRefused(
            f"Not allowed: one statement at a time. This has several: {' '.join(sql.split())[:120]}",
            sql=sql,
        )


def bind(parameters: Any) -> dict[str, Any]:
    """Named parameters, of a mapping or a dataclass; what PostgreSQL has a type for goes as it is."""
    if is_dataclass(parameters) and not isinstance(parameters, type):
        parameters = asdict(parameters)
    return {name: plain(value) for name, value in parameters.items()}


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str) and "\0" in value:
        raise UnitFailed("PostgreSQL can't keep a text with a NUL character. Leave it out, or use a bytea column.")
    return value


def statements(script: str) -> list[str]:
    """A script's statements; what stands in quotes, dollar quotes included, stays whole."""
    found, begun = [], 0
    for match in re.finditer(rf"(?P<aside>{_ASIDE})|;", script, re.DOTALL):
        if match["aside"] is None:
            found.append(script[begun : match.start()])
            begun = match.end()
    return [one.strip() for one in (*found, script[begun:]) if _says_something(one)]


def _says_something(sql: str) -> bool:
    return bool(re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL).strip())


class _Plain(psycopg.Cursor[Any]):
    """Reads and writes values as psycopg itself does, whatever was registered on the connection: Django has some of its own."""

    adapters = psycopg.adapters


def opened(connection: Any) -> Any:
    """A cursor with rows as tuples and parameters bound by the server, whatever a caller has set on the connection."""
    if isinstance(connection, psycopg.Connection):
        return _Plain(connection, row_factory=tuple_row)
    return connection.cursor()  # a Bridge


class Ask(NamedTuple):
    """A query that is PostgreSQL's alone, but for the names of our tables."""

    sql: str
    parameters: Sequence[Any] = ()


class Cursor:
    """A cursor like sqlite3's, for SQL of ours."""

    def __init__(self, connection: Any, schema: str, store: int = 0) -> None:
        """`store`: the journal's number, where something is appended."""
        self.connection = connection
        self.schema, self.store = schema, store
        self.row_factory: None = None  # as sqlite3's cursors have it; rows are tuples
        self._cursor = opened(connection)

    def execute(self, sql: str, parameters: Any = ()) -> Cursor:
        return self.run(ours(sql, self.schema), parameters or ())

    def executemany(self, sql: str, rows: Iterable[Any]) -> Cursor:
        rows = list(rows)
        if rows:
            self._cursor.executemany(ours(sql, self.schema), rows)
        return self

    def run(self, sql: str, parameters: Any = None) -> Cursor:
        """SQL that is PostgreSQL's alone, but for the names of our tables."""
        self._cursor.execute(sql, parameters, binary=True)
        return self

    def together(self, asks: Iterable[Ask]) -> list[list[Any]]:
        """The rows of each, one after the other; in a single round trip, unless the connection is a caller's of another kind."""
        asks = list(asks)
        if len(asks) < 2 or not isinstance(self.connection, psycopg.Connection) or not psycopg.Pipeline.is_supported():
            return [self.run(*ask).fetchall() for ask in asks]
        cursors = self._sent(asks)
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def _sent(self, asks: Sequence[Ask]) -> list[Any]:
        """A pipeline that is left by an error logs what its end comes to, such as that a session is gone which was lost before;
        so it is left without, and the first error is raised."""
        first: psycopg.Error | None = None
        cursors: list[Any] = []
        try:
            with self.connection.pipeline():
                try:
                    cursors += [opened(self.connection).execute(*ask, binary=True) for ask in asks]
                except psycopg.Error as error:
                    first = error
        except psycopg.Error as error:
            first = first or error
        if first is not None:
            raise first
        return cursors

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        rows: list[Any] = self._cursor.fetchall() if self._cursor.description else []
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    @property
    def rowcount(self) -> int:
        count: int = self._cursor.rowcount
        return count

    def close(self) -> None:
        self._cursor.close()


@contextmanager
def _within_an_index(sql: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.ProgramLimitExceeded as error:
        said = error.diag.message_primary or error
        raise UnitFailed(
            f"A key is too long for an index of PostgreSQL's, which takes about 2,700 bytes, compressed ({said}), in: "
            f"{' '.join(sql.split())[:120]}. Nothing of this unit was stored. Let the key be a hash of it, and keep the text "
            "itself in another column.",
            sql=sql,
        ) from None  # it stands for its cause, which policies and dead deliveries would else be told


class Guard:
    """Runs a handler's statements on one connection; the same face as SQLite's."""

    check = staticmethod(check_theirs)

    @staticmethod
    def bind(parameters: Any) -> dict[str, Any]:
        values = bind(parameters)
        size = sum(len(value) for value in values.values() if isinstance(value, str | bytes))
        if size > VALUES_MAX:
            raise UnitFailed(
                f"The values of one statement are {size:,} characters or bytes; PostgreSQL is sent {VALUES_MAX:,} at most. Store "
                "them in several rows, or where large files belong, and here where that is. Nothing of this unit was stored.",
                size=size,
                limit=VALUES_MAX,
            )
        return values

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> tuple[int, list[Any], list[str]]:
        """(rows counted, rows returned, their columns). By the extended protocol, which takes one statement only."""
        cursor = opened(self._connection)
        try:
            with _within_an_index(sql):
                cursor.execute(theirs(sql), parameters or {})  # as text: not every type has a binary form here
            columns = [column.name for column in cursor.description or ()]
            rows = cursor.fetchall() if columns else []
            return cursor.rowcount, rows, columns
        finally:
            cursor.close()
