"""The SQL of a view: every row is written, read and deleted once, in statements that a database takes in its stride."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from eventspine import View
from eventspine.state.tables import PARAMETERS_MAX, Table
from eventspine.state.views import ViewMeta, describe_view


def table_with(columns: int, *key: str) -> Table:
    fields = {**dict.fromkeys(key, int), **{f"c{index}": int for index in range(columns - len(key))}}
    given: dict[str, Any] = {"__annotations__": fields, "__module__": __name__}
    given |= {name: 0 for name in fields if name not in key}
    return Table(describe_view(ViewMeta("Wide", (View,), given, key=key)))


@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize(("columns", "key"), [(1, "k"), (3, "k"), (3, "kl"), (12, "klm"), (200, "k")])
def test_rows_come_back_as_they_were_written(columns: int, key: str, count: int) -> None:
    table, connection = table_with(columns, *key), sqlite3.connect(":memory:")
    connection.execute(table.create())
    rows = [tuple(row * 1000 + column for column in range(columns)) for row in range(count)]
    for sql, parameters in [*table.write(rows), *table.write(rows)]:  # new, and again
        assert len(parameters) <= max(PARAMETERS_MAX, columns)
        connection.execute(sql, parameters)
    keys = [row[: len(key)] for row in rows]
    found: list[Any] = []
    for sql, parameters in table.read(keys):
        assert len(parameters) <= PARAMETERS_MAX
        found += connection.execute(sql, parameters)
    assert sorted(found) == rows
    for sql, parameters in table.delete(keys[1:]):
        connection.execute(sql, parameters)
    assert connection.execute(f'select * from "{table.name}"').fetchall() == rows[:1]
