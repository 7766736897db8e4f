"""What the memory journal holds: the tables of schema.sql as lists and dicts, each found by what it is asked for."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from .cursors import Range, fold, is_finished
from .notes import Place, after
from .port import Deleted, Delivery, Keep, Lease, Note, Process, Record, Seen, Statement, Subscription, Timer

Run = Callable[[Sequence[Statement]], Exception | None]  # all of them or none; why none
_new_record = tuple.__new__  # a third of the time of Record._replace, which every appended event pays


class Tables:
    __slots__ = (
        "by_correlation",
        "by_id",
        "control",
        "cursors",
        "cut_off",
        "deleted",
        "deleted_bytes",
        "deliveries",
        "delivery_at",
        "delivery_last",
        "due",
        "ending",
        "feed",
        "feed_bytes",
        "generations",
        "holes",
        "keeps",
        "leases",
        "marks",
        "notes",
        "processes",
        "run_statements",
        "starts",
        "streams",
        "subscriptions",
        "timers",
    )

    def __init__(self) -> None:
        self.feed: list[Record] = []  # position = index + 1
        self.feed_bytes: list[int] = [0]  # bytes of data up to and including a position
        self.by_id: dict[bytes, int] = {}
        self.by_correlation: dict[str, list[int]] = {}
        self.streams: dict[tuple[str, str], list[int]] = {}  # version = index + 1; 0: cut off
        self.generations: dict[str, list[tuple[int, str]]] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.cursors: dict[int, dict[tuple[str, int], tuple[int, list[Range]]]] = {}  # by subscription
        self.deliveries: dict[int, Delivery] = {}  # ascending, since numbers are
        self.delivery_at: dict[tuple[int, str, int, int], int] = {}
        self.delivery_last = 0
        self.marks: dict[tuple[int, str, str], dict[int, tuple[int, list[Range]]]] = {}  # by slot
        self.notes: dict[tuple[str, str], dict[str, tuple[int, bytes, int | None]]] = {}  # by service, kind; then key
        self.ending: list[tuple[int, Place]] = []  # a heap; what it says of a note that was written anew is passed over
        self.starts: dict[tuple[int, str, int], dict[int, tuple[int, int]]] = {}
        self.timers: dict[bytes, Timer] = {}
        self.due: list[tuple[int, bytes]] = []  # a heap; what it says of a cancelled timer is passed over
        self.leases: dict[str, Lease] = {}
        self.processes: dict[str, Process] = {}
        self.control = 0
        self.run_statements: Run | None = None  # None: there are no tables of anybody's own
        self.keeps: list[Keep] = []
        self.deleted: dict[str, Deleted] = {}
        self.cut_off: list[Deleted] = []
        self.holes = False  # whether anything was deleted, and the feed has empty places
        self.deleted_bytes = 0  # of those that feed_bytes counts

    # --- the feed ---------------------------------------------------------------------------------------------------

    def append(self, records: Iterable[Record], now_us: int) -> list[int]:
        """The positions of `records`, appended unless they are there already."""
        feed, by_id, positions = self.feed, self.by_id, []
        size = self.feed_bytes[-1]
        now_us = max(now_us, feed[-1].recorded_us) if feed else now_us  # position_at needs them in order
        for record in records:
            position = by_id.get(record[1])
            if position is None:
                position = len(feed) + 1
                stored = _new_record(Record, (position, *record[1:8], now_us, *record[9:]))
                feed.append(stored)
                by_id[stored.id] = position
                size += len(stored.data)
                self.feed_bytes.append(size)
                if stored.correlation is not None:
                    self.by_correlation.setdefault(stored.correlation, []).append(position)
            positions.append(position)
        return positions

    def position_at(self, time_us: int) -> int:
        position = bisect_left(self.feed, time_us, key=lambda record: record.recorded_us)
        while position and not self.feed[position - 1].id:  # that one was deleted
            position -= 1
        return position

    # --- streams ----------------------------------------------------------------------------------------------------

    def first(self, service: str, stream: str) -> int:
        """The version that it begins with; 0: it has none."""
        positions = self.streams.get((service, stream), [])
        return positions.count(0) + 1 if positions else 0

    # --- cursors ----------------------------------------------------------------------------------------------------

    def cursor(self, subscription: int, feed: str, partition: int) -> tuple[int, list[Range]]:
        return self.cursors.get(subscription, {}).get((feed, partition)) or (0, [])

    def ends(self, subscription: int, feed: str, partition: int, ranges: Sequence[Range]) -> list[bool]:
        """Whether the event at the end of each range is finished. What lies before it in its range may be counted
        otherwise by an owner that has loaded the cursor anew, and is no event of its own."""
        position, beyond = self.cursor(subscription, feed, partition)
        return [is_finished(position, beyond, upto) for _, upto in ranges]

    def fold(self, subscription: int, feed: str, partition: int, ranges: Sequence[Range]) -> None:
        if not ranges:
            return
        rows = self.cursors.get(subscription)
        if rows is None:
            rows = self.cursors[subscription] = {}
        place = (feed, partition)
        position, beyond = rows.get(place) or (0, [])
        if not beyond and len(ranges) == 1 and ranges[0][0] <= position:  # nearly always, and then far cheaper
            rows[place] = (max(position, ranges[0][1]), beyond)
        else:
            rows[place] = fold(position, beyond, ranges)

    # --- marks ------------------------------------------------------------------------------------------------------

    def marked_ends(self, seen: Seen) -> list[bool]:
        subscription, origin, channel, slot, ranges = seen
        position, beyond = self.marks.get((subscription, origin, channel), {}).get(slot, (0, []))
        return [is_finished(position, beyond, upto) for _, upto in ranges]

    def mark(self, seen: Seen) -> None:
        subscription, origin, channel, slot, ranges = seen
        if not ranges:
            return
        slots = self.marks.setdefault((subscription, origin, channel), {})
        slots[slot] = fold(*slots.get(slot, (0, [])), ranges)

    # --- notes ------------------------------------------------------------------------------------------------------

    def note_version(self, place: Place) -> int:
        found = self.notes.get(place[:2], {}).get(place[2])
        return 0 if found is None else found[0]

    def write_note(self, note: Note) -> None:
        kept = self.notes.setdefault((note.service, note.kind), {})
        if note.value is None:
            kept.pop(note.key, None)
        else:
            kept[note.key] = (after(note, self.note_version(note[:3])), note.value, note.until_us)
        if note.until_us is not None:
            heapq.heappush(self.ending, (note.until_us, note[:3]))

    def remove_ended_notes(self, now_us: int) -> None:
        while self.ending and self.ending[0][0] < now_us:
            until_us, (service, kind, key) = heapq.heappop(self.ending)
            kept = self.notes[service, kind]
            if key in kept and kept[key][2] == until_us:
                del kept[key]

    # --- timers -----------------------------------------------------------------------------------------------------

    def set_timer(self, timer: Timer) -> bool:
        """Whether it is new; one that is set, or has fired already, stays as it is."""
        id = timer.record.id
        if id in self.timers or id in self.by_id:
            return False
        self.timers[id] = timer
        heapq.heappush(self.due, (timer.due_us, id))
        return True

    def next_due(self) -> int | None:
        while self.due:
            due_us, id = self.due[0]
            if (timer := self.timers.get(id)) and timer.due_us == due_us:
                return due_us
            heapq.heappop(self.due)
        return None

    def take_due(self, now_us: int, limit: int) -> list[Record]:
        records: list[Record] = []
        while len(records) < limit and (due_us := self.next_due()) is not None and due_us <= now_us:
            records.append(self.timers.pop(heapq.heappop(self.due)[1]).record)
        return records

    # --- deliveries -------------------------------------------------------------------------------------------------

    def remove_delivery(self, number: int) -> None:
        row = self.deliveries.pop(number)
        del self.delivery_at[row.subscription, row.feed, row.partition, row.position]
