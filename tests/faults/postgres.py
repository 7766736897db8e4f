"""A place whose processes share a journal in PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from .harness import Child, Place, until

_DATA = "convert_from({0}data, 'UTF8')::jsonb"
_TYPES = ("json_each(s.types) t", "jsonb_array_elements(s.types::jsonb) t")
_TYPE = ("json_extract(t.value, '$[0]')", "t.value ->> 0")


class PostgresPlace(Place):
    def __init__(self, folder: Path, server: str, schema: str) -> None:
        super().__init__(folder)
        self.server, self.schema = server, schema
        self.url = f"{server}?schema={schema}"

    def _connected(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.server, options=f"-c search_path={self.schema}", autocommit=True)

    def query(self, sql: str, *values: object) -> list[Any]:
        with self._connected() as connection:
            return connection.execute(_in_its_words(sql), values).fetchall()  # type: ignore[arg-type]

    def number(self, sql: str, *values: object) -> int:
        try:
            ((number,),) = self.query(sql, *values)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return 0  # nobody has made it yet
        return int(number)

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Every effect takes so long meanwhile, so that processes are often found in the middle of a transaction."""
        sql = "create or replace function slowly() returns trigger language plpgsql as 'begin perform pg_sleep({}); return new; end'"
        with self._connected() as connection:
            connection.execute(sql.format(seconds))  # type: ignore[arg-type]
            connection.execute("create trigger slowly before insert on effects for each row execute function slowly()")
            yield
            connection.execute(sql.format(0))  # type: ignore[arg-type]

    def transactions(self) -> dict[int, str]:
        """By port of the client, the states of those sessions whose transaction has written."""
        sql = "select client_port, state from pg_stat_activity where backend_xid is not null"
        return dict(self.query(sql))


def _in_its_words(sql: str) -> str:
    """What the harness asks of SQLite."""
    sql = sql.replace(*_TYPES).replace(*_TYPE).replace("%", "%%").replace("?", "%s")
    sql = re.sub(
        r"json_extract\((\w+\.|)data, '\$\.number'\)", lambda one: f"({_DATA.format(one[1])} ->> 'number')::bigint", sql
    )
    return re.sub(
        r"json_extract\((\w+\.|)data, '\$\.(\w+)'\)", lambda one: f"{_DATA.format(one[1])} ->> '{one[2]}'", sql
    )


def ports_of(child: Child) -> set[int]:
    """Of its connections."""
    ss = Path(f"/proc/{child.pid}/net/tcp").read_text().splitlines()[1:]
    mine = {link.readlink().name for link in Path(f"/proc/{child.pid}/fd").iterdir() if link.is_symlink()}
    return {int(words[1].rpartition(":")[2], 16) for line in ss if f"socket:[{(words := line.split())[9]}]" in mine}


def stop_in_a_transaction(place: PostgresPlace, child: Child) -> None:
    ports = ports_of(child)

    def states() -> set[str]:
        return {state for port, state in place.transactions().items() if port in ports}

    def inside() -> bool:
        child.stop()
        until(lambda: "active" not in states(), "the server to have done what it was told")
        if "idle in transaction" in states():
            return True
        child.go_on()
        return False

    until(inside, f"{child.name} to stop inside a transaction")
