"""Ticks for periodic handlers: each brought into the feed at its time, once, by whoever holds the handler's partition.

    schedule ──due──▶ is the last run finished? ──▶ unit: tick + cursor on the schedule ──▶ feed ──▶ handler

What has been brought in is a cursor of the subscription: on a feed of its own, the schedule, whose positions are times.
The unit that appends a tick moves it, under the fence of the lease and of the cursor's generation. So of many processes
one brings a tick in (R8: one of the newest generation), a pause or a rename stops it, and whoever takes over after a
crash knows from the cursor which times have passed meanwhile. A tick's id derives from its time: in no case is it in
the feed twice, whatever clocks do.

A tick is brought in when the run before is finished, dead or given up: runs never overlap and never queue up. Times
that pass meanwhile, or while nobody runs the service, are missed runs, and `missed=` says what becomes of them.

The name of the feed says which schedule it is, and counts them: a handler whose schedule is changed begins a new one at
that moment, and misses nothing of what the new one would have wanted before."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..journal.cursors import is_finished
from ..journal.port import OWN_FEED, PARTITIONS, Append, Done, Fence, State, Unit
from ..keys import slot_of_key
from ..periodic import Life, latest_life, tick, tick_id
from ..schedules import Schedule, Step, next_step
from .lanes import Part

if TYPE_CHECKING:
    from .host import Host
    from .runtime import Runtime
    from .subscription import Subscription

log = logging.getLogger("eventspine.engine")
AHEAD_US = 3_600_000_000  # a clock may be set back by this much; a cursor further ahead is one of a wrong clock
TROUBLE_US = 1_000_000
ONLY = -2  # partition of a schedule, which has one; no partition of our own feed


class Ticker:
    """Brings in the ticks of one periodic handler."""

    def __init__(self, subscription: Subscription, schedule: Schedule) -> None:
        self.subscription = subscription
        self.schedule = schedule
        self.host: Host = subscription.host
        self.journal = subscription.journal
        self.clock = subscription.clock
        self.name = subscription.handler.name
        self.partition = slot_of_key(self.name) % PARTITIONS
        self._part: Part | None = None  # whose life is known
        self._life: Life | None = None
        self._due = 0

    async def turn(self) -> int | None:
        """Do what is to be done now. When there is more to do; None: when something has happened."""
        part = self.subscription.parts.get(self.partition)
        if part is None or self.host.stopping:
            self._part = None
            return None
        now = self.clock.now_us()
        if part is not self._part or self._life is None or self._life.upto > now + AHEAD_US:
            self._life = await self._load(part, now)
            self._part = part
            self._due = 0
        while self._life is not None:
            self._due = self._due or self.schedule.after(self._life.upto)
            if self._due > self.clock.now_us():
                return self._due
            if not await self._is_finished(self._life.upto):
                return None
            self._life = await self._go_on(part, self._life)
            self._due = 0
        self._part = None
        return None

    async def _load(self, part: Part, now: int) -> Life | None:
        """As it was left; or the beginning of a new one, of which nothing has been missed."""
        known = latest_life(await self.journal.cursors([self.subscription.number]))
        if known is not None and known.spec == self.schedule.spec and known.upto <= now + AHEAD_US:
            return known
        if known is not None and known.spec == self.schedule.spec:
            log.warning("%s: the clock was set back; its schedule begins anew", self.subscription.name)
        begun = Life(1 if known is None else known.number + 1, self.schedule.spec, now)
        return begun if await self._commit(part, begun, 0, None) else None

    async def _go_on(self, part: Part, life: Life) -> Life | None:
        step = next_step(self.schedule, self.subscription.handler.missed, life.upto, self.clock.now_us())
        if step is None:  # the clock was set back meanwhile
            return life
        if step.tick is None:
            log.info("%s: runs were missed, and are skipped as it says", self.subscription.name)
        after = life._replace(upto=step.upto)
        return after if await self._commit(part, after, life.upto, step) else None

    async def _commit(self, part: Part, life: Life, since: int, step: Step | None) -> bool:
        """Whether it is stored; else it is no longer ours, and loaded anew by who has it."""
        one = self.subscription
        done = Done(one.number, ONLY, [(since, life.upto)], part.generation, life.feed)
        unit = Unit(fences=[Fence(part.lease, part.epoch)], done=[done])
        if step is not None and step.tick is not None:
            unit.appends.append(Append([tick(self.host.service.name, self.name, one.uid, step.tick)]))
        (verdict,) = await self.journal.commit([unit])
        if verdict.ok:
            return True
        if verdict.kind == "fenced":
            self.host.reload(one)
            return False
        raise verdict.error or RuntimeError(f"the journal answered {verdict.kind}")

    async def _is_finished(self, due_us: int) -> bool:
        """Whether the run of that time is, if there was one, and nothing of this handler waits for another attempt."""
        one = self.subscription
        states: list[State] = ["parked", "held", "dead"] if one.handler.on_dead == "waits" else ["parked", "held"]
        if await self.journal.deliveries(subscriptions=[one.number], states=states, limit=1, records=False):
            return False
        record = await self.journal.event(tick_id(one.uid, due_us))
        if record is None:
            return True
        for cursor in await self.journal.cursors([one.number]):
            if (cursor.feed, cursor.partition) == (OWN_FEED, record.slot % PARTITIONS):
                return is_finished(cursor.position, cursor.beyond, record.position)
        return True


class Periodic:
    """All tickers of a process, and the waiting for the next time."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.tickers: list[Ticker] = []
        self._happened = asyncio.Event()
        self._waits = False

    def take_up(self, host: Host) -> None:
        for one in host.subscriptions:
            if one.handler.schedule is not None:
                self.tickers.append(Ticker(one, one.handler.schedule))

    def happened(self) -> None:
        """A run has finished, a partition has come: whatever may let a ticker go on."""
        if self.tickers:
            self._happened.set()

    @property
    def idle(self) -> bool:
        """Whether it waits for a time, or for something to happen."""
        return not self.tickers or (self._waits and not self._happened.is_set())

    async def bring_in(self) -> None:
        """One round: what is due, and then a wait for the next."""
        self._happened.clear()
        times = [time for ticker in self.tickers if (time := await self._turn(ticker)) is not None]
        waking = self.runtime.clock.call_at(min(times), self._happened.set) if times else None
        self._waits = True
        try:
            await self._happened.wait()
        finally:
            self._waits = False
            if waking is not None:
                waking.cancel()

    async def _turn(self, ticker: Ticker) -> int | None:
        """One that is in trouble keeps nobody else waiting."""
        try:
            return await ticker.turn()
        except Exception as error:
            ticker._part = None
            log.error("%s: its next run could not be set: %s", ticker.subscription.name, error)  # noqa: TRY400 -- the message says what to do
            return self.runtime.clock.now_us() + TROUBLE_US
