"""What a group of units needs to know before it can be judged, read in a handful of statements for all of them.

Everything here is read inside the group's write transaction, and kept in step as units are accepted, so that a unit
sees what those before it in the group did.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .cursors import Range, decode, fold
from .notes import Place as NotePlace, after
from .port import Note, Unit, standing

if TYPE_CHECKING:
    from ._sqlite_memory import Memory

Place = tuple[int, str, int]  # subscription, feed, partition
MarkPlace = tuple[int, str, str, int]  # subscription, origin, channel, slot


_MARK = (
    "/*spine*/ select upto, beyond from spine_marks where subscription = ? and origin = ? and channel = ? and slot = ?"
)
_HEAD = "/*spine*/ select number, version from spine_streams where service = ? and name = ?"
_NOTE = "/*spine*/ select version from spine_notes where service = ? and kind = ? and key = ?"


class Coming:
    """A cursor or mark while a group is judged: as stored, and what accepted units have finished since."""

    __slots__ = ("_afters", "_pending", "_uptos", "accepted", "beyond", "position", "stored")

    def __init__(self, position: int, beyond: list[Range], stored: bool) -> None:
        self.position, self.beyond, self.stored = position, beyond, stored
        self.accepted: list[Range] = []
        self._afters: list[int] = []  # both made when first asked: units without effects never ask
        self._uptos: list[int] = []
        self._pending = 0  # how many of `accepted` the two lists hold

    def ends(self, ranges: Iterable[Range]) -> Iterator[bool]:
        """Whether the event at the end of each range is finished. What lies before it in its range may be counted
        otherwise by an owner that has loaded the cursor anew, and is no event of its own."""
        if not self._afters:
            self._afters = [0, *(after for after, _ in self.beyond)]
            self._uptos = [self.position, *(upto for _, upto in self.beyond)]
        while self._pending < len(self.accepted):
            self._insert(*self.accepted[self._pending])
            self._pending += 1
        afters, uptos = self._afters, self._uptos
        return (uptos[bisect_left(afters, upto) - 1] >= upto for _, upto in ranges)

    def folded(self) -> tuple[int, list[Range]]:
        return fold(self.position, self.beyond, self.accepted)

    def _insert(self, after: int, upto: int) -> None:
        """Keep the lists as disjoint, ascending ranges: the same arithmetic as fold, for one range."""
        afters, uptos = self._afters, self._uptos
        start = bisect_right(afters, after) - 1
        if uptos[start] >= after:
            if start == len(afters) - 1:  # goes on where the last one ended: the usual case
                uptos[start] = max(upto, uptos[start])
                return
            after = afters[start]
        else:
            start += 1
        end = start
        while end < len(afters) and afters[end] <= upto:
            upto = max(upto, uptos[end])
            end += 1
        afters[start:end], uptos[start:end] = [after], [upto]


class Head:
    """A stream while a group is judged."""

    __slots__ = ("number", "stored", "version")

    def __init__(self, number: int, version: int, stored: bool) -> None:
        self.number, self.version, self.stored = number, version, stored


class NoteHead:
    """A note while a group is judged; version 0: there is none."""

    __slots__ = ("stored", "until_us", "version")

    def __init__(self, version: int) -> None:
        self.stored = self.version = version
        self.until_us: int | None = None


class Known:
    __slots__ = (
        "_asked",
        "_cursor",
        "_memory",
        "_places",
        "cursors",
        "epochs",
        "generations",
        "heads",
        "ids",
        "marks",
        "notes",
        "states",
        "stream_last",
        "trusting",
    )

    def __init__(
        self, cursor: sqlite3.Cursor, units: Sequence[Unit], memory: Memory | None = None, *, trusting: bool = False
    ) -> None:
        """`trusting`: what goes on with a stream just where it is expected to be is taken for new. Should it not be, the
        plan raises Repeated. Afterwards: whether anything was."""
        self._cursor = cursor
        self._memory = memory
        self.trusting = trusting
        self.epochs: dict[str, int] = {}
        self.generations: dict[int, int] = {}
        self.cursors: dict[Place, Coming] = {}
        self.marks: dict[MarkPlace, Coming] = {}  # of the slots that units name; each is read when first asked for
        self.states: dict[int, str] = {}  # of stored deliveries that units want to change
        self._places: dict[tuple[int, str, int, int], int] = {}  # their numbers
        self.heads: dict[tuple[str, str], Head] = {}
        self.ids: dict[bytes, int | None] = {}  # events in the feed: positions; None when of this group
        self.notes: dict[NotePlace, NoteHead] = {}  # each is read when first asked for
        self.stream_last = 0
        self._load(units)

    def _load(self, units: Sequence[Unit]) -> None:
        leases: set[str] = set()
        subscriptions: set[int] = set()
        changed: set[int] = set()
        streams: set[tuple[str, str]] = set()
        for unit in units:
            if unit.fences:
                leases.update([fence.lease for fence in unit.fences])
            if unit.done:
                subscriptions.update([done.subscription for done in unit.done])
            if unit.puts:
                subscriptions.update([put.subscription for put in standing(unit)])
            if unit.changes:
                changed.update([change.number for change in unit.changes])
            for append in unit.appends:
                if append.stream is not None:
                    streams.add((append.service, append.stream))
        if leases:
            self.epochs = dict(self.among("select name, epoch from spine_leases where name in", leases))
        if subscriptions:
            self._load_cursors(subscriptions)
        if changed:
            self._load_deliveries(changed)
        if streams:
            self._load_heads(streams)
        self._asked, trusted = set[bytes](), False
        for unit in units:
            if unit.appends and self.trusting and self._trusts(unit):
                trusted = True
            elif unit.appends:
                self._asked.update(_asked_first(unit))
        self.trusting = trusted
        if self._asked:
            self.ids = dict(self.among("select id, position from spine_events where id in", self._asked))

    def _load_cursors(self, subscriptions: set[int]) -> None:
        query = "select number, generation from spine_subscriptions where number in"
        self.generations = dict(self.among(query, subscriptions))
        query = "select subscription, feed, partition, position, beyond from spine_cursors where subscription in"
        for subscription, feed, partition, position, beyond in self.among(query, subscriptions):
            self.cursors[subscription, feed, partition] = Coming(position, decode(beyond), True)

    def _load_deliveries(self, numbers: set[int]) -> None:
        query = "select number, state, subscription, feed, partition, position from spine_deliveries where number in"
        for number, state, *place in self.among(query, numbers):
            self.states[number] = state
            self._places[tuple(place)] = number

    def _load_heads(self, streams: set[tuple[str, str]]) -> None:
        remembered = self._memory.streams if self._memory else {}
        for stream in streams:  # one by one: only service and name together are found by an index
            if stream in remembered:
                self.heads[stream] = Head(*remembered[stream], True)
                continue
            for number, version in self._cursor.execute(_HEAD, stream).fetchall():
                self.heads[stream] = Head(number, version, True)

    def _trusts(self, unit: Unit) -> bool:
        """Had its events been stored before, the streams would have come further."""
        if not self.trusting or unit.statements:
            return False
        for append in unit.appends:
            head = None if append.stream is None else self.heads.get((append.service, append.stream))
            if append.stream is None or append.expected != (head.version if head else 0):
                return False
        return True

    # --- asked while judging ----------------------------------------------------------------------------------------

    def coming(self, place: Place) -> Coming:
        cursor = self.cursors.get(place)
        if cursor is None:
            cursor = self.cursors[place] = Coming(0, [], False)
        return cursor

    def mark(self, place: MarkPlace) -> Coming:
        mark = self.marks.get(place)
        if mark is None:
            rows = self._cursor.execute(_MARK, place).fetchall()
            mark = Coming(rows[0][0], decode(rows[0][1]), True) if rows else Coming(0, [], False)
            self.marks[place] = mark
        return mark

    def note_version(self, place: NotePlace) -> int:
        head = self.notes.get(place)
        if head is None:
            rows = self._cursor.execute(_NOTE, place).fetchall()
            head = self.notes[place] = NoteHead(rows[0][0] if rows else 0)
        return head.version

    def noted(self, note: Note) -> int:
        """The note will be written; the version that it is at then."""
        self.note_version(note[:3])
        head = self.notes[note[:3]]
        head.version, head.until_us = after(note, head.version), note.until_us
        return head.version

    def head(self, stream: tuple[str, str]) -> Head:
        head = self.heads.get(stream)
        if head is None:
            if not self.stream_last:
                self.stream_last = self._last_stream()
            self.stream_last += 1
            head = self.heads[stream] = Head(self.stream_last, 0, False)
        return head

    def _last_stream(self) -> int:
        if self._memory and self._memory.stream_last is not None:
            return self._memory.stream_last
        last: int = self._cursor.execute("/*spine*/ select coalesce(max(number), 0) from spine_streams").fetchone()[0]
        if self._memory:
            self._memory.stream_last = last
        return last

    def appended(self, unit: Unit) -> None:
        """The unit's events will be in the feed, to whoever comes after it in the group."""
        if self._asked:
            ids = (record[1] for append in unit.appends for record in append.records)
            self.ids.update((id, None) for id in ids if id in self._asked and id not in self.ids)

    def put(self, place: tuple[int, str, int, int], state: str) -> None:
        """A delivery was put: the row that somebody after it in the group wants to change may be this one."""
        number = self._places.get(place)
        if number is not None:
            self.states[number] = state

    def among(self, query: str, values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        return among(self._cursor, query, values)


def _asked_first(unit: Unit) -> Iterator[bytes]:
    """Ids of events that the feed must be asked for before the unit is judged. Usually the insert itself tells."""
    more = unit.statements or unit.puts or unit.timers or unit.starts or unit.cancels or unit.notes
    whole = more and not (unit.fences or unit.done or unit.marks or unit.changes)
    if whole or any(append.stream is not None for append in unit.appends):
        for append in unit.appends:
            yield from (record[1] for record in append.records)


def among(cursor: sqlite3.Cursor, query: str, values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of `query ... in (values)`. Lists are filled up to a few sizes, so that statements stay cached."""
    left = list(values)
    while left:
        size = next(size for size in (1, 4, 16, 64, 256, 1024) if len(left) <= size or size == 1024)
        some, left = left[:size], left[size:]
        marks = ",".join("?" * size)
        yield from cursor.execute(f"/*spine*/ {query} ({marks})", some + some[:1] * (size - len(some))).fetchall()
