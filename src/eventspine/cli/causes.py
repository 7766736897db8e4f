"""Which events one event caused, as a tree, in one journal or in several that a broker lies between.

An event that was carried is in the publisher's journal and in that of each service that subscribes: one node, with a
copy for each. It is the first copy, by the time when it was recorded, that is shown as the event."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..ids import id_text
from ..journal import without_password
from ..journal.port import Journal, Record, Timer
from .records import known_id, normal_id
from .standings import Standing, standings

LIMIT = 10_000  # of each journal
TIMERS_LOOKED_AT = 10_000  # the soonest: there is no index of what else is to come
INDENTS_MAX = 40  # deeper events stand at this indent, and say how deep they are


class Copy(NamedTuple):
    """An event in one of the journals."""

    journal: str  # its URL
    record: Record
    standings: Sequence[Standing]


class Step(NamedTuple):
    record: Record
    depth: int
    siblings: tuple[bool, ...]  # for each level shown, whether more of it follows
    causes: bool  # whether it caused others


class Trace(NamedTuple):
    correlation: str
    roots: Sequence[Record]
    caused: Mapping[str, Sequence[Record]]  # by the id of the cause
    copies: Mapping[bytes, Sequence[Copy]]  # by id, first where it was published
    scheduled: Mapping[str | None, Sequence[Timer]]  # not due yet, by the id of the cause; None: it is not in the tree
    size: int
    truncated: bool = False
    begins_later: bool = False  # what it began with was deleted

    def steps(self) -> Iterator[Step]:
        """Each event before what it caused, in order of position."""
        stack: list[tuple[Record, int, tuple[bool, ...]]] = [(root, 0, ()) for root in reversed(self.roots)]
        while stack:
            record, depth, siblings = stack.pop()
            caused = self.caused.get(id_text(record.id), ())
            yield Step(record, depth, siblings, bool(caused))
            for index in range(len(caused) - 1, -1, -1):
                shown = (*siblings, index < len(caused) - 1) if depth < INDENTS_MAX else siblings
                stack.append((caused[index], depth + 1, shown))


async def trace(journals: Sequence[Journal], asked: str) -> Trace | None:
    found = await _find(journals, asked)
    timers = [timer for journal in journals for timer in await journal.timers(TIMERS_LOOKED_AT)]
    first = next((records[0] for records in found if records), None)
    correlation = _to_come(timers, asked) if first is None else _correlation(first)
    if correlation is None:
        return None
    copies = await _copies(journals, found)
    parents = _parents(copies, found)
    roots: list[Record] = []
    caused: defaultdict[str, list[Record]] = defaultdict(list)
    for id, (copy, *_) in copies.items():
        cause = parents[id_text(id)]
        (roots if cause is None else caused[cause]).append(copy.record)
    scheduled = defaultdict(list)
    for timer in timers:
        if _correlation(timer.record) == correlation:
            cause = timer.record.causation
            scheduled[cause if cause in parents else None].append(timer)
    orphan = any(root.causation is not None and root.causation not in parents for root in roots)
    begins_later = orphan and any([await journal.deleted() or await journal.cut_off() for journal in journals])
    truncated = any(len(records) >= LIMIT for records in found)
    return Trace(correlation, roots, caused, copies, scheduled, len(copies), truncated, begins_later)


async def _find(journals: Sequence[Journal], asked: str) -> list[list[Record]]:
    """Of each journal all events of the correlation that `asked` names, or that the event with this id is in."""
    own = [await journal.event(known_id(asked)) for journal in journals]
    event = next(filter(None, own), None)
    for name in (normal_id(asked), asked) if event is None else (_correlation(event),):
        found = [await journal.correlated(name, LIMIT) for journal in journals]
        found = [records or ([one] if one else []) for records, one in zip(found, own, strict=True)]
        if any(found):
            return found
    return [[] for _ in journals]


async def _copies(journals: Sequence[Journal], found: Sequence[Sequence[Record]]) -> dict[bytes, list[Copy]]:
    copies: dict[bytes, list[Copy]] = {}
    for journal, records in zip(journals, found, strict=True):
        stand, url = await standings(journal, records), without_password(journal.url)
        for record in records:
            copies.setdefault(record.id, []).append(Copy(url, record, stand[record.position]))
    if len(journals) > 1:
        for some in copies.values():
            some.sort(key=lambda copy: copy.record.recorded_us)
        return dict(sorted(copies.items(), key=lambda item: item[1][0].record.recorded_us))
    return copies


def _parents(copies: Mapping[bytes, Sequence[Copy]], found: Sequence[Sequence[Record]]) -> dict[str, str | None]:
    """The cause of each event that is in the tree. A cause stands before its effect in a feed that has both; foreign
    events may claim otherwise, and never make a circle here."""
    feeds = [{id_text(record.id): record.position for record in records} for records in found]
    parents: dict[str, str | None] = {id_text(id): some[0].record.causation for id, some in copies.items()}
    for id, cause in parents.items():
        if cause not in parents or any(feed[cause] >= feed[id] for feed in feeds if cause in feed and id in feed):
            parents[id] = None
    _cut_circles(parents)
    return parents


def _cut_circles(parents: dict[str, str | None]) -> None:
    """Which only events of several journals can make."""
    settled: set[str] = set()
    for start in parents:
        path: set[str] = set()
        at: str | None = start
        while at is not None and at not in settled:
            path.add(at)
            if (above := parents[at]) in path:
                parents[at] = above = None
            at = above
        settled |= path


def _correlation(record: Record) -> str:
    return record.correlation or id_text(record.id)


def _to_come(timers: Sequence[Timer], asked: str) -> str | None:
    """The correlation that is asked for, of which nothing has been published yet."""
    for timer in timers:
        if asked == timer.record.correlation or normal_id(asked) in (
            _correlation(timer.record),
            id_text(timer.record.id),
        ):
            return _correlation(timer.record)
    return None
