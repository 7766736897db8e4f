"""The committer: what handlers finished becomes units, many to a commit, and every verdict finds its way back.

One commit is under way at a time; what finishes meanwhile goes with the next. Deliveries without effects need no
verdict each: those of one subscription share a unit that only finishes ranges; where it is refused, each partition has one of
its own, since the others may still be ours. Trouble of the journal itself (no space, lock held by another, outcome
unknown) is nobody's failed attempt: the same units are asked again, with the same ids, until the journal answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ..clock import Clock
from ..errors import JournalError
from ..journal.cursors import Range
from ..journal.port import Done, Fence, Journal, Unit, Verdict

if TYPE_CHECKING:
    from .lanes import Item, Part
    from .subscription import Subscription

log = logging.getLogger("eventspine.engine")

Then = Callable[[Verdict], None]
Handled = tuple["Subscription", list["Item"]]  # all of one partition
PAUSE_MOST_S = 5.0
ENOUGH = 1500  # deliveries waiting for a verdict; with more the loop would run dry while the journal writes
GATHER = 40  # turns of the loop at most


class Asked(NamedTuple):
    """What the journal is asked to store, and who hears of it."""

    unit: Unit
    then: Then
    apart: Sequence[Callable[[], Asked]] = ()  # the same, partition by partition


class Committer:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self.journal = journal
        self.clock = clock
        self.trouble: str | None = None  # why commits don't get through just now; health shows it
        self._plain: dict[Part, Handled] = {}  # handled without effects
        self._units: list[Asked] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._busy = False
        self.turn = 1  # counts commits from when their units are collected
        self._stored = 0  # the last turn whose commit has had its verdicts
        self._told: list[asyncio.Future[None]] = []
        self._stopped = False

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """`failed` is told when the committer ends by an error of ours: without it nothing would be stored any more."""
        self._task = asyncio.create_task(self._run(), name="spine-committer")
        self._task.add_done_callback(
            lambda task: None if task.cancelled() or (error := task.exception()) is None else failed(error)
        )

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._stopped = True
        self._tell_those_who_wait()

    @property
    def idle(self) -> bool:
        return not (self._plain or self._units or self._busy)

    def finish(self, subscription: Subscription, item: Item) -> None:
        """An item handled without effects."""
        handled = self._plain.get(item.part)
        if handled is None:
            self._plain[item.part] = (subscription, [item])
            self._wake.set()
        else:
            handled[1].append(item)

    def is_stored(self, turn: int) -> bool:
        """Whether what was finished in that turn has its verdict."""
        return self._stored >= turn

    async def through(self, turn: int) -> None:
        """When what was finished in that turn has its verdict."""
        while not self.is_stored(turn):
            if self._stopped:  # a thread is not cancelled with its worker; it must not wait for ever
                raise asyncio.CancelledError
            told = asyncio.get_running_loop().create_future()
            self._told.append(told)
            await told

    def submit(self, unit: Unit, then: Then) -> None:
        self._units.append(Asked(unit, then))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._gather()
            plain, self._plain = self._plain, {}
            asked, self._units = self._units, []
            turn, self.turn = self.turn, self.turn + 1
            asked += _finishing(plain.values())
            if asked:
                self._busy = True
                await self._commit(asked)
                self._busy = False
            self._stored = turn
            self._tell_those_who_wait()

    def _tell_those_who_wait(self) -> None:
        told, self._told = self._told, []
        for one in told:
            if not one.done():
                one.set_result(None)

    async def _gather(self) -> None:
        """While handlers finish without waiting for anything, let some more finish: a commit costs much the same for
        one delivery as for a thousand."""
        for _ in range(GATHER):
            subscription = next(reversed(self._plain.values()))[0] if self._plain else None
            if subscription is None or not subscription.lanes.ready:
                return
            before = subscription.lanes.taken
            if before >= ENOUGH:
                return
            await asyncio.sleep(0)
            if subscription.lanes.taken == before:
                return

    async def _commit(self, asked: list[Asked]) -> None:
        pause_s = 0.05
        while asked:
            verdicts = await self._ask([one.unit for one in asked])
            again, apart = [], []
            for one, verdict in zip(asked, verdicts, strict=True):
                if verdict.kind == "unknown" or isinstance(verdict.error, JournalError):
                    self._note(verdict.error)
                    again.append(one)
                elif one.apart and not verdict.ok:
                    apart += [partition() for partition in one.apart]
                else:
                    _tell(one.then, verdict)
            asked = again + apart
            if again:
                await self.clock.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MOST_S)
        self.trouble = None

    async def _ask(self, units: Sequence[Unit]) -> list[Verdict]:
        try:
            return await self.journal.commit(units)
        except JournalError as error:
            return [Verdict("failed", error=error) for _ in units]

    def _note(self, error: Exception | None) -> None:
        reason = str(error or "the outcome of a commit is unknown")
        if self.trouble != reason:
            log.error("commits do not get through, trying again: %s", reason)
        self.trouble = reason


def _tell(then: Then, verdict: Verdict) -> None:
    """A mistake in what follows one verdict must not keep the others from theirs."""
    try:
        then(verdict)
    except Exception:
        log.exception("after the verdict %s", verdict.kind)


def _finishing(handled: Iterable[Handled]) -> list[Asked]:
    """Of one subscription what it has handled in all its partitions, as one unit."""
    by_subscription: dict[Subscription, list[Handled]] = {}
    for one in handled:
        by_subscription.setdefault(one[0], []).append(one)
    return [_ranges(several) for several in by_subscription.values()]


def _ranges(several: Sequence[Handled]) -> Asked:
    unit = Unit(
        fences=[Fence(items[0].part.lease, items[0].part.epoch) for _, items in several],
        done=[_done(*handled) for handled in several],
    )
    apart = [partial(_ranges, [handled]) for handled in several] if len(several) > 1 else []
    return Asked(unit, partial(_finished, several), apart)


def _done(subscription: Subscription, items: Sequence[Item]) -> Done:
    part = items[0].part
    return Done(subscription.number, part.number, _merged(items), part.generation)


def _finished(several: Sequence[Handled], verdict: Verdict) -> None:
    for subscription, items in several:
        _tell(partial(subscription.finished, items), verdict)


_after = attrgetter("after")


def _merged(items: Sequence[Item]) -> list[Range]:
    """What these of one partition finish. Those that follow each other in the feed make one range: without effects they may be
    finished twice, so nobody asks for each whether it was. They come as they were handled, a second of a key long after its
    neighbours: left like that, nearly each would be a range of its own."""
    ranges: list[Range] = []
    items = sorted(items, key=_after)
    begin = end = items[0].after
    for item in items:
        if item.after != end:
            ranges.append((begin, end))
            begin = item.after
        end = item.record[0]  # type: ignore[index]  # handled, so loaded
    ranges.append((begin, end))
    return ranges
