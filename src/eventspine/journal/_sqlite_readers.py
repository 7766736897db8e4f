"""The readers: a few connections that can only read, and the threads that use them.

A read opens a snapshot and closes it before its result is given away (R20), so that handlers never run with one open.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import JournalError, UnitFailed
from . import _sqlite_file as file, forks
from ._sqlite_guard import Guard, bind, check_read, is_refusal, refused

THREADS = 3
QUICK_S = 0.0005
QUICK_STEPS = 2000  # of SQLite's machine between two looks at the clock
T = TypeVar("T")


class Readers:
    def __init__(self, path: Path, *, busy_s: float) -> None:
        self._path, self._busy_s = path, busy_s
        self._idle: list[tuple[sqlite3.Connection, Guard]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"spine reader {path.name}")

    def submit(self, function: Callable[[sqlite3.Cursor], T]) -> Future[T]:
        """Read on a thread of ours."""
        if self._closed:
            raise JournalError(
                "The journal is closed. Open it again, or keep its spine open for as long as it is used."
            )
        return self._threads.submit(self.read, function)

    def read(self, function: Callable[[sqlite3.Cursor], T]) -> T:
        """Read on this thread."""
        connection, guard = self._take()
        cursor = connection.cursor()
        try:
            return function(cursor)
        except sqlite3.Error as error:
            if trouble := file.translate(error, self._path):
                raise trouble from error
            raise
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # a row whose bytes are not those that were written
            raise file.corrupt(self._path, error) from error
        finally:
            cursor.close()
            self._give_back(connection, guard)

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        check_read(sql)
        values = bind(parameters)
        connection, guard = self._take()
        try:
            _, rows, columns = guard.run(sql, values)
        except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
            raise self._explain(sql, error) from error
        finally:
            self._give_back(connection, guard)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def query_quickly(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """On this thread if that takes no longer than a hand-over to another would; None: it takes longer."""
        check_read(sql)
        values = bind(parameters)
        connection, guard = self._take()
        deadline = time.perf_counter() + QUICK_S
        connection.set_progress_handler(lambda: time.perf_counter() > deadline, QUICK_STEPS)
        try:
            _, rows, columns = guard.run(sql, values)
        except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                return None
            raise self._explain(sql, error) from error
        finally:
            connection.set_progress_handler(None, 0)
            self._give_back(connection, guard)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def submit_query(self, sql: str, parameters: Mapping[str, Any]) -> Future[list[dict[str, Any]]]:
        return self._threads.submit(self.query, sql, parameters)

    def _explain(self, sql: str, error: Exception) -> Exception:
        if is_refusal(error):
            return refused(sql, error)
        if "readonly" in str(error):
            return refused(sql, sqlite3.OperationalError("query() only reads; use execute() for what writes"))
        translated = file.translate(error, self._path) if isinstance(error, sqlite3.Error) else None
        return translated or UnitFailed(f"{type(error).__name__}: {error}")

    def _take(self) -> tuple[sqlite3.Connection, Guard]:
        forks.enter()
        try:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
            connection = file.connect(self._path, busy_s=self._busy_s, readonly=True)
            return connection, Guard(connection)
        except BaseException:
            forks.leave()
            raise

    def _give_back(self, connection: sqlite3.Connection, guard: Guard) -> None:
        try:
            with self._lock:
                # In a transaction: the handler of a signal has raised before it was known that there is one to end.
                if not self._closed and not connection.in_transaction:
                    self._idle.append((connection, guard))
                    return
            connection.close()
        finally:
            forks.leave()

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        with forks.inside_sqlite():
            for connection, _ in idle:
                connection.close()
