"""Calls: what processes and operators do now and then, one after the other in the whole journal, on a thread of their own.

Registrations, leases, control and retention read much and decide by it, so they exclude one another by a lock; beside
units they are safe by the rows that both lock. Decided is in the same functions as on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from . import _sql_control as control, _sql_registry as registry
from ._postgres_apply import insert
from ._postgres_lineage import Connecting
from ._postgres_session import Session
from ._postgres_sql import Cursor
from ._records import decode_record
from ._sql_apply import check_version
from .port import (
    OWN_FEED,
    WHOLE_FEED,
    Control,
    Drop,
    LeaseView,
    Process,
    Registered,
    Registration,
    Rename,
    Rewind,
    SetState,
)

T = TypeVar("T")
LIMIT_S = 30.0
FIRED_BYTES = 16_000_000  # of timers, at once
Function = Callable[[Any], tuple[T, bool]]


class Calls:
    def __init__(self, connecting: Connecting, *, busy_s: float, rang: Callable[[bool], None]) -> None:
        self._session, self._busy_s, self._rang = Session(connecting), busy_s, rang
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"spine calls {connecting.target.name}")

    def submit(
        self, function: Function[T], *, alone: bool = True, token: bool = False, limit_s: float = LIMIT_S
    ) -> Future[T]:
        """A function in a transaction of its own. It gives its result, and whether to ring. `token`: it appends."""
        return self._thread.submit(self._run, function, alone, token, limit_s)

    def close(self) -> None:
        self._session.ended = True
        self._thread.shutdown(wait=True)
        self._session.disconnect()

    def _run(self, function: Function[T], alone: bool, token: bool, limit_s: float) -> T:
        value, rings = self._session.repeatedly(
            lambda deadline: self._try(function, deadline, alone, token, limit_s), self._busy_s
        )
        self._rang(rings)
        return value

    def _try(self, function: Function[T], deadline: float, alone: bool, token: bool, limit_s: float) -> tuple[T, bool]:
        xid = self._session.begin(deadline, limit_s=limit_s, alone=alone, token=token)
        value, rings = function(
            Cursor(self._session.connection, self._session.identity.schema, self._session.identity.number)
        )
        self._session.commit(xid, deadline, rings=rings)
        return value, rings


# --- functions that need more locks, or less, than on SQLite --------------------------------------------------------------


def register(cursor: Cursor, registration: Registration, now_us: int, head: int) -> tuple[Registered, bool]:
    """`head`: as far as the feed is decided. Who begins now misses nothing that is published from now on, though it has a
    lower position than what is there."""
    _lock_subscriptions(cursor, "service = %s", registration.service)
    return registry.register(cursor, registration, now_us, head)  # type: ignore[arg-type]


def lease(
    cursor: Cursor, process: Process, take: Sequence[str], release: Sequence[str], now_us: int, until_us: int
) -> tuple[LeaseView, bool]:
    query = (
        f"select 1 from {cursor.schema}.spine_leases where owner = %s or name = any(%s) order by name for no key update"
    )
    cursor.run(query, (process.id, [*take, *release]))
    return registry.lease(cursor, process, take, release, now_us, until_us)  # type: ignore[arg-type]


def leave(cursor: Cursor, process: Process, now_us: int) -> tuple[None, bool]:
    cursor.run(
        f"select 1 from {cursor.schema}.spine_leases where owner = %s order by name for no key update", (process.id,)
    )
    return registry.leave(cursor, process, now_us)  # type: ignore[arg-type]


def carry_out(cursor: Cursor, operations: Sequence[Control], now_us: int) -> tuple[int, bool]:
    numbers = [one.subscription for one in operations if isinstance(one, (Rewind, SetState, Rename))]
    if numbers:
        _lock_subscriptions(cursor, "number = any(%s)", numbers)
    rewound = [one.subscription for one in operations if isinstance(one, Rewind)]
    dropped = [number for one in operations if isinstance(one, Drop) for number in one.numbers]
    if rewound or dropped:
        of_dropped = (
            f"select subscription, feed, partition from {cursor.schema}.spine_deliveries"
            " where number = any(%s) and feed = %s and partition = %s"
        )
        cursor.run(
            f"select 1 from {cursor.schema}.spine_cursors where subscription = any(%s)"
            f" or (subscription, feed, partition) in ({of_dropped}) order by subscription, feed, partition for update",
            (rewound, dropped, OWN_FEED, WHOLE_FEED),
        )
    return control.carry_out(cursor, operations, now_us)  # type: ignore[arg-type]


def _lock_subscriptions(cursor: Cursor, where: str, value: Any) -> None:
    cursor.run(
        f"select 1 from {cursor.schema}.spine_subscriptions where {where} order by number for no key update", (value,)
    )


def fire(cursor: Cursor, now_us: int, limit: int, wall_us: int) -> tuple[int, bool]:
    """Whoever comes second passes over what the first has in hand."""
    recorded_us, _ = check_version(cursor, wall_us)  # type: ignore[arg-type]
    table = f"{cursor.schema}.spine_timers"
    rows = cursor.run(
        f"delete from {table} where id in (select id from (select id, sum(size) over (order by due_us, id) - size as before"
        f" from (select id, due_us, octet_length(record) as size from {table} where due_us <= %s order by due_us, id limit %s"
        " for update skip locked) as due) as placed where before < %s) returning due_us, record",
        (now_us, limit, FIRED_BYTES),
    ).fetchall()
    records = [decode_record(record) for _, record in sorted(rows, key=lambda row: (row[0], decode_record(row[1]).id))]
    insert(cursor, [(*record[1:8], recorded_us, *record[9:]) for record in records])
    return len(rows), bool(rows)
