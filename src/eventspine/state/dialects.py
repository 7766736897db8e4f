"""What differs between the databases that keep views.

A row has one stored form, which is SQLite's: money and times as text, yes and no as 1 and 0. By it rows are compared, and
found by their keys, whatever the database. PostgreSQL has types of its own for these; what goes to it is made of the stored
form at its door, and what comes from it becomes the stored form again, so that a class reads the same values from either.

JSON is text on both: `jsonb` changes what it keeps (order, numbers, no NUL in a text), and `json` can't be compared. In SQL
it is `tags::jsonb` there. Text is ordered by its characters, as on SQLite, and not by the customs of a country."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from ..errors import ViewRefused
from ..journal.port import Journal
from .columns import Column

Convert = Callable[[Any], Any]
Values = tuple[Any, ...]


class Dialect(NamedTuple):
    types: Mapping[str, str]  # of columns, by kind
    table_options: str
    decimal_order: str  # what a decimal is ordered by
    reads: Mapping[str, str]  # how a column is selected; by kind, where it is more than its name
    put: Mapping[str, Convert]  # of a stored value, what the database is given; by kind, where it differs
    got: Mapping[str, Convert]  # and back
    names_taken: frozenset[str] = frozenset()  # no column can be called that

    def column(self, column: Column) -> str:
        """As `create table` has it."""
        return f'"{column.name}" {self.types[column.kind]}{"" if column.nullable else " not null"}'

    def selected(self, columns: Sequence[Column]) -> str:
        return ", ".join(self.reads.get(column.kind, "{}").format(f'"{column.name}"') for column in columns)

    def check(self, columns: Sequence[Column], view: str) -> None:
        if taken := [column.name for column in columns if column.name.lower() in self.names_taken]:
            raise ViewRefused(
                f"{view} has a column {taken[0]!r}, and in PostgreSQL every table has one of that name. Call it otherwise.",
                view=view,
                column=taken[0],
            )

    def putting(self, columns: Sequence[Column]) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Of a row's stored values, or those of its key, in this order."""
        return _converting(self.put, columns)

    def getting(self, columns: Sequence[Column]) -> Callable[[Sequence[Any]], Sequence[Any]]:
        return _converting(self.got, columns)


def _converting(by_kind: Mapping[str, Convert], columns: Sequence[Column]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    changes = [(index, by_kind[column.kind]) for index, column in enumerate(columns) if column.kind in by_kind]

    def convert(values: Sequence[Any]) -> Sequence[Any]:
        changed = list(values)
        for index, of in changes:
            if changed[index] is not None:
                changed[index] = of(changed[index])
        return changed

    return convert if changes else _as_it_is


def _as_it_is(values: Sequence[Any]) -> Sequence[Any]:
    return values


SQLITE = Dialect(
    types={
        "text": "text",
        "integer": "integer",
        "real": "real",
        "blob": "blob",
        "boolean": "boolean",
        "decimal": "text",
        "time": "text",
        "date": "text",
        "uuid": "text",
        "json": "text",
    },
    table_options=" without rowid",
    decimal_order="cast({} as real)",  # text would put 9 behind 10
    reads={},
    put={},
    got={},
)

POSTGRESQL = Dialect(
    types={
        "text": 'text collate "C"',
        "integer": "bigint",
        "real": "double precision",
        "blob": "bytea",
        "boolean": "boolean",
        "decimal": "numeric",
        "time": "timestamptz",
        "date": "date",
        "uuid": "uuid",
        "json": 'text collate "C"',
    },
    table_options="",
    decimal_order="{}",
    reads={"time": "{0} at time zone 'UTC' as {0}"},  # else at the edge of the calendar it would be no year of Python's
    put={
        "boolean": bool,
        "decimal": Decimal,
        "time": datetime.fromisoformat,
        "date": date.fromisoformat,
        "uuid": UUID,
    },
    got={
        "boolean": int,
        "decimal": lambda value: f"{value:f}",
        "time": lambda value: value.replace(tzinfo=UTC).isoformat(timespec="microseconds"),
        "date": date.isoformat,
        "uuid": str,
    },
    names_taken=frozenset({"tableoid", "xmin", "xmax", "cmin", "cmax", "ctid"}),
)
_KNOWN = {"sqlite": SQLITE, "postgresql": POSTGRESQL}


def dialect_of(journal: Journal) -> Dialect:
    return _KNOWN[journal.dialect]
