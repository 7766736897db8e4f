"""The past of a journal in PostgreSQL as of one moment, for a scratch journal to be made of it (see _sqlite_scratch).

One transaction that only reads, in one snapshot. It holds no row that anybody waits for; while it is open the server keeps what
is deleted meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from ..errors import JournalError
from ._postgres_connect import Target, begin, connect, entering, trouble
from ._postgres_schema import Identity
from ._postgres_sql import Cursor

STEP_S = 600.0  # for one of its statements, and between two of them


class PostgresHistory:
    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection, self._schema = connection, schema

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        return Cursor(self._connection, self._schema).execute(sql, values)


@contextmanager
def held(target: Target, identity: Identity) -> Iterator[PostgresHistory]:
    with closing(connect(target)) as connection:
        try:
            with entering(target):
                connection.execute(begin(target, identity.schema, limit_s=STEP_S, read_only=True, snapshot=True))
            yield PostgresHistory(connection, identity.schema)
        except psycopg.Error as error:
            told = trouble(error, target)
            raise told or JournalError(f"The history of {target.name} can't be read: {error}") from error
