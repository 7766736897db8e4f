"""The SQL of a view.

Reading and writing go by blocks of a few sizes, so that a database sees few different statements, and each is prepared
once; a block that is not full is filled up with what is in it already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from .rows import Key, Values
from .views import ViewType

BLOCKS = (256, 64, 16, 4, 1)
PARAMETERS_MAX = 8000
_NAMES = [f"p{index}" for index in range(PARAMETERS_MAX)]
Parameters = dict[str, Any]


def table_of(name: str, version: int) -> str:
    return f"{name}_v{version}"


class Table:
    """The table of one version of a view."""

    def __init__(self, view: ViewType) -> None:
        self.view = view
        self.name = table_of(view.name, view.version)

    def create(self) -> str:
        columns = ", ".join(f'"{column.name}" {column.sql_type}' for column in self.view.columns)
        key = _listed(self.view.key)
        return f'create table "{self.name}" ({columns}, primary key ({key})) without rowid'

    # --- reading by key ---------------------------------------------------------------------------------------------

    def read(self, keys: Sequence[Key]) -> Iterator[tuple[str, Parameters]]:
        width = len(self.view.key)
        for some, size in _blocks(keys, width):
            padded = [*some, *[some[-1]] * (size - len(some))]
            yield self._read_of(size), _bound(padded)

    def _read_of(self, size: int) -> str:
        width = len(self.view.key)
        if width == 1:
            places = ", ".join(f":p{index}" for index in range(size))
            return f'{self._select} where "{self.view.key[0]}" in ({places})'
        places = ", ".join(_places(index * width, width) for index in range(size))
        return f"{self._select} where ({_listed(self.view.key)}) in (values {places})"

    @cached_property
    def _select(self) -> str:
        return f'select {_listed(self.view.names)} from "{self.name}"'

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, rows: Sequence[Values]) -> Iterator[tuple[str, Parameters]]:
        width = len(self.view.columns)
        for some, size in _blocks(rows, width, fill=False):
            yield self._write_of(size), _bound(some)

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
            yield f'delete from "{self.name}" where {where}', _bound([key])


def _bound(rows: Sequence[Sequence[Any]]) -> Parameters:
    return dict(zip(_NAMES, chain.from_iterable(rows), strict=False))


def _blocks(items: Sequence[Any], width: int, *, fill: bool = True) -> Iterator[tuple[Sequence[Any], int]]:
    """Of sizes that are known beforehand: without `fill` they are always full."""
    sizes = [size for size in BLOCKS if size * width <= PARAMETERS_MAX] or [1]
    at = 0
    while at < len(items):
        rest = len(items) - at
        size = min((one for one in sizes if one >= rest), default=sizes[0]) if fill else _largest(sizes, rest)
        yield items[at : at + size], size
        at += size


def _largest(sizes: Sequence[int], rest: int) -> int:
    return next(size for size in sizes if size <= rest)


def _places(start: int, width: int) -> str:
    return "(" + ", ".join(f":p{start + index}" for index in range(width)) + ")"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
