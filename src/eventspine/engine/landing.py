"""Landings: what of one partition goes into the journal as one, and what may be settled at the broker once it is there."""

from __future__ import annotations

from collections.abc import Sequence

from ..brokers.binding import Incoming
from ..brokers.port import Fetched
from ..journal.cursors import Range
from ..journal.port import Put, Record
from .arrivals import Gap, Lane


class Item:
    """One that is early, and held until what is before it has come."""

    __slots__ = ("after", "arrived", "copies", "fetched")

    def __init__(self, fetched: Fetched, arrived: Incoming, after: int) -> None:
        self.fetched, self.arrived = fetched, arrived
        self.after = after  # the position before it, of a log
        self.copies: list[Fetched] = []  # of a queue: that came while it was held


class Landing:
    def __init__(self, partition: int, finished: Sequence[Range] = ()) -> None:
        self.partition = partition
        self._finished = finished  # by an earlier reading
        self.records: list[Record] = []
        self.foreign: list[int] = []  # which of these are not numbered
        self.dead: list[Put] = []
        self.marks: dict[Lane, list[Range]] = {}
        self.ranges: list[Range] = []
        self.settled: list[Fetched] = []
        self.gaps: list[Gap] = []  # that were given up

    def done(self, fetched: Fetched, after: int) -> None:
        """It needs not come again."""
        self.settled.append(fetched)
        position = fetched.position
        if self._finished and any(begin < position <= end for begin, end in self._finished):
            return  # to finish it again, with what is new, would make the unit a part of another
        _extend(self.ranges, (after, position))

    def take(self, fetched: Fetched, arrived: Incoming, after: int, lane: Lane | None, gained: Range | None) -> None:
        if not arrived.tombstone:
            if lane is None:
                self.foreign.append(len(self.records))
            self.records.append(arrived.record)
        if lane is not None and gained is not None:
            if (ranges := self.marks.get(lane)) is None:
                self.marks[lane] = [gained]
            else:
                _extend(ranges, gained)
        self.done(fetched, after)

    def followed_by(self, records: list[Record]) -> Landing:
        """Another of these, with which all of this one is settled."""
        made = Landing(self.partition)
        made.records, made.settled = records, self.settled
        return made

    def take_held(self, item: Item, lane: Lane, gained: Range) -> None:
        self.take(item.fetched, item.arrived, item.after, lane, gained)
        self.settled += item.copies


def _extend(ranges: list[Range], by: Range) -> None:
    if ranges and ranges[-1][1] == by[0]:
        ranges[-1] = ranges[-1][0], by[1]
    else:
        ranges.append(by)
