"""How PostgreSQL takes a service's own tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg

from ._postgres_connect import is_lost, is_passing
from ._postgres_sql import Cursor, Guard, bind, check_schema, statements
from ._sql_tables import Dialect


def dialect(cursor: Cursor) -> Dialect:
    return Dialect(
        run=partial(_run, Guard(cursor.connection)),
        statements=statements,
        errors=(psycopg.Error,),
        is_trouble=lambda error: is_lost(error) or is_passing(error),
        again="`create table if not exists`, `insert ... on conflict do nothing`, `alter table ... add column if not exists`",
    )


def _run(guard: Guard, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
    check_schema(sql)
    _, rows, _ = guard.run(sql, bind(parameters) if hasattr(parameters, "items") else tuple(parameters))
    return rows
