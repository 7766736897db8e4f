"""Reading: a few connections, and the threads that use them. What is read is committed, and read from the primary."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec
import psycopg

from ..errors import JournalCorrupt, JournalError, UnitFailed
from ._postgres_connect import begin, entering, in_time, is_lost, reading, trouble
from ._postgres_lineage import Connecting
from ._postgres_sql import Cursor, Guard, bind, check_query, opened

QUERY_S = 60.0  # of one query of a handler's
CLOSING_S = 1.0  # for what is still being read when the journal is closed; who asked for it was cancelled, as by Ctrl-C
T = TypeVar("T")


def queried(
    connection: psycopg.Connection[Any], sql: str, parameters: Mapping[str, Any], path: str | None
) -> list[dict[str, Any]]:
    """The same on a connection of somebody else's, in the transaction that is open on it, which is left as it was. `path`:
    of schemas, where it is not the connection's own."""
    check_query(sql)
    values = bind(parameters)
    try:
        with connection.transaction(force_rollback=True):
            if path:
                opened(connection).execute(f"set local search_path = {path}")
            _, rows, columns = Guard(connection).run(sql, values)
    except (psycopg.Error, UnicodeEncodeError) as error:
        raise UnitFailed(f"{type(error).__name__}: {error}") from error
    return [dict(zip(columns, row, strict=True)) for row in rows]


class Readers:
    def __init__(self, connecting: Connecting) -> None:
        self._connecting, self._target, self._identity = connecting, connecting.target, connecting.identity
        self._idle: list[psycopg.Connection[Any]] = []
        self._busy: set[psycopg.Connection[Any]] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = ThreadPoolExecutor(self._target.readers, thread_name_prefix=f"spine reader {self._target.name}")

    def submit(self, function: Callable[[Cursor], T]) -> Future[T]:
        return self._submit(self.read, function)

    def submit_query(self, sql: str, parameters: Mapping[str, Any]) -> Future[list[dict[str, Any]]]:
        return self._submit(self.query, sql, parameters)

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._closed:
            raise JournalError(
                "The journal is closed. Open it again, or keep its spine open for as long as it is used."
            )
        return self._threads.submit(function, *arguments)

    def read(self, function: Callable[[Cursor], T]) -> T:
        """On this thread."""

        def ask(connection: psycopg.Connection[Any]) -> T:
            with in_time(self._target), entering(self._target), reading(connection, self._target):
                return function(Cursor(connection, self._identity.schema))

        try:
            return self._with_connection(ask)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise JournalCorrupt(
                f"A row in {self._identity.schema} of {self._target.name} is not as it was written ({error}). Restore a "
                "backup, or ask PostgreSQL what happened to it."
            ) from error

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A handler's, in a transaction that can't write, whatever its text says."""
        check_query(sql)
        values = bind(parameters)

        def ask(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
            with entering(self._target):
                connection.execute(begin(self._target, self._identity.schema, limit_s=QUERY_S, read_only=True))
            _, rows, columns = Guard(connection).run(sql, values)
            connection.execute("commit")
            return [dict(zip(columns, row, strict=True)) for row in rows]

        return self._with_connection(ask)

    def _with_connection(self, use: Callable[[psycopg.Connection[Any]], T]) -> T:
        """A connection that was idle may have been lost long ago, unnoticed: reading is tried once more on a new one."""
        while True:
            connection, reused = self._take()
            self._busy.add(connection)
            try:
                value = use(connection)
            except BaseException as error:
                lost = is_lost(error)
                self._give_back(connection, usable=not lost)
                if lost and reused:
                    continue
                raise self._explained(error) from error
            self._give_back(connection)
            return value

    def _explained(self, error: BaseException) -> BaseException:
        if found := trouble(error, self._target):
            return found
        of_statement = isinstance(error, (psycopg.Error, UnicodeEncodeError))  # half a character can't be sent
        return UnitFailed(f"{type(error).__name__}: {error}") if of_statement else error

    def _take(self) -> tuple[psycopg.Connection[Any], bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._connecting()[0], False

    def _give_back(self, connection: psycopg.Connection[Any], *, usable: bool = True) -> None:
        self._busy.discard(connection)
        if usable and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            with contextlib.suppress(psycopg.Error):
                connection.execute("rollback")
            usable = not connection.closed
        with self._lock:
            if usable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """What waits for others' locks has no limit of our own, and is ended."""
        ended = threading.Event()
        ending = threading.Thread(target=self._end_what_waits, args=(ended,), name="spine reader ending", daemon=True)
        ending.start()
        self._threads.shutdown(wait=True)
        ended.set()
        ending.join()
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _end_what_waits(self, ended: threading.Event) -> None:
        while not ended.wait(CLOSING_S):
            for connection in list(self._busy):
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=CLOSING_S)
