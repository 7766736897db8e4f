"""A PostgreSQL and its streaming standby, and what an operator does when the primary is gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from eventspine.testing.servers.installing import run
from eventspine.testing.servers.postgres import Postgres, _as_somebody_else

from .material import WAIT_S

NAME = "standby"


class Standby(Postgres):
    """Streams from its primary from the first start on, until `promote`."""

    def __init__(self, folder: Path, primary: Postgres) -> None:
        super().__init__(folder, settings=primary.settings)
        self.primary = primary

    def _prepare(self) -> None:
        if not (self._data / "PG_VERSION").exists():
            source = f"host=127.0.0.1 port={self.primary.port} user=postgres application_name={NAME}"
            command = ["pg_basebackup", "-D", str(self._data), "-d", source, "-R", "-c", "fast", "--no-sync"]
            run([*self._as(command)], "Copying the primary", cwd=self.folder)
        super()._prepare()

    def promote(self) -> None:
        run(self._as(["pg_ctl", "promote", "-D", str(self._data), "-w"]), "Promoting the standby", cwd=self.folder)

    def _as(self, command: list[str]) -> list[str]:
        name, *options = command
        return [*_as_somebody_else(), str(self.bin / name), *options]

    def cut_off(self) -> None:
        """What the primary commits from now on doesn't get here."""
        wait_for(self.primary, "select bool_and(replay_lsn >= pg_current_wal_insert_lsn()) from pg_stat_replication")
        said(self, "alter system set primary_conninfo = ''", "select pg_reload_conf()")
        wait_for(self.primary, "select count(*) = 0 from pg_stat_replication")


class Pair:
    def __init__(self, primary: Postgres, standby: Standby) -> None:
        self.primary, self.standby = primary, standby

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.primary.address},{self.standby.address}/postgres"

    def synchronous(self) -> None:
        said(self.primary, f"alter system set synchronous_standby_names = '{NAME}'", "select pg_reload_conf()")
        wait_for(self.primary, "select bool_or(sync_state = 'sync') from pg_stat_replication")

    def fail_over(self) -> None:
        """The primary is gone without a word, and somebody makes the standby one."""
        self.primary.kill()
        self.standby.promote()


@contextlib.contextmanager
def pair(folder: Path, kind: type[Postgres]) -> Iterator[Pair]:
    with (
        kind(folder / "primary", settings={"max_connections": "100", "wal_keep_size": "64MB"}) as primary,
        Standby(folder / NAME, primary) as standby,
    ):
        wait_for(primary, "select bool_or(state = 'streaming') from pg_stat_replication")
        yield Pair(primary, standby)


def said(server: Postgres, *statements: str) -> list[Any]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        return [
            connection.execute(statement).fetchone()
            if statement.startswith("select")
            else connection.execute(statement)
            for statement in statements
        ]


def wait_for(server: Postgres, question: str) -> None:
    """Until its answer is true."""
    until = time.monotonic() + WAIT_S
    with psycopg.connect(server.url, autocommit=True) as connection:
        while connection.execute(question).fetchone() != (True,):
            assert time.monotonic() < until, question
            time.sleep(0.02)
