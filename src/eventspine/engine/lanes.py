"""Lanes: many keys at once, one delivery per key at a time. Pure state: no clock, no journal, no tasks.

    live item ──add──▶ queue ──┐
                               ├──take──▶ taken ──release──▶ next of the key, or the lane goes
    stored row ──keep─▶ stored ┘            │
                        (waits its due)     └──again──▶ taken next, same item

A lane is taken from `take` until `release`, which comes with the verdict on its unit and not before. Only behind one that was
handled without effects may the next be taken at once (`follow`): both are then stored together, or neither. While a lane has
stored rows (parked, or dead in a subscription whose key waits), live items may not overtake them: `add` says so, and
the caller stores them behind. Lanes are taken round robin, so a quiet key waits for at most one delivery of a hot one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush

import msgspec

from ..journal.port import Record, StartMark


class Part(msgspec.Struct, eq=False):
    """One partition of one subscription, for as long as this process holds its lease."""

    number: int
    lease: str
    epoch: int
    last: int  # position where the last range made for the cursor ends; at first where the cursor stands
    beyond: list[tuple[int, int]]
    generation: int  # of the cursor when it was loaded: a rewind since then fences what is at work
    scanned: int  # how far it has been read
    careful: bool = False  # the owner before died with it (R16)
    alive: bool = True
    taken: int = 0  # items handed out, verdict pending


class Item(msgspec.Struct, eq=False, gc=False):
    """One delivery at work: a live record, or a stored one (`number` > 0). One is made for every event, hence a struct,
    and one that the garbage collector does not know: thousands that come and go would have it look at everything again and
    again. So the circles that items are part of, through their lanes, are for `Lanes` to open."""

    record: Record | None
    part: Part
    after: int  # its range in the cursor is (after, position]; a stored one has no range left
    lane: Lane = None  # type: ignore[assignment]  # of its key, from when it is added
    attempts: int = 0
    deaths: int = 0
    number: int = 0
    first_us: int = 0
    late: bool = False
    plain: bool = True  # nothing of it is stored but the cursor before it
    suspect: bool = False
    mark: StartMark | None = None  # which it had before the attempt that runs now, if that has one (R16)
    single: bool = False  # runs by itself: its run failed as a whole, it waited, or its process died with it (R16)
    failure: tuple[str, str] | None = None  # reason and text of the last failed attempt
    started: float = 0.0  # monotonic; 0 while its handler is not running
    timed_out: bool = False
    waits: int = 0  # order="feed": not to be handled before this time (microseconds)
    turn: int = (
        0  # of the committer, if it was handed out when the one before it in its key was handled and not yet stored
    )

    @property
    def of_row(self) -> bool:
        """Whether the cursor has passed it: it was made from a stored row, which can make it anew."""
        return self.number > 0 and (self.record is None or self.after >= self.record.position)

    @property
    def forgotten(self) -> bool:
        """Whether nobody keeps it who gives it back: its row makes it anew, or its partition's next owner."""
        return self.of_row or not self.part.alive


class Stored:
    """A delivery row of this key, without its record."""

    __slots__ = (
        "attempts", "dead", "deaths", "due_us", "first_us", "late", "number", "part", "position",
        "suspect",
    )  # fmt: skip

    def __init__(self, number: int, position: int, part: Part, due_us: int | None) -> None:
        self.number = number
        self.position = position
        self.part = part
        self.due_us = due_us  # None: as soon as it is first in its key
        self.dead = False  # waits for an operator, and its key with it
        self.attempts = 0
        self.deaths = 0
        self.first_us = 0
        self.late = False
        self.suspect = False


IDLE_MAX = 4096  # lanes of keys that may be kept with nothing to do; a lane without a key is of no use again

NOTHING: deque[Item] = deque(maxlen=0)  # stands for an empty queue; nothing can be put into it
NONE: list[Stored] = []  # stands for no rows; never changed


class Lane:
    __slots__ = ("key", "next", "next_due", "of_row", "part", "pending", "queue", "queued", "stored", "taken", "turn")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.queue: deque[Item] = NOTHING  # until there is something: most lanes come and go with one item
        self.stored: list[Stored] = NONE  # ascending by position
        self.pending = 0  # live items on their way into rows behind the stored ones
        self.next: Item | None = None  # another attempt of the same item
        self.next_due: int | None = None  # and not before this time
        self.taken = 0  # items handed out, verdict pending; more than one only in a run, or where one follows another
        self.of_row = False  # what is handed out was made from a stored row
        self.turn = -1  # of the committer when one was handled without effects, and more were there to follow it
        self.part: Part | None = None  # of that one
        self.queued = False  # stands in `ready`, or in the heap with its due time


class Lanes:
    def __init__(self, shuffle: random.Random | None = None) -> None:
        self._shuffle = shuffle  # of lanes that become ready: for handlers that must not rely on an order (R18)
        self.lanes: dict[Hashable, Lane] = {}
        self.ready: deque[Lane] = deque()
        self.size = 0  # items in memory
        self.taken = 0  # of them handed out, verdict pending
        self.full = False  # no more may be stored behind; they wait in memory
        self._due: list[tuple[int, int, Lane]] = []
        self._sequence = 0

    def __del__(self) -> None:
        """Whoever had these has ended, in order or not."""
        for lane in self.lanes.values():
            lane.queue, lane.next = NOTHING, None

    def lane(self, key: Hashable) -> Lane:
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        return lane

    def add(self, item: Item, key: Hashable) -> bool:
        """Queue a live item; False when its key waits, so that it must be stored behind (`pending` counts it)."""
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        item.lane = lane
        self.size += 1
        if (lane.stored or lane.pending) and not lane.queue and not self.full and not self._in_hand(lane):
            lane.pending += 1
            return False
        if lane.queue is NOTHING:
            lane.queue = deque((item,))
        else:
            lane.queue.append(item)
        if not lane.queued and not lane.taken and not lane.stored and not lane.pending:
            lane.queued = True
            if self._shuffle is not None and self._shuffle.random() < 0.5:
                self.ready.appendleft(lane)
            else:
                self.ready.append(lane)
        return True

    def _in_hand(self, lane: Lane) -> bool:
        """Whether one of its events is handed out, or will be again, that no row keeps. A late row may come while it is, and what
        were stored behind that would come first if this process ended now."""
        return lane.taken > lane.of_row or (lane.next is not None and not lane.next.of_row)

    def keep(self, lane: Lane, stored: Stored) -> None:
        """A row of this key now exists. Its place is by position: what is late comes before what is behind."""
        at = len(lane.stored)
        while at and lane.stored[at - 1].position > stored.position:
            at -= 1
        if not lane.stored:
            lane.stored = [stored]
        else:
            lane.stored.insert(at, stored)

    def follow(self, item: Item, turn: int) -> None:
        """It was handled without effects: the next of its key may be handed out before this one is stored, as long as the
        committer hasn't begun another turn. Then what both finish is one unit, of which all is stored or nothing."""
        lane = item.lane
        if not (lane.queued or lane.next is not None or lane.stored or lane.pending):
            lane.turn, lane.part = turn, item.part
            lane.queued = True
            self.ready.append(lane)

    def take(self, turn: int = 0) -> Item | None:
        """The next item of the next ready lane, in this turn of the committer. None when that lane has nothing after all."""
        lane = self.ready.popleft()
        lane.queued = False
        if lane.taken and not self._follows(lane, turn):
            return None
        if lane.next is not None:
            item, lane.next = lane.next, None
            lane.of_row = item.of_row
        elif lane.stored:
            item = self._of_stored(lane)
            lane.of_row = True
        elif lane.queue:
            item = lane.queue.popleft()
        else:
            return None
        lane.taken += 1
        item.part.taken += 1
        self.taken += 1
        return item

    def _follows(self, lane: Lane, turn: int) -> bool:
        if lane.turn != turn or lane.next is not None or lane.stored or not lane.queue:
            return False
        item = lane.queue[0]
        if not item.plain or item.part is not lane.part:
            return False
        item.turn = turn
        return True

    def hand_out(self, item: Item) -> None:
        item.lane.taken += 1
        item.part.taken += 1
        self.taken += 1

    def _give_back(self, item: Item) -> None:
        item.lane.taken -= 1
        item.lane.of_row = False
        item.part.taken -= 1
        self.taken -= 1

    def _of_stored(self, lane: Lane) -> Item:
        stored = lane.stored[0]
        item = Item(None, stored.part, stored.position)
        item.plain = False
        item.lane = lane
        item.number, item.attempts, item.deaths = stored.number, stored.attempts, stored.deaths
        item.first_us, item.late, item.suspect = stored.first_us, stored.late, stored.suspect
        item.single = True  # it failed, or waited for one that did: no run is risked with it
        self.size += 1
        return item

    def more(self, lane: Lane) -> Item | None:
        """Another live item of a lane that is taken, for the same run."""
        if lane.stored or lane.next is not None or not lane.queue:
            return None
        item = lane.queue.popleft()
        self.hand_out(item)
        return item

    def run(self, lane: Lane, most: int, *, suspect: bool = False) -> list[Item]:
        """`more`, as often as it gives any, but not what runs by itself; suspects only, or none."""
        found: list[Item] = []
        queue = lane.queue
        if lane.stored or lane.next is not None:
            return found
        while queue and len(found) < most and not queue[0].single and queue[0].suspect == suspect:
            item = queue.popleft()
            item.part.taken += 1
            found.append(item)
        lane.taken += len(found)
        self.taken += len(found)
        return found

    def back(self, items: list[Item]) -> None:
        """Items of one run that were not handled after all: first in their keys again, in their order. Not so those of
        a partition that was given up meanwhile: they are its next owner's, and would be handled beside him."""
        for item in reversed(items):
            self._give_back(item)
            if item.forgotten:
                self.size -= 1
            else:
                item.lane.queue = deque((item, *item.lane.queue))
        for item in items:
            self.proceed(item.lane)

    def release(self, item: Item) -> None:
        """The verdict is in; the key goes on."""
        self._give_back(item)
        self.size -= 1
        self.proceed(item.lane)

    def refused(self, items: Sequence[Item]) -> None:
        """What these finished was not stored: nothing that follows them is to be."""
        for item in items:
            item.lane.turn = -1

    def release_all(self, items: Sequence[Item]) -> int:
        """`release` for many of one partition; how many bytes of data they held."""
        proceed = self.proceed
        size = 0
        for item in items:
            size += len(item.record[14])  # type: ignore[index]  # handled, so loaded
            lane = item.lane
            lane.taken -= 1
            if not (lane.taken or lane.queued):  # else there is nothing to proceed with
                proceed(lane)
        items[0].part.taken -= len(items)
        self.taken -= len(items)
        self.size -= len(items)
        return size

    def again(self, item: Item, due_us: int | None = None) -> None:
        """The same item once more, at once or when due, before anything else of its key."""
        self._give_back(item)
        item.lane.next, item.lane.next_due = item, due_us
        self.proceed(item.lane)

    def hold(self, item: Item) -> None:
        """The same item, when somebody says so (`again` with it, or `release`)."""
        self._give_back(item)
        item.lane.next, item.lane.next_due = item, None

    def proceed(self, lane: Lane) -> None:
        """Make the lane ready if it has something to do now, plan it if later, forget it if never."""
        if lane.taken or lane.queued:
            return
        if lane.next is not None:
            self._wait(lane, lane.next_due)
        elif lane.stored:
            if not lane.stored[0].dead:
                self._wait(lane, lane.stored[0].due_us)
        elif lane.queue:
            lane.queued = True
            self.ready.append(lane)
        elif not lane.pending and (len(self.lanes) > IDLE_MAX or type(lane.key) is not tuple):
            self.lanes.pop(lane.key, None)  # else it is kept, since a key that has been will be again

    def behind(self, lane: Lane) -> Iterator[Item]:
        """Live items that must be stored behind, because their key waits now. Each counts as pending."""
        while lane.queue:
            lane.pending += 1
            yield lane.queue.popleft()

    def _wait(self, lane: Lane, due_us: int | None) -> None:
        lane.queued = True
        if due_us is None:
            self.ready.append(lane)
            return
        self._sequence += 1
        heappush(self._due, (due_us, self._sequence, lane))

    def next_due(self) -> int | None:
        return self._due[0][0] if self._due else None

    def wake(self, now_us: int) -> bool:
        """Make lanes ready whose time has come; whether there were any."""
        woken = False
        while self._due and self._due[0][0] <= now_us:
            lane = heappop(self._due)[2]
            if lane.queued and not lane.taken:
                self.ready.append(lane)
                woken = True
        return woken

    def hurry(self, lanes: Iterable[Lane]) -> None:
        """Their first stored rows are due at other times than were planned: plan them again."""
        again = dict.fromkeys(lanes)
        if not again:
            return
        self._due = [entry for entry in self._due if entry[2] not in again]
        heapify(self._due)
        ready = set(self.ready)
        for lane in again:
            if lane not in ready:
                lane.queued = False
            self.proceed(lane)

    def forget(self, part: Part) -> list[Item]:
        """The partition is no longer ours: drop what is not taken; what is taken finds its part dead."""
        part.alive = False
        dropped: list[Item] = []
        for lane in list(self.lanes.values()):
            if lane.queue and lane.queue[0].part is part:
                dropped.extend(lane.queue)
                lane.queue = NOTHING
            lane.stored = [stored for stored in lane.stored if stored.part is not part]
            if lane.next is not None and lane.next.part is part:
                dropped.append(lane.next)
                lane.next = None
            if not (lane.taken or lane.queue or lane.stored or lane.next or lane.pending):
                self.lanes.pop(lane.key, None)
        self.size -= len(dropped)
        return dropped
