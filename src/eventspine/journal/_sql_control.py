"""What operators do to the tables, in one write transaction: rewind, pause, rename, replay, drop, retry."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from ..errors import SettingsError
from ._sql_apply import check_version
from ._sql_registry import raise_control
from .cursors import decode, encode, fold, only
from .port import OWN_FEED, WHOLE_FEED, Control, Drop, Rename, Replay, Retry, Rewind, SetState
from .registry import partitions_of


def carry_out(cursor: sqlite3.Cursor, operations: Sequence[Control], now_us: int) -> tuple[int, bool]:
    check_version(cursor, now_us)
    changed = sum(_operate(cursor, operation, now_us) for operation in operations)
    if changed:
        raise_control(cursor)
    return changed, changed > 0


def _operate(cursor: sqlite3.Cursor, operation: Control, now_us: int) -> int:
    match operation:
        case Rewind():
            return _rewind(cursor, operation)
        case SetState(number, state):
            return _change_subscription(cursor, number, "state", state)
        case Rename(number, name):
            return _change_subscription(cursor, number, "name", name)
        case Replay(numbers):
            changes = "state = 'parked', due_us = :now, late = 1"
            return _change_deliveries(cursor, numbers, changes, "state = 'dead'", now_us)
        case Drop(numbers):
            return _drop(cursor, numbers, now_us)
        case Retry(numbers):
            return _change_deliveries(cursor, numbers, "due_us = :now", "state = 'parked'", now_us)


def _rewind(cursor: sqlite3.Cursor, rewind: Rewind) -> int:
    place = {"number": rewind.subscription, "feed": OWN_FEED, "position": rewind.position}
    row = cursor.execute(
        "/*spine*/ update spine_subscriptions set generation = generation + 1,"
        " republish = case ? when '' then republish else ? end where number = ? returning ordering",
        (rewind.republish, rewind.republish, rewind.subscription),
    ).fetchall()
    if not row:
        return 0
    partitions = partitions_of(row[0][0])
    cursor.executemany(
        "/*spine*/ insert into spine_cursors (subscription, feed, partition, position, beyond) values (?,?,?,?,null)"
        " on conflict (subscription, feed, partition) do update set position = excluded.position, beyond = null",
        [(rewind.subscription, OWN_FEED, partition, rewind.position) for partition in partitions],
    )
    where = "where subscription = :number and feed = :feed and position > :position"
    cursor.execute(f"/*spine*/ delete from spine_starts {where}", place)
    cursor.execute(f"/*spine*/ delete from spine_deliveries {where} and state <> 'settled'", place)
    return len(partitions) + cursor.rowcount + _forget_marks(cursor, rewind)


def _forget_marks(cursor: sqlite3.Cursor, rewind: Rewind) -> int:
    cursor.executemany(
        "/*spine*/ delete from spine_marks where subscription = ? and origin = ?",
        [(rewind.subscription, origin) for origin in rewind.origins],
    )
    return cursor.rowcount if rewind.origins else 0


def _change_subscription(cursor: sqlite3.Cursor, number: int, column: str, value: str) -> int:
    _refuse_second_name(cursor, number, column, value)
    cursor.execute(
        f"/*spine*/ update spine_subscriptions set generation = generation + 1, {column} = :value"
        f" where number = :number and {column} <> :value",
        {"number": number, "value": value},
    )
    return cursor.rowcount


def _refuse_second_name(cursor: sqlite3.Cursor, number: int, column: str, value: str) -> None:
    row = cursor.execute(
        "/*spine*/ select service, name, state from spine_subscriptions where number = ?", (number,)
    ).fetchone()
    if row is None:
        return
    service, name, state = row[0], value if column == "name" else row[1], value if column == "state" else row[2]
    query = (
        "/*spine*/ select 1 from spine_subscriptions"
        " where service = ? and name = ? and state <> 'retired' and number <> ?"
    )
    if state != "retired" and cursor.execute(query, (service, name, number)).fetchone():
        raise SettingsError(
            f"{service} has a subscription named {name!r} already. Choose another name, or retire that one first.",
            service=service,
        )


def _drop(cursor: sqlite3.Cursor, numbers: Sequence[int], now_us: int) -> int:
    dropped = cursor.execute(
        "/*spine*/ update spine_deliveries set state = 'settled', due_us = null, reason = 'dropped', last_us = :now"
        " where number in (select value from json_each(:numbers)) and state in ('dead', 'parked')"
        " returning subscription, feed, partition, position",
        {"numbers": json.dumps([*numbers]), "now": now_us},
    ).fetchall()
    for subscription, feed, partition, position in dropped:
        if (feed, partition) == (OWN_FEED, WHOLE_FEED):  # its cursor may stand before it
            _finish(cursor, (subscription, feed, partition), position)
    return len(dropped)


def _finish(cursor: sqlite3.Cursor, place: tuple[int, str, int], position: int) -> None:
    where = "where subscription = ? and feed = ? and partition = ?"
    rows = cursor.execute(f"/*spine*/ select position, beyond from spine_cursors {where}", place).fetchall()
    for stood, beyond in rows:
        folded = fold(stood, decode(beyond), [only(position)])
        cursor.execute(
            f"/*spine*/ update spine_cursors set position = ?, beyond = ? {where}",
            (folded[0], encode(folded[1]), *place),
        )


def _change_deliveries(cursor: sqlite3.Cursor, numbers: Sequence[int], changes: str, where: str, now_us: int) -> int:
    cursor.executemany(
        f"/*spine*/ update spine_deliveries set {changes}, last_us = :now where number = :number and {where}",
        [{"number": number, "now": now_us} for number in dict.fromkeys(numbers)],
    )
    return cursor.rowcount if numbers else 0
