"""The storefront's own connection, beside the spine's, to whichever database the journal is in.

A real shop has one database and needs nothing of this; here the same program runs on either."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import parse_qs, urlsplit

WAITS_S = 30


class Till(ABC):
    """SQL with `?` for a value."""

    connection: Any  # what `publish(..., within=)` takes

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Any]: ...

    @abstractmethod
    def script(self, sql: str) -> None: ...

    @abstractmethod
    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None: ...

    def number(self, sql: str) -> int:
        [number] = self.connection.execute(sql).fetchone()
        return int(number)

    def close(self) -> None:
        self.connection.close()


class _InFile(Till):
    def __init__(self, path: Any) -> None:
        self.connection = sqlite3.connect(path, timeout=WAITS_S)

    def transaction(self) -> AbstractContextManager[Any]:
        return self.connection  # type: ignore[no-any-return]

    def script(self, sql: str) -> None:
        self.connection.executescript(sql)

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self.connection.executemany(sql, rows)


class _InPostgres(Till):
    def __init__(self, url: str) -> None:
        import psycopg

        [schema] = parse_qs(urlsplit(url).query)["schema"]
        self.connection = psycopg.connect(urlsplit(url)._replace(query="").geturl(), autocommit=True)
        self.connection.execute(f"set search_path to {schema}")

    def transaction(self) -> AbstractContextManager[Any]:
        return self.connection.transaction()  # type: ignore[no-any-return]

    def script(self, sql: str) -> None:
        self.connection.execute(sql)

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self.connection.cursor().executemany(sql.replace("?", "%s"), rows)


def opened(journal: Any) -> Till:
    return _InFile(journal.path) if journal.dialect == "sqlite" else _InPostgres(journal.url)
