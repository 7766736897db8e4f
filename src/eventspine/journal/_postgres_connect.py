"""Connecting to PostgreSQL: what a URL says, how sessions are set, and what PostgreSQL's errors mean to us.

    postgresql://user:password@host:5432/shop?schema=spine&role=shop_app

What is ours in the query is taken out; everything else is libpq's, and goes there as it is (sslmode, several hosts, a service
file). Only a primary will do: a standby can't be written to, and its feed ends somewhere behind. All of a transaction's own
settings are set inside it, so that a pooler which gives each transaction another session (PgBouncer) is as good as the server.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from psycopg import errors

from ..errors import JournalBusy, JournalDenied, JournalError, JournalFull, SettingsError
from . import without_password

OLDEST = 130000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_DEFAULTS = {
    "application_name": "eventspine",
    "connect_timeout": "10",
    "target_session_attrs": "read-write",
    # A host that is gone without a word is noticed after half a minute, not after two hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says. Shown without its password."""

    conninfo: str
    shown: str
    schema: str | None = None  # None: the first of the role's own search path
    role: str | None = None
    prepare: bool = True  # statements are prepared on the server
    transactions: int = 4  # how many `delivery.transaction()` may be open at once in this process
    readers: int = 3

    def __repr__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        """Where the database is, for messages."""
        return self.shown.partition("?")[0]


def target_of(url: str) -> Target:
    shown = without_password(url)
    parts = urlsplit(url)  # to libpq a plus is a plus, and no space
    options = dict(parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True))
    ours: dict[str, Any] = {
        name: _name(name, options.pop(name), shown) for name in ("schema", "role") if name in options
    }
    if (prepare := options.pop("prepare", "on")) not in ("on", "off"):
        raise SettingsError(f"prepare={prepare!r} in {shown} is neither on nor off.", url=shown)
    for name in ("transactions", "readers"):
        if name in options:
            ours[name] = _count(name, options.pop(name), shown)
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in options}
    # Whatever PGCLIENTENCODING or a role says: texts are whole Unicode, and one that can't be sent would be tried for ever.
    query = urlencode({**defaults, **options, "client_encoding": "UTF8"}, quote_via=quote)
    # Not by urlunsplit, which leaves the slashes out where there is no host.
    conninfo = f"postgresql://{parts.netloc}{parts.path}?{query}"
    if (wanted := options.get("target_session_attrs", "read-write")) not in ("read-write", "primary", "any"):
        raise SettingsError(
            f"target_session_attrs={wanted} in {shown} asks for a standby. A journal is read from its primary, too: leave the "
            "option out, and the primary is found among the hosts.",
            url=shown,
        )
    try:
        psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        wrong = str(error).strip() if "password" not in str(error) and parts.password is None else "it can't be read"
        raise SettingsError(
            f"{shown!r} names no PostgreSQL database ({wrong}). Write postgresql://user@host/database?schema=spine.",
            url=shown,
        ) from None  # its words may hold the password
    return Target(conninfo, shown, prepare=prepare == "on", **ours)


def _name(option: str, value: str, shown: str) -> str:
    if not _NAME.fullmatch(value):
        raise SettingsError(
            f"{option}={value!r} in {shown} is no plain name. Use letters, digits and underscores, at most 63.",
            url=shown,
        )
    if option == "schema" and value.lower().startswith("pg_"):
        raise SettingsError(
            f"schema={value!r} in {shown} is a name that PostgreSQL keeps for itself. Use another.", url=shown
        )
    return value


def _count(option: str, value: str, shown: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 100:
        raise SettingsError(f"{option}={value!r} in {shown} is no number from 1 to 100.", url=shown)
    return int(value)


def quoted(name: str) -> str:
    """A name as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


def connect(target: Target) -> psycopg.Connection[Any]:
    """In autocommit: whoever wants a transaction says so."""
    try:
        connection = psycopg.connect(target.conninfo, autocommit=True)
    except psycopg.Error as error:
        raise unreachable(target, error) from error
    if connection.info.server_version < OLDEST:
        version = connection.info.server_version // 10000
        connection.close()
        raise SettingsError(f"{target.name} is PostgreSQL {version}; 13 or newer is needed.")
    if connection.info.parameter_status("in_hot_standby") == "on":  # as target_session_attrs=any may find one
        connection.close()
        raise _standby(target)
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        connection.close()
        raise SettingsError(
            f"{target.name} keeps its texts as {encoding}, and an event may have any character. Make a database that can: "
            "createdb --encoding=UTF8 --template=template0 NAME."
        )
    if not target.prepare:
        connection.prepare_threshold = None
    return connection


def begin(
    target: Target, schema: str | None, *, limit_s: float, read_only: bool = False, snapshot: bool = False
) -> str:
    """The statements that begin a transaction of ours: one round trip.

    A process that is stopped inside of it would keep others from the rows that it has locked, and readers from what comes
    after its events; the server ends its session instead. `snapshot`: all its queries see one moment."""
    limit_ms = max(1, round(limit_s * 1000))
    parts = [
        f"begin isolation level {'repeatable read' if snapshot else 'read committed'}{' read only' if read_only else ''}",
        f"set local statement_timeout = {limit_ms}",
        *(["set local extra_float_digits = 1"] if read_only else []),  # a float is read as it was written
        f"set local idle_in_transaction_session_timeout = {max(limit_ms, 1000) * 2}",
    ]
    if target.role:
        parts.append(f"set local role {quoted(target.role)}")
    if target.schema and schema:
        parts.append(f"set local search_path = {schema}, public")
    return "; ".join(parts)


@contextlib.contextmanager
def reading(connection: psycopg.Connection[Any], target: Target) -> Iterator[None]:
    """Reads inside as the role that the URL names. In a transaction, for the sake of poolers: the role of a session would
    be left to whoever is given the session next."""
    if target.role is None:
        yield
        return
    try:
        with entering(target):
            connection.execute(f"begin isolation level read committed read only; set local role {quoted(target.role)}")
        yield
        connection.execute("commit")
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            connection.execute("rollback")
        raise


@contextlib.contextmanager
def entering(target: Target) -> Iterator[None]:
    """What begins a transaction of ours, or looks for the journal: nobody's statement is to blame for what fails."""
    try:
        yield
    except (errors.InsufficientPrivilege, errors.InvalidParameterValue, errors.UndefinedObject) as error:
        raise _denied(target, _said(error), _instead(target, error)) from error


@contextlib.contextmanager
def opening(target: Target) -> Iterator[None]:
    """What finds the journal, or makes its tables."""
    try:
        with in_time(target), entering(target):
            yield
    except psycopg.Error as error:
        if (found := trouble(error, target)) is None:
            raise
        raise found from error


@contextlib.contextmanager
def in_time(target: Target) -> Iterator[None]:
    """Statements that have no limit of our own, or none that a handler chose."""
    try:
        yield
    except errors.QueryCanceled as error:
        raise JournalBusy(
            f"{target.name} gave no answer in time ({_said(error)}). Others may hold the journal's tables, or the statement_timeout of this "
            "role or database is too short: alter role ... set statement_timeout, or options=-c%20statement_timeout=5s in the URL."
        ) from error


# --- errors -----------------------------------------------------------------------------------------------------------


def unreachable(target: Target, error: BaseException) -> JournalError:
    said = _said(error) or type(error).__name__
    if (
        isinstance(error, errors.TooManyConnections)
        or "too many clients" in said
        or "remaining connection slots" in said
    ):
        return JournalBusy(
            f"{target.name} takes no more connections ({said}). Raise its max_connections, or let fewer processes of this "
            "service run; each has up to ten (how-to/postgresql.md)."
        )
    if _STANDBY.search(said) and not _PASSING.search(said):
        return _standby(target)
    instead = next((instead for pattern, instead in _DENIALS if pattern.search(said)), None)
    if instead is not None and not _PASSING.search(said):
        return _denied(target, said, instead)
    return JournalError(
        f"PostgreSQL at {target.name} can't be reached: {said}{'' if said.endswith('?') else '.'} Nothing of this was stored; it is tried again as soon as "
        "somebody asks."
    )


def _standby(target: Target) -> JournalError:
    return JournalError(
        f"{target.name} is a standby, or read-only: its feed ends somewhere behind the primary's, and nothing can be stored. "
        "Name the primary, or all hosts (postgresql://one,two/...): the primary among them is found. In a failover it is there "
        "as soon as one is promoted (how-to/postgresql.md)."
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())


def _denied(target: Target, said: str, instead: str) -> JournalDenied:
    what = {"role": target.role or "its role", "schema": target.schema or "its schema"}
    return JournalDenied(f"{target.name} refuses: {said}. {instead.format(**what)} (how-to/postgresql.md).")


def _instead(target: Target, error: psycopg.Error) -> str:
    """By PostgreSQL's codes, since its words are in the language of its lc_messages. A right to a schema or table has the same
    code as one to a role, and is asked for in a function of its own."""
    if not isinstance(error, errors.InsufficientPrivilege):
        return _MAKE_ROLE if target.role else "Ask who administers it"
    of_object = target.role is None or error.diag.source_function == "aclcheck_error"
    return _GRANT if of_object else "As an administrator: grant {role} to the user that connects"


_MAKE_ROLE = "Make the role, or name another in the journal's URL"
_GRANT = (
    "As the owner of the journal's tables grant usage on schema {schema}, and all on its tables and sequences; or name the owner "
    "with role="
)
# By PostgreSQL's words, since a refused connection has no code in the driver. In another language it is an outage.
_DENIALS = (
    (
        re.compile(r"authentication failed|no password supplied"),
        "Mend the user or the password in the journal's URL, or in PGUSER, PGPASSWORD or ~/.pgpass",
    ),
    (re.compile(r'database "[^"]*" does not exist'), "Make it, createdb NAME, or name another in the journal's URL"),
    (
        re.compile(r"pg_hba\.conf"),
        "Let this user in from here in its pg_hba.conf, or connect as it asks, such as with sslmode=require in the URL",
    ),
    (re.compile(r"permission denied for database"), "As its owner: grant connect on database ... to the user"),
    (re.compile(r"not permitted to log in"), "Name a role with LOGIN in the URL, and this one with role="),
    (re.compile(r'role "[^"]*" does not exist'), _MAKE_ROLE),
)
_STANDBY = re.compile(r"session is read-only|server is in hot standby mode|not accept read-write")
_PASSING = re.compile(
    r"refused|time[d]? ?out|starting up|shutting down|could not translate|unreachable|No route|reset by peer"
)


def is_lost(error: BaseException) -> bool:
    """Whether the session is gone."""
    return isinstance(error, (psycopg.InterfaceError, errors.AdminShutdown, errors.CrashShutdown)) or (
        isinstance(error, psycopg.OperationalError)
        and (error.sqlstate or "08")[:2] in ("08", "57")
        and not _is_cancel(error)
    )


def _is_cancel(error: BaseException) -> bool:
    return isinstance(error, errors.QueryCanceled)


def is_passing(error: BaseException) -> bool:
    """Somebody else was in the way: the same may well succeed a moment later."""
    return isinstance(error, (errors.DeadlockDetected, errors.SerializationFailure))


def is_slow(error: BaseException) -> bool:
    return _is_cancel(error)


def trouble(error: BaseException, target: Target) -> JournalError | None:
    """The journal's trouble behind an error; None when a statement is to blame."""
    if isinstance(error, JournalError):
        return error
    if not isinstance(error, psycopg.Error):
        return None
    said = _said(error)
    if isinstance(error, errors.InsufficientPrivilege) and re.search(r"\bspine_\w+", said):
        return _denied(target, said, _GRANT)
    if is_lost(error):
        return JournalError(f"The connection to {target.name} was lost: {said}. Nothing of this was stored.")
    if isinstance(error, errors.DiskFull):
        return JournalFull(
            f"{target.name} has no space left ({said}). Nothing of this was stored; free some and go on."
        )
    if isinstance(error, (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)):
        return JournalBusy(f"{target.name} was busy with others' transactions ({said}). Nothing of this was stored.")
    if isinstance(error, (errors.OutOfMemory, errors.TooManyConnections, errors.ReadOnlySqlTransaction)):
        return JournalError(f"{target.name} can't take it now ({said}). Nothing of this was stored.")
    return None
