"""Landings: what of one partition goes into the journal as one, and what may be settled at the broker once it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..brokers.binding import Incoming
from ..brokers.port import Fetched
from ..journal.cursors import Range
from ..journal.port import Put, Record
from .arrivals import Lane


@dataclass(frozen=True, slots=True)
class Item:
    fetched: Fetched
    arrived: Incoming
    after: int  # the position before it, of a log
    copies: list[Fetched] = field(default_factory=list)  # of a queue: that came while it was held


class Landing:
    def __init__(self, partition: int, finished: Sequence[Range] = ()) -> None:
        self.partition = partition
        self._finished = finished  # by an earlier reading
        self.records: list[Record] = []
        self.dead: list[Put] = []
        self.marks: dict[Lane, list[Range]] = {}
        self.ranges: list[Range] = []
        self.settled: list[Fetched] = []

    def done(self, fetched: Fetched, after: int) -> None:
        """It needs not come again."""
        self.settled.append(fetched)
        if any(begin < fetched.position <= end for begin, end in self._finished):
            return  # to finish it again, with what is new, would make the unit a part of another
        if self.ranges and self.ranges[-1][1] == after:
            self.ranges[-1] = (self.ranges[-1][0], fetched.position)
        else:
            self.ranges.append((after, fetched.position))

    def take(self, item: Item, lane: Lane | None, gained: Range | None) -> None:
        if not item.arrived.tombstone:
            self.records.append(item.arrived.record)
        if lane is not None and gained is not None:
            ranges = self.marks.setdefault(lane, [])
            if ranges and ranges[-1][1] == gained[0]:
                ranges[-1] = (ranges[-1][0], gained[1])
            else:
                ranges.append(gained)
        self.done(item.fetched, item.after)
        self.settled += item.copies
