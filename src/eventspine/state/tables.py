"""The SQL of a view.

Reading and writing go by blocks of a few sizes, so that a database sees few different statements, and each is prepared
once; a block that is not full is filled up with what is in it already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from .dialects import SQLITE, Dialect
from .rows import Key, Values
from .views import ViewType

BLOCKS = (32, 16, 8, 4, 2, 1)
PARAMETERS_MAX = 128  # of a block. SQLite looks for each name from the first on: twice as many take four times as long
Parameters = dict[str, Any]


def table_of(name: str, version: int) -> str:
    return f"{name}_v{version}"


class Table:
    """The table of one version of a view."""

    def __init__(self, view: ViewType, dialect: Dialect = SQLITE) -> None:
        self.view, self.dialect = view, dialect
        self.name = table_of(view.name, view.version)

    def create(self) -> str:
        self.dialect.check(self.view.columns, self.view.where)
        columns = ", ".join(map(self.dialect.column, self.view.columns))
        key = _listed(self.view.key)
        return f'create table "{self.name}" ({columns}, primary key ({key})){self.dialect.table_options}'

    # --- reading by key ---------------------------------------------------------------------------------------------

    def read(self, keys: Sequence[Key]) -> Iterator[tuple[str, Parameters]]:
        sizes = sorted(self._reads)
        for at in range(0, len(keys), sizes[-1]):
            some = keys[at : at + sizes[-1]]
            size = next(size for size in sizes if size >= len(some))
            yield self._reads[size], self._bound([*some, *[some[-1]] * (size - len(some))])

    @cached_property
    def _reads(self) -> dict[int, str]:
        """By how many rows are read."""
        return {size: self._read_of(size) for size in _sizes(len(self.view.key))}

    def _read_of(self, size: int) -> str:
        width = len(self.view.key)
        select = f'select {self.dialect.selected(self.view.columns)} from "{self.name}"'
        if width == 1:
            places = ", ".join(f":p{index}" for index in range(size))
            return f'{select} where "{self.view.key[0]}" in ({places})'
        places = ", ".join(_places(index * width, width) for index in range(size))
        return f"{select} where ({_listed(self.view.key)}) in (values {places})"

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, rows: Sequence[Values]) -> Iterator[tuple[str, Parameters]]:
        at = 0
        for size, sql in self._writes.items():
            while len(rows) - at >= size:
                yield sql, self._bound(rows[at : at + size])
                at += size

    @cached_property
    def _writes(self) -> dict[int, str]:
        """By how many rows are written, the most first."""
        return {size: self._write_of(size) for size in _sizes(len(self.view.columns))}

    def _write_of(self, size: int) -> str:
        names, width = self.view.names, len(self.view.names)
        places = ", ".join(_places(index * width, width) for index in range(size))
        others = names[len(self.view.key) :]
        sets = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
        then = f"do update set {sets}" if sets else "do nothing"
        return f'insert into "{self.name}" ({_listed(names)}) values {places} on conflict ({_listed(self.view.key)}) {then}'

    def delete(self, keys: Sequence[Key]) -> Iterator[tuple[str, Parameters]]:
        where = " and ".join(f'"{name}" = :p{index}' for index, name in enumerate(self.view.key))
        for key in keys:
            yield f'delete from "{self.name}" where {where}', self._bound([key])

    def _bound(self, rows: Sequence[Sequence[Any]]) -> Parameters:
        """Of rows, or of their keys, which are a row's first columns."""
        return dict(zip(self._names, chain.from_iterable(map(self._put[len(rows[0])], rows)), strict=False))

    def stored(self, row: Sequence[Any]) -> Values:
        """What was read, in its stored form."""
        return tuple(self._got(row))

    @cached_property
    def _put(self) -> dict[int, Callable[[Sequence[Any]], Sequence[Any]]]:
        """By how many of a row's columns are given."""
        columns = self.view.columns
        return {size: self.dialect.putting(columns[:size]) for size in (len(self.view.key), len(columns))}

    @cached_property
    def _got(self) -> Callable[[Sequence[Any]], Sequence[Any]]:
        return self.dialect.getting(self.view.columns)

    @cached_property
    def _names(self) -> list[str]:
        return [f"p{index}" for index in range(max(PARAMETERS_MAX, len(self.view.columns)))]


def _sizes(width: int) -> list[int]:
    """Of the blocks of rows of this width; the largest first, and the last one is 1."""
    return [size for size in BLOCKS if size == 1 or size * width <= PARAMETERS_MAX]


def _places(start: int, width: int) -> str:
    return "(" + ", ".join(f":p{start + index}" for index in range(width)) + ")"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
