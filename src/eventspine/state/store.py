"""Where the rows of a view are: in a table of the service's database, or, on a journal without SQL, in its notes.

Both are written by the unit that moves the projection's cursor, so rows and cursor are of one moment, whatever dies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..journal.port import Journal, Note, Statement, Unit
from .dialects import Dialect, dialect_of
from .rows import Key, Rows, Values
from .tables import Table, table_of
from .views import ViewType

NOTES_AT_ONCE = 1000


class Store(Protocol):
    """The rows of one version of a view."""

    view: ViewType

    async def prepare(self, journal: Journal, service: str) -> None: ...
    def rows(self) -> Rows: ...
    async def read(self, journal: Journal, keys: Sequence[Key]) -> dict[Key, Values]: ...
    def write(self, unit: Unit, rows: Rows) -> None: ...


def store_of(view: ViewType, journal: Journal) -> Store:
    return InTable(view, dialect_of(journal)) if journal.sql else InNotes(view)


class InTable:
    def __init__(self, view: ViewType, dialect: Dialect) -> None:
        self.view = view
        self.table = Table(view, dialect)

    async def prepare(self, journal: Journal, service: str) -> None:
        await journal.run_tables(service, f"view {self.table.name}", self.table.create())

    def rows(self) -> Rows:
        return Rows(self.view, self.table.name, sql=True)

    async def read(self, journal: Journal, keys: Sequence[Key]) -> dict[Key, Values]:
        found: dict[Key, Values] = {}
        parts = len(self.view.key)
        for sql, parameters in self.table.read(keys):
            for row in await journal.query(sql, parameters):
                values = self.table.stored(tuple(row.values()))
                found[values[:parts]] = values
        return found

    def write(self, unit: Unit, rows: Rows) -> None:
        written, deleted = rows.changes()
        unit.statements.extend(Statement(sql, parameters) for sql, parameters in self.table.write(written))
        unit.statements.extend(Statement(sql, parameters) for sql, parameters in self.table.delete(deleted))
        unit.statements.extend(rows.statements)


class InNotes:
    """For the memory journal."""

    def __init__(self, view: ViewType) -> None:
        self.view = view
        self.kind = notes_kind(view.name, view.version)

    async def prepare(self, journal: Journal, service: str) -> None:
        """There is nothing to make."""

    def rows(self) -> Rows:
        return Rows(self.view, self.kind, sql=False)

    async def read(self, journal: Journal, keys: Sequence[Key]) -> dict[Key, Values]:
        found = await journal.notes("", self.kind, [note_key(key) for key in keys], limit=len(keys))
        by_key = {note.key: msgspec.msgpack.decode(note.value) for note in found}
        names = self.view.names
        return {
            key: tuple([by_key[text].get(name) for name in names]) for key in keys if (text := note_key(key)) in by_key
        }

    def write(self, unit: Unit, rows: Rows) -> None:
        written, deleted = rows.changes()
        parts, names = len(self.view.key), self.view.names
        for values in written:
            value = msgspec.msgpack.encode(dict(zip(names, values, strict=True)))
            unit.notes.append(Note("", self.kind, note_key(values[:parts]), value))
        unit.notes.extend(Note("", self.kind, note_key(key), None) for key in deleted)


def notes_kind(name: str, version: int) -> str:
    return f"view {name} {version}"


def note_key(key: Key) -> str:
    return msgspec.json.encode(key).decode()


async def every_note(journal: Journal, kind: str) -> list[Mapping[str, Any]]:
    """The rows in notes of this kind, as stored values by column."""
    rows: list[Mapping[str, Any]] = []
    after = ""
    while page := await journal.notes("", kind, after=after, limit=NOTES_AT_ONCE):
        rows += [msgspec.msgpack.decode(note.value) for note in page]
        after = page[-1].key
    return rows


def matching(rows: Iterable[Mapping[str, Any]], where: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]


async def drop(journal: Journal, service: str, name: str, version: int) -> None:
    """Remove the rows of this version of a view for good."""
    if journal.sql:
        table = table_of(name, version)
        await journal.run_tables(service, f"drop view {table}", f'drop table if exists "{table}"')
        return
    kind = notes_kind(name, version)
    while page := await journal.notes("", kind, limit=NOTES_AT_ONCE):
        await journal.commit([Unit(notes=[Note("", kind, note.key, None) for note in page])])
