"""What a group of units needs to know, read under locks: on PostgreSQL others write at the same time.

Locks are taken in one order, table by table and sorted within each, so that two groups never wait for each other:

    leases, subscriptions   shared with whoever else counts on them; against a change of epoch or generation
    cursors, marks          for update
    deliveries, streams     for update; a stream's row before any position is given out, so that versions and positions agree
    notes                   for update

What isn't there yet can't be locked, so it is put there, empty, and all is read again; what nobody wrote to is taken away
again. Should another put it there at that very moment, one of the two may have to try again.

A lease is renewed, and a subscription's state read, beside units that count on them: `for key share` stands in the way of
nothing but a change of (name, epoch) or (number, generation), which are unique for that very reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ._postgres_sql import Ask, Cursor, ours
from ._sql_apply import VERSION
from ._sql_known import Coming, Head, Known, NoteHead, _asked_first
from .cursors import decode
from .port import Unit, standing

TRIES = 10
Place = tuple[Any, ...]  # the keys of a row
Found = Mapping[str, Sequence[Any]]  # rows by table


class Raced(Exception):
    """Others changed what was counted on, in a way that locks don't prevent: all of the group is judged again."""


class Rows(NamedTuple):
    """A table whose rows are locked by their keys, and made where they are missing."""

    table: str
    keys: Sequence[tuple[str, str]]  # name, type
    values: str  # columns that are wanted
    fresh: str  # columns of a row that was missing
    fresh_values: str

    @property
    def names(self) -> str:
        return ", ".join(name for name, _ in self.keys)

    @property
    def arrays(self) -> str:
        return ", ".join(f"%s::{kind}[]" for _, kind in self.keys)


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
    __slots__ = ("version",)

    _cursor: Any  # a Cursor of _postgres_sql
    version: tuple[Any, ...]  # the row of VERSION

    def _load(self, units: Sequence[Unit]) -> None:
        """In one round trip; where a row was missing it is made, and all is read again."""
        self._asked = {id for unit in units if unit.appends for id in _asked_first(unit)}
        wanted = _wanted(units)
        asks = self._asks(units, wanted)
        for _ in range(TRIES):
            found = dict(zip(asks, self._cursor.together(asks.values()), strict=True))
            self.generations = dict(found.get("subscriptions", ()))
            missing = {rows: lacking for rows in wanted if (lacking := self._lacking(rows, wanted[rows], found))}
            if not missing:
                return self._take(found)
            self._cursor.together([_make(self._cursor.schema, *one) for one in missing.items()])
        raise Raced(", ".join(rows.table for rows in missing))

    def _asks(self, units: Sequence[Unit], wanted: Mapping[Rows, set[Place]]) -> dict[str, Ask]:
        """By table, in the order of locks."""
        leases = {fence.lease for unit in units for fence in unit.fences}
        subscriptions = {place[0] for unit in units for place in _cursors_of(unit)}
        changed = {change.number for unit in units for change in unit.changes}
        changes = "number, state, subscription, feed, partition, position"
        asks = {
            "version": Ask(ours(VERSION, self._cursor.schema)),
            "leases": self._locking("name, epoch", "leases", "name", leases, "text", "key share"),
            "subscriptions": self._locking(
                "number, generation", "subscriptions", "number", subscriptions, "bigint", "key share"
            ),
            CURSORS.table: self._locked(CURSORS, wanted),
            MARKS.table: self._locked(MARKS, wanted),
            "deliveries": self._locking(changes, "deliveries", "number", changed, "bigint", "update"),
            STREAMS.table: self._locked(STREAMS, wanted),
            NOTES.table: self._locked(NOTES, wanted),
            "ids": self._ids(),
        }
        return {name: ask for name, ask in asks.items() if ask is not None}

    def _locking(self, columns: str, table: str, key: str, values: set[Any], kind: str, lock: str) -> Ask | None:
        if not values:
            return None
        query = (
            f"select {columns} from {self._cursor.schema}.spine_{table}"
            f" where {key} = any(%s::{kind}[]) order by {key} for {lock}"
        )
        return Ask(query, (sorted(values),))

    def _locked(self, rows: Rows, wanted: Mapping[Rows, set[Place]]) -> Ask | None:
        if rows not in wanted:
            return None
        keys = rows.names
        query = (
            f"select {keys}, {rows.values} from {self._cursor.schema}.{rows.table}"
            f" where ({keys}) in (select * from unnest({rows.arrays})) order by {keys} for update"
        )
        return Ask(query, _columns(sorted(wanted[rows])))

    def _ids(self) -> Ask | None:
        query = f"select id, position from {self._cursor.schema}.spine_events where id = any(%s)"
        return Ask(query, (list(self._asked),)) if self._asked else None

    def _lacking(self, rows: Rows, places: set[Place], found: Found) -> list[Place]:
        """Of a subscription that there is not nothing is made."""
        there = {tuple(row[: len(rows.keys)]) for row in found[rows.table]}
        lacking = sorted(places - there)
        return lacking if rows is not CURSORS else [place for place in lacking if place[0] in self.generations]

    def _take(self, found: Found) -> None:
        (self.version,) = found["version"]
        self.epochs = dict(found.get("leases", ()))
        for *place, position, beyond in found.get(CURSORS.table, ()):
            if place[0] in self.generations:
                self.cursors[tuple(place)] = Coming(position, decode(beyond), True)
        for *place, upto, beyond in found.get(MARKS.table, ()):
            self.marks[tuple(place)] = Coming(upto, decode(beyond), True)
        for number, state, *place in found.get("deliveries", ()):
            self.states[number] = state
            self._places[tuple(place)] = number
        for *stream, number, version in found.get(STREAMS.table, ()):
            self.heads[tuple(stream)] = Head(number, version, True)
        for *place, version in found.get(NOTES.table, ()):
            self.notes[tuple(place)] = NoteHead(version)
        self.ids = dict(found.get("ids", ()))


def _cursors_of(unit: Unit) -> Iterator[tuple[int, str, int]]:
    yield from ((done.subscription, done.feed, done.partition) for done in unit.done)
    yield from ((put.subscription, put.feed, put.partition) for put in standing(unit))


def _wanted(units: Sequence[Unit]) -> dict[Rows, set[Place]]:
    """Rows that are made where they are missing."""
    wanted: dict[Rows, set[Place]] = {
        CURSORS: {place for unit in units for place in _cursors_of(unit)},
        MARKS: {seen[:4] for unit in units for seen in unit.marks},
        STREAMS: {(one.service, one.stream) for unit in units for one in unit.appends if one.stream is not None},
        NOTES: {note[:3] for unit in units for note in unit.notes},
    }
    return {rows: places for rows, places in wanted.items() if places}


def _make(schema: str, rows: Rows, places: Sequence[Place]) -> Ask:
    insert = (
        f"insert into {schema}.{rows.table} ({rows.names}, {rows.fresh}) select {rows.names}, {rows.fresh_values}"
        f" from unnest({rows.arrays}) as missing ({rows.names}) order by {rows.names} on conflict do nothing"
    )
    return Ask(insert, _columns(places))


def _columns(places: Sequence[Place]) -> list[list[Any]]:
    return [list(column) for column in zip(*places, strict=True)]


def take_away(cursor: Cursor, rows: Rows, places: Iterable[Place], where: str) -> None:
    """Rows that were made to be locked, and that nobody has written to."""
    if wanted := sorted(places):
        cursor.run(
            f"delete from {cursor.schema}.{rows.table} where {where}"
            f" and ({rows.names}) in (select * from unnest({rows.arrays}))",
            _columns(wanted),
        )
