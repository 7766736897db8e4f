"""Which history a server is on, and what a process does that has seen more than there is now.

A standby that is promoted begins a timeline of its own. Where it was synchronous it has all that was acknowledged. Where it was
not, commits may be gone, and numbers are given out again: those of transactions, by which a lost COMMIT is looked up, and
positions, which readers would take for what they had read before. So everybody connects through here, and is told on
which timeline; a process that is ahead of the journal stores nothing more, and a primary that comes back is not gone back to.

A session never changes its timeline: it ends with its server.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from ..errors import JournalError
from ._postgres_connect import Target, connect, is_lost, quoted
from ._postgres_schema import Identity
from ._postgres_sql import Cursor

# Of where it writes now: the control file has the timeline of the last checkpoint only.
_ASK = (
    "select system_identifier::text || '/' || ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
    " from pg_control_system()"
)


def lineage_of(connection: psycopg.Connection[Any]) -> str | None:
    """The cluster and its timeline. None: this server doesn't say (not all that speak PostgreSQL's protocol know)."""
    try:
        row = connection.execute(_ASK).fetchone()
    except psycopg.Error as error:
        if is_lost(error):
            raise
        return None
    return None if row is None else str(row[0])


class JournalCut(JournalError):
    """This process has seen events that the journal doesn't have any more."""


class Connecting:
    """How all of one process connect to an open journal."""

    def __init__(self, target: Target, identity: Identity, decided: Callable[[], int] = lambda: 0) -> None:
        self.target, self.identity = target, identity
        self._decided = decided  # how far this process has seen the feed
        self._known: str | None = None
        self._cut: str | None = None
        self._lock = threading.Lock()
        self._committing: set[psycopg.Connection[Any]] = set()
        self.given_up = False

    def __call__(self) -> tuple[psycopg.Connection[Any], str | None]:
        """A connection in autocommit, and the lineage of its server."""
        if self._cut:
            raise JournalCut(self._cut)
        seen = self._decided()  # before it is compared: what is seen meanwhile is of the server that is there now
        connection = connect(self.target)
        try:
            lineage = lineage_of(connection)
            self._compare(connection, lineage, seen)
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.Error):
                raise JournalError(f"The connection to {self.target.name} was lost at once: {error}") from error
            raise
        return connection, lineage

    def _compare(self, connection: psycopg.Connection[Any], lineage: str | None, seen: int) -> None:
        if lineage is None:
            return
        with self._lock:
            if self._known and _is_before(lineage, self._known):
                raise JournalError(
                    f"{self.target.name} has a server on {lineage} (cluster/timeline), and this process has been on "
                    f"{self._known}: it was the primary once, and has come back. Nothing is stored there. End it, or make it a "
                    "standby of the new one (pg_rewind)."
                )
            if self._known not in (None, lineage) and (last := self._last(connection)) < seen:
                self._cut = (
                    f"{self.target.name} was promoted without all that was acknowledged: this process has seen position "
                    f"{seen:,}, and the next to be given out there is {last + 1:,}. Nothing more is stored by it. End all "
                    "processes of this journal, and do what how-to/postgresql.md says on failover."
                )
                raise JournalCut(self._cut)
            self._known = lineage

    @contextlib.contextmanager
    def committing(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """For as long as the server takes, which waits for a synchronous standby as long as there is none."""
        self._committing.add(connection)
        try:
            yield
        finally:
            self._committing.discard(connection)

    def give_up(self) -> None:
        """Nobody waits for commits any more."""
        self.given_up = True
        for connection in list(self._committing):
            with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    def _last(self, connection: psycopg.Connection[Any]) -> int:
        """The position that was given out last. In advance of the log, so a promoted standby may leave some out."""
        with connection.transaction():
            if self.target.role:
                connection.execute(f"set local role {quoted(self.target.role)}")
            row = connection.execute(
                f"select case when is_called then last_value else 0 end from {self.identity.schema}.spine_events_position_seq"
            ).fetchone()
        return int(row[0]) if row else 0


def _is_before(lineage: str, known: str) -> bool:
    (cluster, timeline), (same, later) = lineage.split("/"), known.split("/")
    return cluster == same and int(timeline) < int(later)


# --- what is noted of it --------------------------------------------------------------------------------------------------


def _here(connection: Any, schema: str) -> str:
    """The server's lineage, and which table the events are in: a dump that is restored makes another one, in the same
    cluster too."""
    query = f"select ({_ASK}) || '/' || to_regclass(%s)::oid"
    return str(connection.execute(query, (f"{schema}.spine_events",)).fetchone()[0])


def note(connection: psycopg.Connection[Any], target: Target, schema: str) -> None:
    """Where this journal is, unless that is known. Who may not write leaves it to others."""
    if lineage_of(connection) is None:
        return
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
        if target.role:
            connection.execute(f"set local role {quoted(target.role)}")
        connection.execute(
            f"insert into {schema}.spine_meta (name, value) select 'lineage', %s"
            f" where not exists (select 1 from {schema}.spine_meta where name = 'lineage') on conflict (name) do nothing",
            (_here(connection, schema),),
        )


def moved(cursor: Cursor, noted: str | None) -> str | None:
    """From where to where, if it is not what was noted."""
    here = _here(cursor.connection, cursor.schema) if noted else noted
    return f"{noted} -> {here}" if here != noted else None
