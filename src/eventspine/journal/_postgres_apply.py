"""Applying a group of units on PostgreSQL: judged as on SQLite (see _sql_apply), under row locks, and written in bulk.

Every transaction that appends holds the appender token, a shared advisory lock, from before its first position is given out
until it ends. Nobody waits for it; readers look at who holds it (see _postgres_feed).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

from ..errors import SpineError
from ._postgres_connect import is_lost, is_passing, is_slow
from ._postgres_known import MARKS, NOTES, PostgresKnown, Raced, take_away
from ._postgres_schema import Identity
from ._postgres_sql import Cursor, Guard
from ._sql_apply import STATEMENTS_S, Applier, Safeguards, checked, too_slow
from ._sql_known import Known
from ._sql_plan import Plan
from ._sqlite_guard import as_unit_failed, run_statement
from ._sqlite_outcome import Trace, event_trace
from .port import Statement, Unit

_COLUMNS = (
    "id, channel, slot, key, type, version, time_us, recorded_us, source, correlation, causation, hops, meta, data"
)
POSITIONS = 0x7370_706F  # held while positions are counted out
_TYPES = (
    "bytea", "text", "integer", "text", "text", "integer", "bigint", "bigint", "text", "text", "text", "integer", "bytea",
    "bytea",
)  # fmt: skip
# In the order in which they were handed over, which positions follow; one that is there already takes no position.
_FRESH = (
    "with fresh as materialized (select {1}, row_number() over (order by place) as n"
    " from unnest({2}) with ordinality as new ({1}, place)"
    " where not exists (select 1 from {0}.spine_events old where old.id = new.id)),"
    " given as materialized (select place.position, place.n from unnest({0}.spine_positions("
    "(select count(*)::integer from fresh), %s::regclass, %s, %s)) with ordinality as place (position, n))"
)
_EVENTS = (
    "insert into {0}.spine_events (position, {1}) select given.position, {1} from fresh join given using (n) order by n"
    " on conflict (id) do nothing returning id, position"
)
# And where they are in streams, the versions of these, which have their rows locked.
_IN_STREAMS = (
    f", inserted as ({_EVENTS}), heads as (update {{0}}.spine_streams old set version = new.version"
    " from unnest(%s::bigint[], %s::bigint[]) as new (number, version) where old.number = new.number),"
    " members as (insert into {0}.spine_stream_events (stream, version, position) select stream, version, position"
    " from unnest(%s::bigint[], %s::bigint[], %b::bytea[]) as member (stream, version, id) join inserted using (id))"
    " select id, position from inserted"
)
_ARRAYS = ", ".join(f"%b::{kind}[]" for kind in _TYPES)


class PostgresPlan(Plan):
    __slots__ = ()

    def write(self, cursor: Any, known: Known) -> Trace | None:
        trace = super().write(cursor, known)
        empty = [
            place
            for place, mark in known.marks.items()
            if not mark.accepted and (mark.position, mark.beyond) == (0, [])
        ]
        take_away(cursor, MARKS, empty, "upto = 0 and beyond is null")
        take_away(cursor, NOTES, (place for place, note in known.notes.items() if not note.version), "version = 0")
        return trace

    def _write_events(self, cursor: Any, known: Known) -> Trace | None:
        inserted = insert(cursor, self.records, self._streams(known))
        self.public = bool(inserted) and any(record[1] is not None for record in self.records)
        if any(position is None and id not in inserted for id, position in known.ids.items()):
            raise Raced("events")  # somebody published one of them a moment ago; what was judged new is a repetition
        if len(inserted) == len(self.records) and all(placed.start >= 0 for placed in self.placed):
            self.first = min(inserted.values(), default=0)  # they are in one piece, and in this order
            for placed in self.placed:
                placed.verdict.positions = [inserted[id] for id in placed.ids]
            return event_trace(self.records[0][0])
        return self._look_up_beside(cursor, inserted)

    def _streams(self, known: Known) -> list[list[Any]]:
        """Columns: streams and their versions; streams, versions and ids of their events."""
        heads = [known.heads[stream] for stream in self.touched]
        rows = [(one.stream, one.version + n, id) for one in self.stream_rows for n, id in enumerate(one.ids)]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return [[head.number for head in heads], [head.version for head in heads], *columns] if rows else []

    def _write_streams(self, cursor: Any, known: Known) -> None:
        """Written with their events."""

    def _look_up_beside(self, cursor: Cursor, inserted: dict[bytes, int]) -> Trace | None:
        """Some were in the feed already, or twice in this group."""
        ids = {id for placed in self.placed for id in placed.ids} - inserted.keys()
        query = f"select id, position from {cursor.schema}.spine_events where id = any(%s)"
        positions = inserted | dict(cursor.run(query, (list(ids),)) if ids else ())
        claimed: set[bytes] = set()
        for placed in self.placed:
            placed.verdict.positions = [positions[id] for id in placed.ids if id in positions]
            old = all(id in claimed or id not in inserted for id in placed.ids)
            if placed.repeats and placed.ids and old:
                placed.verdict.kind = "repeated"
            claimed.update(placed.ids)
        return next((event_trace(id) for id in inserted), None)


def insert(cursor: Cursor, records: Sequence[tuple[Any, ...]], streams: Sequence[list[Any]] = ()) -> dict[bytes, int]:
    """Positions by id, of those that were not there."""
    if not records:
        return {}
    of_ids = {record[0]: record for record in records}
    if len(of_ids) < len(records):  # the first of an id counts, as everywhere
        of_ids |= {record[0]: record for record in reversed(records)}
    rows = of_ids.values()
    columns = [list(column) for column in zip(*rows, strict=True)]
    counter = (f"{cursor.schema}.spine_events_position_seq", POSITIONS, cursor.store)
    sql = f"{_FRESH}{_IN_STREAMS if streams else ' ' + _EVENTS}".format(cursor.schema, _COLUMNS, _ARRAYS)
    return dict(cursor.run(sql, [*columns, *counter, *streams]).fetchall())


class PostgresApplier(Applier):
    plans = PostgresPlan

    def __init__(
        self, connection: Any, identity: Identity, safeguards: Safeguards, *, statements_s: float = STATEMENTS_S
    ) -> None:
        self._connection = connection
        self._cursor = Cursor(connection, identity.schema, identity.number)
        self._guard = cast("Any", Guard(connection))
        self._statements_s = statements_s
        self._safeguards = safeguards
        self._memory = None  # others write at the same time
        self._beside = False

    _cursor: Any

    def _read(self, units: Sequence[Unit], now_us: int, *, trusting: bool) -> tuple[Known, int, int]:
        known = PostgresKnown(self._cursor, units)
        return known, *checked(known.version, now_us)

    def _run(self, statements: Sequence[Statement]) -> SpineError | None:
        """In a savepoint, so that their failure undoes nothing of another unit's (R5). Each statement has its limit from
        the transaction, all of a unit's the same one together."""
        if not self._safeguards.savepoints:
            return self._run_each(statements)
        self._cursor.run("savepoint spine_unit")
        error = self._run_each(statements)
        if error:
            self._cursor.run("rollback to spine_unit")
        self._cursor.run("release spine_unit")
        return error

    def _run_each(self, statements: Sequence[Statement]) -> SpineError | None:
        sql, began = "", time.monotonic()
        try:
            for statement in statements:
                sql = statement.sql
                run_statement(self._guard, statement)
                if not self._beside and time.monotonic() - began > self._statements_s:
                    return too_slow(sql, self._statements_s)
        except Exception as error:
            if is_lost(error) or is_passing(error):
                raise  # all of the group is run again
            return as_unit_failed(
                too_slow(sql, self._statements_s) if is_slow(error) and not self._beside else error, sql
            )
        return None
