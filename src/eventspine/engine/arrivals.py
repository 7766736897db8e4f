"""Arrivals: which of the numbered messages of one channel are new, known, early or late. Pure: nothing here waits or stores.

An origin numbers its messages per slot, from 1 without holes. What is in a mark is known. What follows the highest is
new. What is beyond that is early: the hole before it may be closed by what is still on its way, so it is held. A hole
that stays open is given up by whoever counts the time; what then still comes is late, and new all the same (R1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar

from ..journal.cursors import Range, fold, is_finished

T = TypeVar("T")
Verdict = Literal["new", "known", "early", "late"]
Lane = tuple[str, int]  # origin, slot
HELD_BYTES_MAX = 64_000_000  # of data and headers


class Gap(NamedTuple):
    """Numbers that never came."""

    origin: str
    slot: int
    first: int
    last: int


class Arrivals(Generic[T]):
    """`ordered`: the broker keeps the order of a slot, so whatever comes first of a lane is where it begins. Of a `queue`
    that holds only while nobody else may have fetched what was before: what was not settled comes again later."""

    def __init__(self, *, ordered: bool, queue: bool = False) -> None:
        self.ordered = ordered
        self.queue = queue
        self.held = 0
        self.held_bytes = 0
        self._marks: dict[Lane, tuple[int, Sequence[Range]]] = {}
        self._early: dict[Lane, dict[int, tuple[T, int]]] = {}  # with its size
        self._since: dict[Lane, float] = {}
        self._next: dict[Lane, int] = {}  # where lanes go on whose hole was given up

    def load(self, origin: str, marks: Mapping[int, tuple[int, Sequence[Range]]]) -> None:
        """All that is stored of an origin, in place of what was known of it."""
        for lane in [lane for lane in self._marks if lane[0] == origin]:
            del self._marks[lane]
        for slot, mark in marks.items():
            self._marks[origin, slot] = mark

    def forget(self) -> set[str]:
        """All that is stored but of these origins, of which something is held. Of others it has to be loaded again."""
        kept = {origin for origin, _ in (*self._early, *self._next)}
        self._marks = {lane: mark for lane, mark in self._marks.items() if lane[0] in kept}
        return kept

    def drop(self, dropped: Callable[[T], bool]) -> None:
        """Forget these that are held: they come again, to whoever has their partition then."""
        for lane, early in list(self._early.items()):
            for number in [number for number, (item, _) in early.items() if dropped(item)]:
                self._pop(lane, number)

    def judge(self, lane: Lane, number: int, *, first_owner: bool = False) -> Verdict:
        mark = self._marks.get(lane)
        if number == self._next.get(lane):
            return "new"
        if mark is None:
            begins = number == 1 or (self.ordered and (first_owner or not self.queue))
            return "new" if begins else "early"
        upto, beyond = mark
        if is_finished(upto, beyond, number):
            return "known"
        top = beyond[-1][1] if beyond else upto
        return "new" if number == top + 1 else "late" if number < top else "early"

    def follow(self, lane: Lane, number: int) -> Range | None:
        """`judge` and `take` of what nearly all is: the next number of a lane that has no holes. None: they have to be asked."""
        mark = self._marks.get(lane)
        if mark is None or mark[1] or mark[0] + 1 != number or self._early or self._next:
            return None
        self._marks[lane] = number, ()
        return mark[0], number

    def take(self, lane: Lane, number: int) -> Range:
        """It is in: the range that its mark gains. The first of a lane finishes all below it, if that can't come again."""
        mark = self._marks.get(lane)
        if self._next.get(lane) == number:
            del self._next[lane]
        gained = (0 if mark is None and not self.queue else number - 1, number)
        self._marks[lane] = fold(*(mark or (0, [])), [gained])
        return gained

    def hold(self, lane: Lane, number: int, item: T, now: float, size: int = 0) -> T | None:
        """The one that is held under this number already, instead of this one."""
        early = self._early.setdefault(lane, {})
        if number in early:
            return early[number][0]
        early[number] = item, size
        self._since.setdefault(lane, now)
        self.held += 1
        self.held_bytes += size
        return None

    def next_of(self, lane: Lane) -> tuple[int, T] | None:
        """What was held and is new now that something was taken."""
        early = self._early.get(lane)
        if not early:
            return None
        number = min(early)
        if self.judge(lane, number) == "early":
            return None
        return number, self._pop(lane, number)

    def waiting(self, since: float) -> list[Lane]:
        """Of which something is held since then, or for longer."""
        return [lane for lane, held_since in self._since.items() if held_since <= since]

    def give_up(
        self, now: float, patience_s: float, held_max: int, bytes_max: int = HELD_BYTES_MAX
    ) -> list[tuple[Lane, Gap | None]]:
        """Lanes whose hole was open for too long, or the oldest if too much is held. Each goes on at the lowest that is
        held: `next_of` gives it. The gap is None for a lane at its very first."""
        lanes = [lane for lane, since in self._since.items() if now - since >= patience_s]
        if not lanes and (self.held > held_max or self.held_bytes > bytes_max):
            lanes = [min(self._since, key=self._since.__getitem__)]
        return [(lane, self._jump(lane, now)) for lane in lanes]

    def _jump(self, lane: Lane, now: float) -> Gap | None:
        lowest = self._next[lane] = min(self._early[lane])
        self._since[lane] = now  # the next hole of this lane has its own time
        mark = self._marks.get(lane)
        if mark is None:
            return None
        upto, beyond = mark
        return Gap(*lane, (beyond[-1][1] if beyond else upto) + 1, lowest - 1)

    def _pop(self, lane: Lane, number: int) -> T:
        early = self._early[lane]
        item, size = early.pop(number)
        self.held -= 1
        self.held_bytes -= size
        if not early:
            del self._early[lane], self._since[lane]
        return item
