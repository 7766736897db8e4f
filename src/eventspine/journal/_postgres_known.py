"""What a group of units needs to know, read under locks: on PostgreSQL others write at the same time.

Locks are taken in one order, table by table and sorted within each, so that two groups never wait for each other:

    leases, subscriptions   shared with whoever else counts on them; against a change of epoch or generation
    cursors, marks          for update
    deliveries, streams     for update; a stream's row before any position is given out, so that versions and positions agree
    notes                   for update

What isn't there yet can't be locked, so it is put there first, empty; what nobody wrote to is taken away again.

A lease is renewed, and a subscription's state read, beside units that count on them: `for key share` stands in the way of
nothing but a change of (name, epoch) or (number, generation), which are unique for that very reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ._postgres_sql import Cursor
from ._sql_known import Coming, Head, Known, NoteHead, _asked_first
from .cursors import decode
from .port import Unit

TRIES = 10


class Raced(Exception):
    """Others changed what was counted on, in a way that locks don't prevent: all of the group is judged again."""


class Rows(NamedTuple):
    """A table whose rows are locked by their keys, and made where they are missing."""

    table: str
    keys: Sequence[tuple[str, str]]  # name, type
    values: str  # columns that are wanted
    fresh: str  # columns of a row that was missing
    fresh_values: str


STREAMS = Rows("spine_streams", (("service", "text"), ("name", "text")), "number, version", "version", "0")
CURSORS = Rows(
    "spine_cursors",
    (("subscription", "bigint"), ("feed", "text"), ("partition", "integer")),
    "position, beyond",
    "position",
    "0",
)
MARKS = Rows(
    "spine_marks",
    (("subscription", "bigint"), ("origin", "text"), ("channel", "text"), ("slot", "integer")),
    "upto, beyond",
    "upto",
    "0",
)
NOTES = Rows(
    "spine_notes",
    (("service", "text"), ("kind", "text"), ("key", "text")),
    "version",
    "version, value, until_us",
    "0, ''::bytea, 0",
)


class PostgresKnown(Known):
    __slots__ = ()

    _cursor: Any  # a Cursor of _postgres_sql

    def _load(self, units: Sequence[Unit]) -> None:
        if leases := {fence.lease for unit in units for fence in unit.fences}:
            self.epochs = dict(self._locked("name, epoch", "leases", "name", leases, "text", "key share"))
        if subscriptions := {done.subscription for unit in units for done in unit.done}:
            rows = self._locked("number, generation", "subscriptions", "number", subscriptions, "bigint", "key share")
            self.generations = dict(rows)
            self._load_places(units)
        self._load_marks(units)
        if changed := {change.number for unit in units for change in unit.changes}:
            columns = "number, state, subscription, feed, partition, position"
            for number, state, *place in self._locked(columns, "deliveries", "number", changed, "bigint", "update"):
                self.states[number] = state
                self._places[tuple(place)] = number
        self._load_streams(units)
        if places := {note[:3] for unit in units for note in unit.notes}:
            self.notes = {place: NoteHead(*row) for place, row in locked(self._cursor, NOTES, places).items()}
        self._asked = {id for unit in units if unit.appends for id in _asked_first(unit)}
        if self._asked:
            query = f"select id, position from {self._cursor.schema}.spine_events where id = any(%s)"
            self.ids = dict(self._cursor.run(query, (list(self._asked),)))

    def _locked(self, columns: str, table: str, key: str, values: Iterable[Any], kind: str, lock: str) -> list[Any]:
        query = (
            f"select {columns} from {self._cursor.schema}.spine_{table}"
            f" where {key} = any(%s::{kind}[]) order by {key} for {lock}"
        )
        rows: list[Any] = self._cursor.run(query, (sorted(values),)).fetchall()
        return rows

    def _load_places(self, units: Sequence[Unit]) -> None:
        places = {
            (done.subscription, done.feed, done.partition)
            for unit in units
            for done in unit.done
            if done.subscription in self.generations
        }
        if places:
            for place, (position, beyond) in locked(self._cursor, CURSORS, places).items():
                self.cursors[place] = Coming(position, decode(beyond), True)

    def _load_marks(self, units: Sequence[Unit]) -> None:
        if places := {seen[:4] for unit in units for seen in unit.marks}:
            for place, (upto, beyond) in locked(self._cursor, MARKS, places).items():
                self.marks[place] = Coming(upto, decode(beyond), True)

    def _load_streams(self, units: Sequence[Unit]) -> None:
        streams = {
            (append.service, append.stream) for unit in units for append in unit.appends if append.stream is not None
        }
        if streams:
            for stream, (number, version) in locked(self._cursor, STREAMS, streams).items():
                self.heads[stream] = Head(number, version, True)


def locked(cursor: Cursor, rows: Rows, places: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Rows by their keys, locked in order."""
    wanted = sorted(places)
    count, keys, table = len(rows.keys), ", ".join(name for name, _ in rows.keys), f"{cursor.schema}.{rows.table}"
    arrays = ", ".join(f"%s::{kind}[]" for _, kind in rows.keys)
    select = (
        f"select {keys}, {rows.values} from {table} where ({keys}) in (select * from unnest({arrays}))"
        f" order by {keys} for update"
    )
    for _ in range(TRIES):
        found = {tuple(row[:count]): tuple(row[count:]) for row in cursor.run(select, _columns(wanted)).fetchall()}
        missing = [place for place in wanted if place not in found]
        if not missing:
            return found
        cursor.run(
            f"insert into {table} ({keys}, {rows.fresh}) select {keys}, {rows.fresh_values} from unnest({arrays})"
            f" as missing ({keys}) order by {keys} on conflict do nothing",
            _columns(missing),
        )
    raise Raced(rows.table)


def _columns(places: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*places, strict=True)]


def take_away(cursor: Cursor, rows: Rows, places: Iterable[tuple[Any, ...]], where: str) -> None:
    """Rows that were made to be locked, and that nobody has written to."""
    if wanted := sorted(places):
        keys = ", ".join(name for name, _ in rows.keys)
        arrays = ", ".join(f"%s::{kind}[]" for _, kind in rows.keys)
        cursor.run(
            f"delete from {cursor.schema}.{rows.table} where {where} and ({keys}) in (select * from unnest({arrays}))",
            _columns(wanted),
        )
