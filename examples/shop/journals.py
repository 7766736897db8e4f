"""The database of each service: `spine.db` in its home, or a schema of a PostgreSQL that is started for the demo.

What the services keep is read here behind their backs, for progress and for the books."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from . import places

ASKED_FOR_S = 10


class Journals(Protocol):
    def url(self, service: str) -> str:
        """As the service has it, in its home."""
        ...

    def several(self) -> list[str]:
        """Of all of them, each once, in the order in which an order comes by; as seen from where e-mail is at home."""
        ...

    def rows(self, service: str, sql: str) -> list[Any]:
        """None from a service that never got as far as to make its tables: it has kept nothing."""
        ...

    def close(self) -> None: ...


class InFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connections: dict[Path, sqlite3.Connection] = {}

    def url(self, service: str) -> str:
        return "sqlite:///spine.db"

    def several(self) -> list[str]:
        home = places.home(self._folder, "email")
        return [f"sqlite:///{os.path.relpath(path, home)}" for path in places.journals(self._folder)]

    def rows(self, service: str, sql: str) -> list[Any]:
        path = places.journal(self._folder, service).resolve()
        if path not in self._connections and not path.exists():
            return []
        try:
            return self._connection(path).execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _connection(self, path: Path) -> sqlite3.Connection:
        if path not in self._connections:
            uri = f"{path.as_uri()}?mode=ro"
            self._connections[path] = sqlite3.connect(uri, uri=True, timeout=ASKED_FOR_S)
        return self._connections[path]


class InPostgres:
    """One schema for all, or one for each service, as homes are."""

    def __init__(self, folder: Path) -> None:
        from eventspine.testing.servers import named

        kind = named("postgres")
        kind.install()
        self._folder = folder
        self._server = kind(folder / "postgres")
        self._connection: Any = None

    def start(self) -> None:
        """With what it had stored, if it was here before."""
        import psycopg

        self._server.start()
        self._connection = psycopg.connect(self._server.url, autocommit=True)

    def url(self, service: str) -> str:
        return f"{self._server.url}?schema={self._schema(service)}"

    def several(self) -> list[str]:
        return list(dict.fromkeys(map(self.url, places.SERVICES)))

    def rows(self, service: str, sql: str) -> list[Any]:
        import psycopg

        try:
            self._connection.execute(f"set search_path to {self._schema(service)}")
            found: Sequence[Any] = self._connection.execute(sql).fetchall()
        except psycopg.errors.UndefinedTable:
            return []
        return list(found)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server.stop()

    def _schema(self, service: str) -> str:
        return "shop" if places.home(self._folder, service) == self._folder else service
