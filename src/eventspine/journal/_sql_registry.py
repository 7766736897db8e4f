"""Registration, leases and timers: what a process says when it starts, and while it lives.

Each function runs in a write transaction of its own, and gives its result and whether other processes should be rung.
What a registration means is decided in registry.py; here it is executed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence

from . import _sql_read as read
from ._sql_apply import check_version
from ._sql_known import among
from ._sql_plan import EVENTS
from .port import OWN_FEED, LeaseView, Process, Registered, Registration, Subscription
from .processes import is_gone
from .registry import Create, StoredService, passes, plan

LAST = 2**63 - 1  # beyond every position
FORGET_AFTER_US = 3_600_000_000  # a process that died without a word is listed this long
_LIVES = (  # columns are named everywhere, because a newer release may have added some (R9)
    '/*spine*/ insert into spine_processes (id, service, generation, pid, host, started_us, "window", release,'
    " until_us, pid_started) values (?,?,?,?,?,?,?,?,?,?) on conflict (id) do update set service = excluded.service,"
    " generation = excluded.generation, pid = excluded.pid, host = excluded.host, started_us = excluded.started_us,"
    ' "window" = excluded."window", release = excluded.release, until_us = excluded.until_us,'
    " pid_started = excluded.pid_started"
)


def register(
    cursor: sqlite3.Cursor, registration: Registration, now_us: int, head: int | None = None
) -> tuple[Registered, bool]:
    """`head`: where the feed ends, for a store where that is not its last position."""
    check_version(cursor, now_us)
    service = registration.service
    planned = plan(
        registration,
        StoredService(declarations(cursor, service), _newest_live(cursor, service, now_us)),
        read.subscriptions(cursor, service),
        read.head(cursor) if head is None else head,
        lambda subscription: backlog(cursor, subscription),
    )
    if planned.first_seen:
        cursor.execute(
            "/*spine*/ insert into spine_services (service, generation, declaration, first_seen_us) values (?,?,?,?)",
            (service, planned.generation, planned.declaration, now_us),
        )
    _update(cursor, planned.updates)
    passed = passes(planned.given_up, lambda row: _unfinished(cursor, row))
    numbers = [
        _create(cursor, service, member, now_us) if isinstance(member, Create) else member for member in planned.members
    ]
    if planned.changes:
        raise_control(cursor)
    rows = {row.number: row for row in read.subscriptions(cursor, service)}
    members = tuple(rows[number] for number in numbers)
    return Registered(planned.generation, members, planned.newest, passed), planned.changes


def declarations(cursor: sqlite3.Cursor, service: str) -> list[tuple[int, str]]:
    return cursor.execute(
        "/*spine*/ select generation, declaration from spine_services where service = ? order by generation", (service,)
    ).fetchall()


def _newest_live(cursor: sqlite3.Cursor, service: str, now_us: int) -> int:
    live = (row.generation for row in read.processes(cursor) if row.service == service and is_live(row, now_us))
    return max(live, default=0)


def is_live(process: Process, now_us: int) -> bool:
    return process.until_us > now_us and not is_gone(process)


def _update(cursor: sqlite3.Cursor, rows: Sequence[Subscription]) -> None:
    # First every name is freed, so that two subscriptions may exchange theirs.
    cursor.executemany(
        "/*spine*/ update spine_subscriptions set name = '?' || number where number = ?",
        [(row.number,) for row in rows],
    )
    cursor.executemany(
        "/*spine*/ update spine_subscriptions set name = ?, state = ?, generation = ?, channels = ?, types = ?,"
        " ordering = ?, on_dead = ?, republish = ? where number = ?",
        [
            (
                row.name, row.state, row.generation, json.dumps(row.channels), json.dumps(row.types), row.order,
                row.on_dead, row.republish, row.number,
            )
            for row in rows
        ],
    )  # fmt: skip


def _create(cursor: sqlite3.Cursor, service: str, create: Create, now_us: int) -> int:
    declared = create.declaration
    number: int = cursor.execute(
        "/*spine*/ insert into spine_subscriptions (uid, service, name, state, generation, channels, types, ordering,"
        " on_dead, created_us) values (?,?,?,'active',1,?,?,?,?,?) returning number",
        (
            os.urandom(16), service, declared.name, json.dumps(declared.channels), json.dumps(declared.types),
            declared.order, declared.on_dead, now_us,
        ),
    ).fetchall()[0][0]  # fmt: skip
    cursor.executemany(
        "/*spine*/ insert into spine_cursors (subscription, feed, partition, position) values (?,?,?,?)",
        [(number, OWN_FEED, partition, create.position) for partition in create.partitions],
    )
    return number


def backlog(cursor: sqlite3.Cursor, subscription: Subscription) -> int:
    """Wanted events that it has not finished, and deliveries that it still owes."""
    owed: int = cursor.execute(
        "/*spine*/ select count(*) from spine_deliveries where subscription = ? and state <> 'settled'",
        (subscription.number,),
    ).fetchone()[0]
    return owed + _unfinished(cursor, subscription)


def _unfinished(cursor: sqlite3.Cursor, subscription: Subscription) -> int:
    values = {
        "channels": json.dumps(subscription.channels),
        "types": json.dumps([type for type, _ in subscription.types]),
    }
    waiting = 0
    for _, partition, position, beyond, feed in read.cursors(cursor, [subscription.number]):
        if feed != OWN_FEED:
            continue
        for after, upto in _open_ranges(position, beyond):
            waiting += cursor.execute(
                "/*spine*/ select count(*) from spine_events where position > :after and position <= :upto"
                " and (:partition < 0 or slot & 15 = :partition) and channel in (select value from json_each(:channels))"
                f"{' and type in (select value from json_each(:types))' if subscription.types else ''}",
                {"after": after, "upto": LAST if upto is None else upto, **values, "partition": partition},
            ).fetchone()[0]
    return waiting


def _open_ranges(position: int, beyond: Sequence[tuple[int, int]]) -> list[tuple[int, int | None]]:
    """What lies between the finished ranges, and after the last."""
    edges = [position, *(edge for pair in beyond for edge in pair)]
    closed: list[tuple[int, int | None]] = list(zip(edges[::2], edges[1::2], strict=False))
    return [*closed, (edges[-1], None)]


def raise_control(cursor: sqlite3.Cursor) -> None:
    cursor.execute("/*spine*/ update spine_meta set value = cast(value as integer) + 1 where name = 'control'")


# --- leases -----------------------------------------------------------------------------------------------------------


def lease(
    cursor: sqlite3.Cursor, process: Process, take: Sequence[str], release: Sequence[str], now_us: int, until_us: int
) -> tuple[LeaseView, bool]:
    check_version(cursor, now_us)
    process = process._replace(until_us=until_us)
    cursor.execute(_LIVES, process)
    released = _release(cursor, process, release)
    cursor.execute("/*spine*/ update spine_leases set until_us = ? where owner = ?", (until_us, process.id))
    processes = {row.id: row for row in read.processes(cursor)}
    live = {row.id for row in processes.values() if is_live(row, now_us)}
    _take(cursor, process, take, live)
    _forget(cursor, now_us)
    held = cursor.execute(
        "/*spine*/ select name, epoch, owner, until_us, unclean from spine_leases where owner = ?", (process.id,)
    ).fetchall()
    same = [row for row in processes.values() if row.service == process.service and row.id in live]
    view = LeaseView({row[0]: read.lease_of(row) for row in held}, same, read.control(cursor))
    return view, released > 0


def _release(cursor: sqlite3.Cursor, process: Process, names: Sequence[str]) -> int:
    cursor.executemany(
        "/*spine*/ update spine_leases set owner = '', until_us = 0, unclean = 0 where name = ? and owner = ?",
        [(name, process.id) for name in names],
    )
    return cursor.rowcount if names else 0


def _take(cursor: sqlite3.Cursor, process: Process, names: Sequence[str], live: set[str]) -> None:
    owners = dict(among(cursor, "select name, owner from spine_leases where name in", names))
    free = [name for name in names if owners.get(name, "") not in live]
    cursor.executemany(
        "/*spine*/ insert into spine_leases (name, epoch, owner, until_us, unclean) values (?,1,?,?,0)"
        " on conflict (name) do update set epoch = spine_leases.epoch + 1,"
        " unclean = case when spine_leases.owner <> '' then 1 else 0 end, owner = excluded.owner,"
        " until_us = excluded.until_us",
        [(name, process.id, process.until_us) for name in free if owners.get(name) != process.id],
    )


def _forget(cursor: sqlite3.Cursor, now_us: int) -> None:
    cursor.execute(
        "/*spine*/ delete from spine_processes where until_us < ? and id not in (select owner from spine_leases)",
        (now_us - FORGET_AFTER_US,),
    )


def leave(cursor: sqlite3.Cursor, process: Process, now_us: int) -> tuple[None, bool]:
    check_version(cursor, now_us)
    cursor.execute(
        "/*spine*/ update spine_leases set owner = '', until_us = 0, unclean = 0 where owner = ?", (process.id,)
    )
    cursor.execute("/*spine*/ delete from spine_processes where id = ?", (process.id,))
    return None, True


# --- timers -----------------------------------------------------------------------------------------------------------


def fire(cursor: sqlite3.Cursor, now_us: int, limit: int, wall_us: int) -> tuple[int, bool]:
    recorded_us, _ = check_version(cursor, wall_us)
    due = [timer for timer in read.timers(cursor, limit) if timer.due_us <= now_us]
    if not due:
        return 0, False
    cursor.executemany(EVENTS, [(*record[1:8], recorded_us, *record[9:]) for _, record in due])
    cursor.executemany("/*spine*/ delete from spine_timers where id = ?", [(record.id,) for _, record in due])
    return len(due), True
