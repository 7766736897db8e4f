"""One connection that writes, and what becomes of its transactions when it is lost.

begin ──► ... ──► COMMIT ──► done
  │        │         │ lost: connect again, and ask the server what became of the transaction, by its number
  │        │         ├── committed ──► done
  │        └─ lost ──┴── aborted ──► Again: nothing of it happened
  └─ can't be reached: asked again until the limit, then JournalError        can't be told ──► OutcomeUnknown

Who answers may be a standby that was promoted meanwhile. There the number may be another transaction's, and is not asked for.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from ..errors import JournalBusy, JournalDenied, JournalError, OutcomeUnknown
from ._postgres_connect import begin, entering, is_lost, is_passing, is_slow, reading, trouble
from ._postgres_known import Raced
from ._postgres_lineage import Connecting, JournalCut
from ._postgres_schema import Identity
from ._postgres_sql import Cursor
from ._sqlite_outcome import Trace

T = TypeVar("T")
TOKEN = 0x7370_696E  # the appender token: this, and the journal's own number
CALLS = 0x7370_6361  # held by whoever registers, leases, operates or sweeps: one after the other
RECONNECT_S = 0.05  # the thread's own; nothing tells when a server is back
TRIES = 8  # of what others got in the way of
# Where a role or a database has it off, an acknowledged commit could be lost; whatever else is set stays.
_DURABLE = "select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'"


# Written, so that this transaction's COMMIT waits for a synchronous standby: it then has all that was committed before, too.
MARK = "select pg_logical_emit_message(true, 'eventspine', '')"


# psycopg counts a query as prepared once that is sent, though one before it in the same pipeline has failed and the server never
# saw it. After a rollback it has all prepared anew, if it looks at that one: at two statements at once it always does.
_FORGETTING = "rollback; select 1"


class Again(Exception):
    """The connection was lost, and nothing of the transaction happened."""


class Session:
    def __init__(self, connecting: Connecting) -> None:
        self.connecting, self.target, self.identity = connecting, connecting.target, connecting.identity
        self.connection: psycopg.Connection[Any] | None = None
        self.lineage: str | None = None  # of the server that it is connected to, or was
        self.commit_statement: Callable[[Any, str], Any] = _commit  # a seam for faults at COMMIT
        self.ended = False  # nobody waits any more for a server that can't be reached

    def connected(self, deadline: float) -> psycopg.Connection[Any]:
        while self.connection is None:
            try:
                self.connection, self.lineage = self.connecting()
            except (JournalDenied, JournalCut):
                raise
            except JournalError:
                if time.monotonic() > deadline or self.ended:
                    raise
                time.sleep(RECONNECT_S)
        return self.connection

    def begin(self, deadline: float, *, limit_s: float, alone: bool = False, token: bool = True) -> str:
        """The number of the transaction, by which the server knows it later. With the appender token, unless it is taken
        later; `alone`, with the lock of calls before it."""
        steps = [begin(self.target, self.identity.schema, limit_s=limit_s)]
        if alone:
            steps.append(f"select pg_advisory_xact_lock({CALLS}, {self.identity.number})")
        if token:
            steps.append(take_token(self.identity))
        steps.append(_DURABLE)
        connection = self.connected(deadline)
        try:
            with entering(self.target):
                cursor = connection.execute("; ".join([*steps, "select pg_current_xact_id()::text"]))
        except JournalDenied as error:
            self.roll_back(error)
            raise
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        assert row is not None
        return str(row[0])

    def commit(self, xid: str, deadline: float, *, rings: bool, trace: Trace | None = None) -> None:
        """Raises Again, OutcomeUnknown, or what COMMIT refused. Whoever listens is notified outside of the transaction:
        PostgreSQL lets transactions that notify commit one after the other only."""
        connection, lineage = self.connection, self.lineage
        assert connection is not None
        try:
            with self.connecting.committing(connection):
                self.commit_statement(connection, f"; notify {channel_of(self.identity)}" if rings else "")
        except psycopg.Error as error:
            lost = is_lost(error)
            if lost:
                self.disconnect()
            elif connection.info.transaction_status != TransactionStatus.IDLE:
                raise
            # Else it may be the bell that was refused, or ended, behind a COMMIT that has happened.
            if not self._was_committed(xid, trace, lineage, deadline):
                if not lost:
                    raise
                raise Again from error

    def _was_committed(self, xid: str, trace: Trace | None, lineage: str | None, deadline: float) -> bool:
        """By the server's own record. On another timeline the number is another's: there only what the transaction has
        written can tell. One whose session ended while it waited for a standby is committed, and only on the primary."""
        why: Exception | None = None
        while time.monotonic() < deadline and not self.connecting.given_up:
            try:
                connection = self.connected(deadline)
                if lineage == self.lineage:
                    status = self._status(connection, xid, trace)
                else:
                    status = self._status_elsewhere(connection, trace)
                if status == "committed":
                    with self.connecting.committing(connection):
                        connection.execute(f"begin; {_DURABLE}; {MARK}; commit")
                    return True
                if status == "aborted":
                    return False
                if status != "in progress":
                    break
            except (psycopg.Error, JournalError) as error:
                why = error
                self.disconnect()
                if isinstance(error, psycopg.Error) and not (is_lost(error) or is_slow(error)):
                    break  # such as a number that the server has not given out yet: it is another one, behind the first
            time.sleep(RECONNECT_S)
        raise OutcomeUnknown(
            f"The connection to {self.target.name} was lost while committing, and it can't be told whether that happened. "
            "Ask again with the same ids."
        ) from why

    def _status(self, connection: psycopg.Connection[Any], xid: str, trace: Trace | None) -> str | None:
        row = connection.execute("select pg_xact_status(%s::xid8)", (xid,)).fetchone()
        if row and row[0] == "committed" and _is_event(trace) and not self._has(connection, trace):
            return None
        return str(row[0]) if row and row[0] else None

    def _status_elsewhere(self, connection: psycopg.Connection[Any], trace: Trace | None) -> str | None:
        """An event that isn't there says that nothing is. A cursor may have been moved on by others."""
        if trace is not None and self._has(connection, trace):
            return "committed"
        return "aborted" if _is_event(trace) else None

    def _has(self, connection: psycopg.Connection[Any], trace: Trace) -> bool:
        with reading(connection, self.target):
            return Cursor(connection, self.identity.schema).execute(trace.sql, trace.values).fetchone() is not None

    def roll_back(self, error: BaseException) -> None:
        if self.connection is None:
            return
        if is_lost(error) or self.connection.closed:
            self.disconnect()
            return
        try:
            self.connection.execute(_FORGETTING)
        except psycopg.Error:
            self.disconnect()

    def repeatedly(self, attempt: Callable[[float], T], limit_s: float) -> T:
        """`attempt`, given its deadline, in a transaction; again when others were in its way, or the connection was lost and
        nothing of it happened. Raises JournalBusy, JournalError, or what the attempt itself is to blame for."""
        deadline, tries = time.monotonic() + limit_s, 0
        while True:
            tries += 1
            try:
                return attempt(deadline)
            except (Again, Raced, psycopg.Error) as error:
                self.roll_back(error)
                if not _may_try_again(error, tries) or time.monotonic() > deadline:
                    raise self._explained(error) from error
                time.sleep(random.uniform(0, 0.005) * tries)  # on a thread of our own: who is in the way gets out of it
            except BaseException as error:
                self.roll_back(error)
                raise

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, (Again, Raced)) or is_slow(error):
            return JournalBusy(
                f"{self.target.name}: others' transactions were in the way for too long "
                f"({str(error) or type(error).__name__}). Nothing of this was stored."
            )
        return trouble(error, self.target) or error

    def disconnect(self) -> None:
        if self.connection is not None:
            with contextlib.suppress(psycopg.Error):
                self.connection.close()
            self.connection = None


def _may_try_again(error: Exception, tries: int) -> bool:
    if isinstance(error, Again) or is_lost(error):
        return True
    return tries < TRIES and (isinstance(error, Raced) or is_passing(error))


def _is_event(trace: Trace | None) -> TypeGuard[Trace]:
    return trace is not None and "spine_events" in trace.sql


def take_token(identity: Identity) -> str:
    return f"select pg_advisory_xact_lock_shared({TOKEN}, {identity.number})"


def channel_of(identity: Identity) -> str:
    """Of LISTEN and NOTIFY."""
    return f"spine_{identity.number & 0xFFFFFFFF:08x}"


def _commit(connection: Any, bell: str) -> None:
    connection.execute(f"commit{bell}")
