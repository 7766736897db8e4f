"""A forgotten `within=`: an event that is published beside rows of a session that are not committed.

Each session of the factory is known to its task or thread from its first transaction on, and what its connection is sent
is looked at; so what counts as changed is the same whatever way it was changed."""

from __future__ import annotations

import os
import re
import weakref
from typing import TYPE_CHECKING, Any

from ..errors import EventRefused
from ..journal.port import Journal
from ..within import beside

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import async_sessionmaker
    from sqlalchemy.orm import Session, SessionTransaction, sessionmaker

_WROTE = "eventspine_wrote"  # in `session.info`, while it has sent writes that are not committed
_HEARD = "eventspine_heard"  # there too: the connections that it sends them on
_WRITES = re.compile(r"\s*(insert|update|delete|merge|replace|truncate|copy)\b", re.IGNORECASE)
_MAY_WRITE = re.compile(r"\s*with\b", re.IGNORECASE)  # by what stands within
_WRITES_WITHIN = re.compile(r"\b(insert\s+into|delete\s+from|merge\s+into|(?<!for )(?<!key )update\s)", re.IGNORECASE)


def refuse_dual_writes(sessions: sessionmaker[Any] | async_sessionmaker[Any]) -> None:
    """Refuse `publish(...)` without `within=` while a session made by this factory has uncommitted changes on the
    journal's file, or in its PostgreSQL database, in the same task or thread: one of both could be stored without the other.
    Whatever way its connection was sent them counts: by objects, in bulk, as SQL. What a function in the database changes is
    not seen here; on SQLite the write lock that it holds is, by the journal. A database is known
    by the host, port and name in the URLs of both; an engine that goes there by another way, such as a pooler, is not seen."""
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import async_sessionmaker

    target: Any = sessions
    if isinstance(sessions, async_sessionmaker):
        kind = sessions.kw.get("sync_session_class") or sessions.class_.sync_session_class
        target = type(kind.__name__, (kind,), {})  # its own, lest everybody's sessions are watched
        sessions.configure(sync_session_class=target)
    event.listen(target, "after_transaction_create", _began)
    event.listen(target, "after_transaction_end", _ended)
    event.listen(target, "after_begin", _connected)


def _began(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        beside.set((*(check for check in beside.get() if check.alive), _Beside(session)))


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_WROTE, None)
        for hear_no_more in session.info.pop(_HEARD, {}).values():
            hear_no_more()


def _connected(session: Session, _: SessionTransaction, connection: Connection) -> None:
    """It was given a connection, or has begun a savepoint on one."""
    from sqlalchemy import event

    heard, session_of = session.info.setdefault(_HEARD, {}), weakref.ref(session)
    if connection in heard:
        return

    def sent(_: Any, __: Any, statement: str, *_more: Any) -> None:
        if (own := session_of()) is not None and _is_write(statement):
            own.info[_WROTE] = True

    event.listen(connection, "after_cursor_execute", sent)
    heard[connection] = lambda: event.remove(connection, "after_cursor_execute", sent)


def _is_write(statement: str) -> bool:
    if _MAY_WRITE.match(statement):
        return _WRITES_WITHIN.search(statement) is not None
    return _WRITES.match(statement) is not None


class _Beside:
    """One session of this task or thread. It is not kept alive by having been seen."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)

    @property
    def alive(self) -> bool:
        session = self._session()
        return session is not None and session.in_transaction()

    def __call__(self, journal: Journal) -> None:
        session = self._session()
        if session is None or not session.in_transaction():
            return
        if _has_changes(session) and _on(session, journal):
            raise EventRefused(
                "A session of this task has changes in the journal's database that are not committed. Published beside it, "
                "one of both could be stored without the other (a dual write). Publish with within=session; or, where the "
                "event is not about those changes, commit or roll back first."
            )


def _has_changes(session: Session) -> bool:
    """`dirty` alone has whatever an attribute was set on, be it to the value that it had."""
    held_back = session.new or session.deleted or any(session.is_modified(one) for one in session.dirty)
    return bool(session.info.get(_WROTE) or held_back)


def _on(session: Session, journal: Journal) -> bool:
    try:
        url = session.get_bind().engine.url
        if url.get_backend_name() == "postgresql":
            return not _places(url).isdisjoint(_places_of(journal))
        return os.path.samefile(url.database or "", getattr(journal, "path", ""))
    except Exception:  # noqa: BLE001 -- several binds, no file, not there yet: it can't be told
        return False


Place = tuple[str, str, str]  # host, port, database
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


def _places(url: URL) -> set[Place]:
    """Where an engine connects to. Hosts may also be in the query, as libpq has them: a directory of sockets, or several."""
    if url.database is None:  # its creator= says where, or the environment
        return set()
    said = {name: ",".join(url.normalized_query.get(name, ())) for name in ("host", "port")}
    return _listed(url.host or said["host"], str(url.port or said["port"]), url.database)


def _places_of(journal: Journal) -> set[Place]:
    target = getattr(journal, "target", None)
    if target is None:
        return set()
    from psycopg.conninfo import conninfo_to_dict

    said = conninfo_to_dict(target.conninfo)
    return _listed(str(said.get("host", "")), str(said.get("port", "")), str(said.get("dbname", "")))


def _listed(hosts: str, ports: str, database: str) -> set[Place]:
    """Several hosts have one port, or each its own: `host=one,two`, `port=5432,5433`; SQLAlchemy has also `host=one:5432`."""
    each = hosts.split(",")
    listed = ports.split(",")
    numbers = listed if len(listed) == len(each) else listed[:1] * len(each)
    found = set()
    for one, number in zip(each, numbers, strict=True):
        host, colon, own = one.rpartition(":") if one.count(":") == 1 else (one, "", "")
        found.add(("localhost" if host in _HERE else host, own if colon else number or "5432", database))
    return found
