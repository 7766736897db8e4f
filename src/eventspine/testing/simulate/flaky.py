"""The shared journal as one simulated process has it: behind a connection on which calls take time, fail, or end without
anybody knowing how. What is committed is committed by the real memory journal; here it only goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import JournalError, OutcomeUnknown
from ...journal.port import Page, Transaction, Unit, Verdict
from .loop import others_turn

if TYPE_CHECKING:
    from .process import Process
    from .shared import SharedJournal
    from .world import World

WRITES = frozenset({"control", "fire", "keep", "lease", "leave", "register", "run_tables", "sweep"})
CALLS = WRITES | {
    "head",
    "position_at",
    "stream",
    "stream_version",
    "event",
    "correlated",
    "subscriptions",
    "cursors",
    "deliveries",
    "starts",
    "marks",
    "notes",
    "control_version",
    "next_due",
    "timers",
    "processes",
    "leases",
    "declarations",
    "describe",
    "keeps",
    "query",
}
REPEATED_MOST = 3  # records


class FlakyJournal:
    sql, dialect = True, "sqlite"

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.shared: SharedJournal = process.site.journal
        self.id, self.url = self.shared.id, self.shared.url
        self._travels = bool(
            world.faults.refused or world.faults.slow
        )  # else it is there at once, if it can be reached

    def exists(self) -> bool:
        return True

    async def open(self) -> None:
        """It is always there."""

    async def close(self) -> None:
        """Others use it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shared, name)

    def _may_not_arrive(self) -> bool:
        return self._travels or not self.process.reaches_journal

    async def _travel(self, what: str) -> None:
        """To the journal; it may take a while, or fail on the way."""
        world, who = self.world, self.process.name
        if not self.process.reaches_journal or world.falls(who, "refused", world.faults.refused) is not None:
            world.tell(who, "can't reach the journal", what)
            await asyncio.sleep(0.05)
            raise JournalError("The simulated journal can't be reached.")
        amount = world.falls(who, "slow", world.faults.slow)
        if amount is not None:
            await asyncio.sleep(amount * world.faults.slow_s)

    async def _come_back(self) -> None:
        """What it tells is as it was when the journal was asked, and others may have changed it meanwhile."""
        world = self.world
        amount = world.falls(self.process.name, "slow_answers", world.faults.slow_answers)
        await (others_turn() if amount is None else asyncio.sleep(amount * world.faults.slow_s))

    def _answer(self, what: str) -> None:
        """And back; it has happened by now."""
        world, who = self.world, self.process.name
        if world.falls(who, "lost_answers", world.faults.lost_answers) is not None:
            world.tell(who, "answer lost", what)
            raise JournalError(f"The simulated journal did not answer to {what}.")

    async def begin(self, limit_s: float) -> Transaction:
        await self._travel("begin")
        return await self.shared.begin_for(self.process, limit_s)

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        if self._may_not_arrive():
            await self._travel("commit")
        world, who = self.world, self.process.name
        if world.falls(who, "lost_requests", world.faults.lost_requests) is not None:
            world.tell(who, "commit lost on the way", len(units))
            return [_unknown() for _ in units]
        shared = self.shared
        verdicts = shared._commit(units) if shared.held is None else await shared.commit(units)
        for unit, verdict in zip(units, verdicts, strict=True):
            world.committed(self.process, unit, verdict)
        await self._come_back()
        if world.falls(who, "lost_answers", world.faults.lost_answers) is not None:
            world.tell(who, "answer of a commit lost", len(units))
            return [_unknown() for _ in units]
        return verdicts

    async def feed(self, after: int, *, limit: int, **options: Any) -> Page:
        if self._may_not_arrive():
            await self._travel("feed")
        world, who = self.world, self.process.name
        amount = world.falls(who, "short", world.faults.short)
        if amount is not None:
            limit = max(1, min(limit, 1 + int(amount * 3)))
        amount = world.falls(who, "repeated", world.faults.repeated)
        if amount is not None:
            after = max(0, after - 1 - int(amount * REPEATED_MOST))
        page = await self.shared.feed(after, limit=limit, **options)
        await self._come_back()
        return page

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Bells of other processes may be lost; what is due is found by looking, a little later."""
        loop, context = asyncio.get_running_loop(), self.process.context
        world, who = self.world, self.process.name

        def rung() -> None:
            amount = world.falls(who, "missed_bells", world.faults.missed_bells)
            if amount is None:
                loop.call_soon(changed, context=context)
            else:
                loop.call_later(0.25 * amount, changed, context=context)  # the next look at the file

        return self.shared.watch(rung)


def _through(name: str) -> Callable[..., Any]:
    """A call of the journal by this name, over the connection."""
    writes = name in WRITES

    async def call(self: FlakyJournal, *args: Any, **options: Any) -> Any:
        if self._may_not_arrive():
            await self._travel(name)
        answer = await getattr(self.shared, name)(*args, **options)
        await self._come_back()
        if writes and self.world.faults.lost_answers:
            self._answer(name)
        return answer

    return call


for _name in CALLS:  # of the class, and made once: every process of every history has such a connection
    setattr(FlakyJournal, _name, _through(_name))


def _unknown() -> Verdict:
    return Verdict("unknown", error=OutcomeUnknown("The simulated journal did not answer."))
