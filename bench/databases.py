"""The two databases that state is measured on, and the same work on them by hand.

Both are as durable as the journal: SQLite with WAL and synchronous=FULL, PostgreSQL as it comes."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count as numbers
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from eventspine.testing import servers

from . import raw
from .accounts import LONG, Credited, same
from .places import folder

DATA = b'{"account":"account-0001","cents":1}'
READ = 500  # rows at a time


class Database(ABC):
    """Each measurement has a place of its own, named by a URL."""

    sql: ClassVar[Mapping[str, str]]
    mark: ClassVar[str]  # for a parameter

    def __init__(self) -> None:
        self._numbers = numbers()

    @abstractmethod
    def fresh(self, like: str | None = None) -> str:
        """A new place, empty or a copy of another."""

    @abstractmethod
    def forget(self, url: str) -> None: ...

    @abstractmethod
    def bytes(self, url: str) -> int:
        """On the disk."""

    @abstractmethod
    def settings_of_peer(self, url: str) -> dict[str, str]: ...

    @abstractmethod
    def connect(self, url: str) -> Any:
        """As the database's own driver does it; outside of `transaction` each statement is one."""

    @abstractmethod
    @contextmanager
    def transaction(self, connection: Any) -> Iterator[None]: ...

    # --- by hand

    def commits(self, url: str, count: int, rows: int = 1) -> float:
        """A table of what a stream needs: its name, the version, a type and the bytes; unique. And `rows` at a time."""
        connection = self.connect(url)
        connection.execute(self.sql["table"])
        insert = self._marked("insert into stored (stream, version, type, data) values (?, ?, ?, ?)")
        began = perf_counter()
        for number in range(count):
            values = [("account-0001", number * rows + n, "bank.Credited", DATA) for n in range(rows)]
            with self.transaction(connection):
                connection.cursor().executemany(insert, values)
        seconds = perf_counter() - began
        connection.close()
        return count * rows / seconds

    def loads(self, url: str, count: int) -> float:
        self.commits(url, 1, LONG)
        connection, decode = self.connect(url), raw.decoder_of(Credited)
        wanted = self._marked("select data from stored where stream = ? order by version")
        began = perf_counter()
        for _ in range(count):
            cents = sum(decode(data).cents for (data,) in connection.execute(wanted, ("account-0001",)))
        seconds = perf_counter() - began
        same(cents, LONG)
        connection.close()
        return count / seconds

    def reads(self, url: str, count: int) -> float:
        connection, decode, seen = self.connect(url), raw.decoder_of(Credited), 0
        began = perf_counter()
        for rows in self._feed(connection):
            for _, data in rows:
                decode(data)
            seen += len(rows)
        seconds = perf_counter() - began
        same(seen, count)
        connection.close()
        return count / seconds

    def builds(self, url: str, count: int) -> float:
        """500 events of the feed, the rows they are about, and the position, in one transaction; and the next 500."""
        connection, decode = self.connect(url), raw.decoder()
        connection.execute(self.sql["by_hand"])
        connection.execute("create table stands (position bigint not null)")
        connection.execute("insert into stands values (0)")
        began = perf_counter()
        for rows in self._feed(connection):
            changed: dict[str, list[int]] = {}
            for _, data in rows:
                event = decode(data)
                row = changed.get(event.customer_id)
                if row is None:
                    row = changed[event.customer_id] = self._row(connection, event.customer_id)
                row[0] += 1
                row[1] += event.units
            with self.transaction(connection):
                values = [(key, *row) for key, row in changed.items()]
                connection.cursor().executemany(self._marked(self.sql["upsert"]), values)
                connection.execute(self._marked("update stands set position = ?"), (rows[-1][0],))
        seconds = perf_counter() - began
        same(int(connection.execute("select sum(orders) from by_hand").fetchone()[0]), count)
        connection.close()
        return count / seconds

    def _row(self, connection: Any, customer: str) -> list[int]:
        wanted = self._marked("select orders, units from by_hand where customer_id = ?")
        return list(connection.execute(wanted, (customer,)).fetchone() or (0, 0))

    def _feed(self, connection: Any) -> Iterator[list[Any]]:
        wanted = self._marked("select position, data from spine_events where position > ? order by position limit ?")
        position = 0
        while rows := connection.execute(wanted, (position, READ)).fetchall():
            yield rows
            position = rows[-1][0]

    def _marked(self, statement: str) -> str:
        return statement.replace("?", self.mark)


class SQLite(Database):
    sql: ClassVar[Mapping[str, str]] = {
        "table": "create table stored (position integer primary key autoincrement, stream text not null,"
        " version integer not null, type text not null, data blob not null, unique (stream, version))",
        "by_hand": "create table by_hand (customer_id text primary key, orders integer, units integer) without rowid",
        "upsert": "insert or replace into by_hand values (?, ?, ?)",
    }
    mark: ClassVar[str] = "?"

    def __init__(self, where: Path) -> None:
        super().__init__()
        self._where = where

    def fresh(self, like: str | None = None) -> str:
        path = self._where / f"{next(self._numbers)}.db"
        if like is not None:
            shutil.copy(_path(like), path)
        return f"sqlite:///{path}"

    def forget(self, url: str) -> None:
        _path(url).unlink(missing_ok=True)

    def bytes(self, url: str) -> int:
        return sum(path.stat().st_size for path in self._where.glob(f"{_path(url).name}*"))

    def settings_of_peer(self, url: str) -> dict[str, str]:
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(_path(url))}

    def connect(self, url: str) -> Any:
        return raw.connect(_path(url))

    @contextmanager
    def transaction(self, connection: Any) -> Iterator[None]:
        connection.execute("begin immediate")
        yield
        connection.execute("commit")


class Postgres(Database):
    sql: ClassVar[Mapping[str, str]] = {
        "table": "create table stored (position bigint generated always as identity primary key, stream text not null,"
        " version integer not null, type text not null, data bytea not null, unique (stream, version))",
        "by_hand": "create table by_hand (customer_id text primary key, orders integer, units integer)",
        "upsert": "insert into by_hand values (?, ?, ?)"
        " on conflict (customer_id) do update set orders = excluded.orders, units = excluded.units",
    }
    mark: ClassVar[str] = "%s"

    def __init__(self, server: servers.Server) -> None:
        super().__init__()
        self._server = server

    def fresh(self, like: str | None = None) -> str:
        name = f"measured_{next(self._numbers)}"
        copied = f" template {_database(like)} strategy file_copy" if like is not None else ""
        self._ask(f"create database {name}{copied}")
        return f"{self._server.url.rpartition('/')[0]}/{name}"

    def forget(self, url: str) -> None:
        self._ask(f"drop database {_database(url)} with (force)")

    def bytes(self, url: str) -> int:
        connection = self.connect(url)
        (found,) = connection.execute("select pg_database_size(current_database())").fetchone()
        connection.close()
        return int(found)

    def settings_of_peer(self, url: str) -> dict[str, str]:
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": _database(url),
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(self._server.port),
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": "nobody asks",
        }

    def connect(self, url: str) -> Any:
        import psycopg

        return psycopg.connect(url, autocommit=True)

    @contextmanager
    def transaction(self, connection: Any) -> Iterator[None]:
        with connection.transaction():
            yield

    def _ask(self, statement: str) -> None:
        connection = self.connect(self._server.url)
        connection.execute(statement)
        connection.close()


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _database(url: str) -> str:
    return url.rpartition("/")[2]


@asynccontextmanager
async def sqlite() -> AsyncIterator[Database]:
    with folder() as where:
        yield SQLite(where)


@asynccontextmanager
async def postgres() -> AsyncIterator[Postgres]:
    """A server of its own, with its usual settings."""
    kind = servers.named("postgres")
    kind.install()
    async with AsyncExitStack() as stack:
        where = stack.enter_context(folder())
        yield Postgres(stack.enter_context(kind(where)))
