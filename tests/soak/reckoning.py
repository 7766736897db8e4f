"""The reckoning: what was acknowledged, what is stored, and what each handler did, event by event. It reads the file as any
program would, when nobody is at work on it any more, and knows nothing of the engine.

A rewound handler is checked stretch by stretch: until a rewind it does nothing twice, and from there on all that lies
behind the rewind's place once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tests.faults.harness import Place
from tests.soak.crowd import Rewind
from tests.soak.services import breaks_its_sql, fails_at_first, fails_for_good, is_reminded

One = tuple[str, int]  # key and number of an event
SHOWN = 10  # of a kind; there may be thousands
TYPES = {
    "ledger.book": "till.Counted",
    "ledger.weigh": "till.Counted",
    "views.project": "till.Counted",
    "ledger.remind": "ledger.Due",
    "parcels.pack": "ledger.Entered",
    "parcels.send": "ledger.Entered",
}
LISTED = "select distinct pid, started_us from spine_processes"
LEFT = {  # by table: what there is no more when everything is done and everybody has gone
    "parked, dead or held deliveries": "select count(*) from spine_deliveries where state <> 'settled'",
    "start marks": "select count(*) from spine_starts",
    "timers": "select count(*) from spine_timers",
    "leases that somebody holds": "select count(*) from spine_leases where owner <> ''",
    "ranges beyond a cursor": "select count(*) from spine_cursors where length(beyond) > 1",
}


class Books:
    """The file at the end."""

    def __init__(self, place: Place, rewinds: Sequence[Rewind] = ()) -> None:
        self.place, self.rewinds = place, rewinds
        self.acknowledged = place.acknowledged()
        self.feed = {kind: self._feed(kind) for kind in set(TYPES.values())}

    def _feed(self, kind: str) -> list[tuple[int, One]]:
        rows = self.place.query(
            "select position, json_extract(data, '$.key'), json_extract(data, '$.number') from spine_events"
            " where type = ? order by position", kind,
        )  # fmt: skip
        return [(position, (key, number)) for position, key, number in rows]

    def effects(self, handler: str) -> list[tuple[int, One, str, int, bool]]:
        """(id, event, idempotency key, attempt, late), in the order in which they were committed."""
        rows = self.place.query(
            "select id, key, number, idem, attempt, late from soak_effects where handler = ? order by id", handler
        )
        return [(id, (key, number), idem, attempt, bool(late)) for id, key, number, idem, attempt, late in rows]

    def wrong(self) -> list[str]:
        found = [*self._publishing(), *self._chains(), *self._clock(), *self._left()]
        for handler, kind in TYPES.items():
            rewinds = self.rewinds if handler == "views.project" else ()
            found += self._handler(handler, self.feed[kind], rewinds)
        return found

    # --- what was published ---------------------------------------------------------------------------------------

    def _publishing(self) -> Iterable[str]:
        stored = Counter(one for _, one in self.feed["till.Counted"])
        yield from _some("acknowledged and not stored", [one for one in self.acknowledged if one not in stored])
        yield from _some("stored twice", [one for one, count in stored.items() if count > 1])
        for key in {key for key, _ in stored}:
            numbers = [number for _, (its, number) in self.feed["till.Counted"] if its == key]
            if numbers != list(range(1, len(numbers) + 1)):
                yield f"of {key} not each number is stored, in order"

    def _chains(self) -> Iterable[str]:
        """Each event that has been entered in the books brings about its others, once."""
        counted = [one for _, one in self.feed["till.Counted"]]
        for kind, wanted in (
            ("ledger.Entered", Counter(counted)),
            ("ledger.Due", Counter(one for one in counted if is_reminded(one[1]))),
        ):
            stored = Counter(one for _, one in self.feed[kind])
            yield from _some(f"{kind} missing", list(wanted - stored))
            yield from _some(f"{kind} too often", list(stored - wanted))

    # --- what was done --------------------------------------------------------------------------------------------

    def _handler(self, handler: str, feed: list[tuple[int, One]], rewinds: Sequence[Rewind]) -> Iterable[str]:
        position_of = {one: position for position, one in reversed(feed)}
        effects = self.effects(handler)
        done, twice, disorder, foreign = set[One](), list[One](), list[str](), list[One]()
        left, last = list(rewinds), dict[str, int]()
        for id, one, _, _, late in effects:
            while left and id > left[0].effects_before:
                rewound = left.pop(0)
                done = {each for each in done if position_of[each] < rewound.position}
                last.clear()
            if one not in position_of:
                foreign.append(one)
                continue
            if one in done:
                twice.append(one)
            done.add(one)
            if not late and position_of[one] < last.get(one[0], 0):
                disorder.append(f"{one} after position {last[one[0]]}")
            last[one[0]] = max(last.get(one[0], 0), 0 if late else position_of[one])
        for rewound in left:
            done = {each for each in done if position_of[each] < rewound.position}
        yield from _some(f"{handler}: not handled", [one for _, one in feed if one not in done])
        yield from _some(f"{handler}: handled twice", twice)
        yield from _some(f"{handler}: out of order", disorder)
        yield from _some(f"{handler}: handled, and in no feed", foreign)
        yield from self._keys(handler, effects)

    def _keys(self, handler: str, effects: list[tuple[int, One, str, int, bool]]) -> Iterable[str]:
        """An idempotency key for each event, the same in every attempt and after a rewind."""
        pairs = {(one, idem) for _, one, idem, _, _ in effects}
        ones, idems = {one for one, _ in pairs}, {idem for _, idem in pairs}
        if not len(pairs) == len(ones) == len(idems):
            yield f"{handler}: {len(ones)} events have {len(idems)} idempotency keys in {len(pairs)} pairs"

    def _clock(self) -> Iterable[str]:
        strokes = [number for _, (_, number), *_ in self.effects("clock.strike")]
        if any(before + 1 != after for before, after in pairwise(strokes)):
            yield f"the clock struck {len(strokes)} times, and not once in each second, in order"

    def _left(self) -> Iterable[str]:
        """Those that were killed are listed for an hour; whoever left in order is not. On a busy machine two of ten minutes may
        have one pid: a row is of the last of them that began before it says."""
        listed = []
        for pid, started_us in self.place.query(LISTED):
            theirs = [child for child in self.place.children if child.pid == pid and child.began_us <= started_us]
            if theirs and max(theirs, key=lambda child: child.began_us).process.poll() == 0:
                listed.append(pid)
        yield from _some("left, and still listed", listed)
        for what, sql in LEFT.items():
            if count := self.place.number(sql):
                yield f"{count} {what} left"

    # --- figures --------------------------------------------------------------------------------------------------

    @property
    def events(self) -> int:
        return self.place.number("select count(*) from spine_events")

    @property
    def handled(self) -> int:
        return self.place.number("select count(*) from soak_effects")

    @property
    def failed(self) -> int:
        """Attempts that ended with an error, of events that were handled in the end."""
        counted = [number for _, (_, number) in self.feed["till.Counted"]]
        return 2 * sum(map(fails_at_first, counted)) + sum(map(breaks_its_sql, counted))

    def for_good(self) -> list[One]:
        return sorted(one for _, one in self.feed["till.Counted"] if fails_for_good(one[1]))


def _some(what: str, which: Sequence[object]) -> Iterable[str]:
    if which:
        more = ", …" if len(which) > SHOWN else ""
        yield f"{what}: {len(which)}, {', '.join(map(str, which[:SHOWN]))}{more}"
