"""The past of a journal in PostgreSQL as of one moment, for a scratch journal to be made of it (see _sqlite_scratch).

One transaction that only reads, in one snapshot. It holds no row that anybody waits for; while it is open the server keeps what
is deleted meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg

from ..errors import JournalError
from ._postgres_connect import Target, begin, connect, entering, is_lost, trouble
from ._postgres_schema import Identity
from ._postgres_sql import Cursor

STEP_S = 600.0  # for one of its statements, and between two of them
CANCEL_S = 5.0  # to have the server end one of them


class PostgresHistory:
    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self._connection, self._schema = connection, schema

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        return Cursor(self._connection, self._schema).execute(sql, values)

    def interrupt(self) -> None:
        with suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=CANCEL_S)


@contextmanager
def held(target: Target, identity: Identity) -> Iterator[PostgresHistory]:
    with closing(connect(target)) as connection:
        try:
            with entering(target):
                connection.execute(begin(target, identity.schema, limit_s=STEP_S, read_only=True, snapshot=True))
            yield PostgresHistory(connection, identity.schema)
        except psycopg.Error as error:
            if is_lost(error):
                raise JournalError(
                    f"The connection to {target.name} was lost while its history was read. There is no scratch journal; ask once "
                    f"more when the server is there ({error})."
                ) from error
            raise trouble(error, target) or JournalError(
                f"The history of {target.name} can't be read: {error}"
            ) from error
