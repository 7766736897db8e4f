"""How far a relay has come: the position up to which the broker has everything, and the last number of each slot.

The journal learns of it a little later, while what comes next is on its way already:

    sent ── sent ── sent ──            the broker has it
       └─ commit ──┘ └─ commit ──      one at a time, of all that was sent meanwhile; soon, or at once when it is much

What is sent and not stored is never more than `AHEAD_MAX` events. Whoever takes over begins where the journal says, and
gives the same events the same numbers; so it is that many, at most, whose numbers may be in use already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from ..clock import Clock
from ..errors import Fenced, JournalError, SpineError
from ..journal.port import WHOLE_FEED, Done, Fence, Journal, Seen, Subscription, Unit
from .membership import Membership

PAGE = 1000  # events that are read, numbered and sent together
AHEAD_MAX = 2 * PAGE
MUCH = PAGE // 4
SOON_S = 0.02
PAUSE_MOST_S = 5.0


class Numbering:
    """`failed` is called when storing has ended by an error, which `check` then raises; `note` is told of trouble."""

    def __init__(
        self,
        channel: str,
        journal: Journal,
        clock: Clock,
        member: Membership,
        failed: Callable[[], None],
        note: Callable[[Exception], None],
    ) -> None:
        self.channel = channel
        self.journal = journal
        self.clock = clock
        self.position = 0  # the broker has all before it
        self.ahead = 0  # events sent, and not stored yet
        self.epoch = 0  # of the lease under which it was taken up; 0: it was not
        self._member = member
        self._failed, self._note = failed, note
        self._numbers: dict[int, int] = {}  # the last, by slot
        self._unstored: dict[int, int] = {}
        self._stored = 0  # the position that the journal has
        self._stored_at = 0.0
        self._row: Subscription
        self._taken_up = 0
        self._fences: list[Fence] = []
        self._due = asyncio.Event()
        self._progress = asyncio.Event()
        self._storing: asyncio.Task[None] | None = None

    @property
    def origin(self) -> str:
        return origin_of(self.journal)

    # --- taking up ------------------------------------------------------------------------------------------------

    async def take_up(self) -> None:
        """Where the last one has stopped. What was read in several parts is of one moment only if nobody else has led
        meanwhile: else numbers of one and a position of another would send events under others' numbers. `prove` says."""
        await self.end()
        self._row, self._fences = self._member.row, [self._member.fence(0)]
        self._taken_up = self._member.held[0].epoch
        number = self._row.number
        self.position = self._stored = await self._cursor(number)
        self._numbers = {}
        # Those of a retired relay of this channel, too: under them readers would take what is new for known.
        for row in await self.journal.subscriptions(self._row.service):
            marks = await self.journal.marks(row.number, self.origin, self.channel)
            for slot, (upto, _) in marks.items():
                self._numbers[slot] = max(upto, self._numbers.get(slot, 0))

    async def prove(self) -> None:
        """That all this is ours still; raises Fenced."""
        await self._commit(Unit(), self.position, {})
        self.epoch = self._taken_up

    async def keep(self) -> None:
        """Of what was sent under a generation that is over: somebody has paused or rewound it meanwhile. Where it was rewound
        other events come next, and under the same numbers readers would take them for known. Raises Fenced when another leads."""
        if not self.epoch:
            return
        await self._end_storing()
        number = self._row.number
        marks = [Seen(number, self.origin, self.channel, slot, [(0, n)]) for slot, n in self._numbers.items()]
        rows = [row for row in await self.journal.subscriptions(self._row.service) if row.number == number]
        unit = Unit(marks=list(marks))
        if self.position > self._stored == await self._cursor(number):  # not rewound: it goes on after what was sent
            unit.done += [Done(number, WHOLE_FEED, [(self._stored, self.position)], row.generation) for row in rows]
        try:
            await self.write(unit)
        except Fenced:  # changed once more
            await self.write(Unit(marks=marks))

    async def end(self) -> None:
        """What is not stored is sent again, by whoever takes it up."""
        self.epoch = 0
        await self._end_storing()
        self._unstored, self.ahead = {}, 0

    async def _end_storing(self) -> None:
        task, self._storing = self._storing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _cursor(self, number: int) -> int:
        found = [one for one in await self.journal.cursors([number]) if one.partition == WHOLE_FEED and not one.feed]
        return found[0].position if found else 0

    # --- numbers --------------------------------------------------------------------------------------------------

    def after(self, slot: int, given: Mapping[int, int]) -> int:
        """The next number of this slot, where these were given and are not sent yet."""
        return (given.get(slot) or self._numbers.get(slot, 0)) + 1

    def sent(self, upto: int, numbers: Mapping[int, int], count: int) -> None:
        """The broker has everything up to here, `count` more events under these numbers."""
        self.position = upto
        self._numbers.update(numbers)
        self._unstored.update(numbers)
        self.ahead += count
        self._store_soon()

    def passed(self, upto: int, every_s: float) -> None:
        """Nothing of this channel, up to here."""
        self.position = max(self.position, upto)
        if self.position > self._stored and self.clock.monotonic() - self._stored_at >= every_s:
            self._store_soon()

    async def use(self, slot: int, unit: Callable[[int], Unit]) -> int:
        """The next number of this slot, stored with what the unit says of it before it is used."""
        await self.store()
        given = self.after(slot, {})
        await self._commit(unit(given), self.position, {slot: given})
        self._numbers[slot] = given
        return given

    # --- storing --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises what storing has ended with."""
        task = self._storing
        if task is not None and task.done():
            self._storing = None
            task.result()

    async def room(self) -> None:
        """For one more page."""
        while self.ahead > AHEAD_MAX - PAGE:
            await self._hurry()

    async def store(self) -> None:
        """All that was sent, now."""
        while self._behind:
            await self._hurry()

    @property
    def _behind(self) -> bool:
        return self.position > self._stored or bool(self._unstored)

    async def _hurry(self) -> None:
        self.check()
        self._store_soon()
        self._progress.clear()
        self._due.set()
        await self._progress.wait()
        self.check()

    def _store_soon(self) -> None:
        if self.ahead >= MUCH:
            self._due.set()
        task = self._storing
        if task is None or _is_over(task):
            self._storing = asyncio.create_task(self._store(), name=f"spine-numbering-{self.channel}")
            self._storing.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._progress.set()
        if task.cancelled() or task.exception() is not None:
            self._failed()
        elif self._storing is task:
            self._storing = None

    async def _store(self) -> None:
        while self._behind:
            await self._wait()
            upto, numbers, count = self.position, self._unstored, self.ahead
            self._unstored = {}
            await self._commit(Unit(), upto, numbers)
            self.ahead -= count
            self._progress.set()

    async def _wait(self) -> None:
        waking = self.clock.call_later(SOON_S, self._due.set)
        try:
            await self._due.wait()
        finally:
            waking.cancel()
            self._due.clear()

    async def _commit(self, unit: Unit, upto: int, numbers: Mapping[int, int]) -> None:
        row = self._row
        ranges = [(self._stored, upto)] if upto > self._stored else []
        unit.done.append(Done(row.number, WHOLE_FEED, ranges, row.generation))
        unit.marks += [Seen(row.number, self.origin, self.channel, slot, [(0, n)]) for slot, n in numbers.items()]
        await self.write(unit)
        self._stored, self._stored_at = upto, self.clock.monotonic()

    async def write(self, unit: Unit) -> list[int]:
        """Under our lease, once, however often it has to be asked; numbers of the rows that it wrote."""
        unit.fences += self._fences
        pause_s = 0.05
        while True:
            (verdict,) = await self.journal.commit([unit])
            if verdict.ok:
                return verdict.numbers
            if verdict.kind != "unknown" and not isinstance(verdict.error, JournalError):
                raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")
            self._note(verdict.error or SpineError("the outcome of a commit is unknown"))
            await self.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)


def origin_of(journal: Journal) -> str:
    """Whose numbers these are; others', once the journal was restored from a copy."""
    return f"{journal.id}.{journal.incarnation}"


def _is_over(task: asyncio.Task[None]) -> bool:
    """Without an error, which `check` would have to raise."""
    return task.done() and not task.cancelled() and task.exception() is None
