"""How SQLite takes a service's own tables."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

from ._sql_apply import is_journal_trouble
from ._sql_tables import Dialect
from ._sqlite_guard import Guard, bind, check_script, is_refusal, refused
from .migrations import statements


def dialect(guard: Guard) -> Dialect:
    return Dialect(
        run=partial(_run, guard),
        statements=statements,
        errors=(sqlite3.Error, sqlite3.Warning),
        is_trouble=is_journal_trouble,
        again="`create table if not exists`, `insert or ignore`, `alter table ... add column`",
    )


def _run(guard: Guard, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
    check_script(sql)
    try:
        _, rows, _ = guard.run(sql, bind(parameters) if hasattr(parameters, "items") else tuple(parameters))
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise (refused(sql, error) if is_refusal(error) else error) from error
    return rows
