"""A host runs one service in one process: it registers what the service declares, holds its share of the partitions by
lease, and keeps its subscriptions fed.

A lease is trusted until a good part of its time has passed since it was *asked* for, on the monotonic clock: a slow
round trip, or a process that was paused, can only make us stop early. Whether a commit counts is decided by the epoch,
inside the commit, and by nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import JournalError, SpineError
from ..journal.port import (
    OWN_FEED,
    PARTITIONS,
    WHOLE_FEED,
    Lease,
    LeaseView,
    Process,
    Record,
    Registered,
)
from ..publishing import Publisher, through
from ..service import Service, tables_script
from .careful import withdrawing
from .lanes import Part
from .loading import adopt, partition_of
from .readers import ROOM, Readers
from .registering import process_of, register, say_what_it_passes
from .reloading import Reloads
from .shares import leaders, share
from .subscription import Subscription
from .upkeep import UPKEEP
from .workers import Workers

if TYPE_CHECKING:
    from ..observe.correlation import Cause
    from .runtime import Runtime

log = logging.getLogger("eventspine.engine")
TRUST = 0.8  # of a lease's time
LEAVING = 0  # generation of a process that gives its partitions back
STALLED_S = 30.0  # without progress, though there is work
LOOK_S = 1.0  # between two looks at how things are
AWAY_S = 5.0  # between them: then this process stood still itself, or its clock was set ahead


class Host:
    def __init__(self, service: Service[Any], runtime: Runtime, *, roll_back: bool, retire: Sequence[str]) -> None:
        self.service = service
        self.runtime = runtime
        self.clock = runtime.clock
        self.journal = runtime.journal
        self.broker = runtime.broker
        self.committer = runtime.committer
        self.middleware = (*runtime.middleware, *service.middleware)
        self.roll_back = roll_back
        self.retire = tuple(retire)
        self.resources: Any = None
        self.publisher = Publisher(
            service.name, service.publishes, self.clock, runtime.ids, runtime.unheard.answered, runtime.fits
        )
        self.subscriptions: list[Subscription] = []
        self.readers = Readers(self)
        self.held: dict[int, Lease] = {}
        self.leaving: dict[int, list[Part]] = {}  # partitions to give back as soon as nothing of them is at work
        self.trouble: str | None = None  # why leases can't be renewed just now; health shows it
        self.fenced = 0
        self.restarts = 0
        self.control = -1
        self.trusted_until = 0.0
        self.leads = False
        self.newest = 0  # generation of this service that was ever seen
        self.started = False  # registered, and with its share of the work
        self.stopping = False
        self.giving_back = False
        self._head = 0  # of the feed, when last looked at
        self._free: set[str] = set()  # leases that nobody held then
        self._newer_seen = self.clock.monotonic()
        self._looked = self.clock.monotonic()
        self.reloads = Reloads(self)
        self._nudge = asyncio.Event()
        self._open: list[Callable[[], None]] = []
        self._stack = AsyncExitStack()
        self._keeper: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self.process: Process
        self.registered: Registered

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self.service.tables is not None:
            version, script = tables_script(self.service.tables)
            with self._naming("tables="):
                await self.journal.run_tables(self.service.name, version, script)
        projections = [one.projection for one in self.service.handlers.values() if one.projection is not None]
        for projection in projections:
            await projection.prepare(self.journal, self.service.name)
        # Registering tells those that are live to step back; so it comes when there is nothing left to wait for.
        if self.service.lifespan is not None:
            with self._naming("lifespan="):
                self.resources = await self._stack.enter_async_context(self.service.lifespan())
        await self.journal.keep(self.service.name, self.runtime.keeps_of(self.service), self.clock.now_us())
        self.control = await self.journal.control_version()  # what changes from here on is followed
        self.registered = await register(self)
        for projection in projections:
            await projection.check_history(self.journal, self.service.name)
        self.process = process_of(self)
        self.newest = self.registered.newest
        self._newer_seen = self.clock.monotonic()
        say_what_it_passes(self)
        handlers = list(self.service.handlers.values())
        self.subscriptions = [
            self.runtime.subscription(handler, stored, self)
            for handler, stored in zip(handlers, self.registered.subscriptions, strict=True)
        ]
        for subscription in self.subscriptions:
            subscription.workers.start()
        await self.beat()
        self.started = True
        self._keeper = asyncio.create_task(self._keep(), name=f"spine-keeper-{self.service.name}")

    @contextmanager
    def _naming(self, option: str) -> Iterator[None]:
        """What a function of the service's own raises before there is any delivery tells where it comes from."""
        try:
            yield
        except SpineError:
            raise
        except Exception as error:
            error.add_note(f"raised by the {option} of the service {self.service.name!r}")
            raise

    def halt(self) -> None:
        """Nothing new is handed out from here on."""
        self.stopping = True
        for subscription in self.subscriptions:
            subscription.workers.halt()
            subscription.stop()

    def give_back(self) -> None:
        """From here on, whatever nothing is at work in goes to the others, who don't wait for the slowest handler."""
        if not hasattr(self, "process"):
            return
        self.giving_back = True
        self.process = self.process._replace(generation=LEAVING)
        self._nudge.set()

    def give_back_more(self) -> None:
        if self.giving_back and (self._drained() or len(self._at_work_in()) < len(self.held)):
            self._nudge.set()

    def _at_work_in(self) -> set[int]:
        parts = [part for one in self.subscriptions for part in one.parts.values() if part.taken]
        return {part.number for part in parts} & set(self.held)

    @property
    def at_work(self) -> bool:
        return any(subscription.at_work for subscription in self.subscriptions)

    async def stop(self) -> None:
        """Give everything back. What is still at work is cancelled, and stays unsettled."""
        self.halt()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self.readers.stop()
        suspects = [withdrawing(subscription) for subscription in self.subscriptions]
        for subscription in self.subscriptions:
            await subscription.workers.stop()
        try:
            await self.journal.commit([unit for units in suspects for unit in units])
            await self._leave()
        except JournalError as error:
            log.warning("leases could not be given back and will run out: %s", error)
        await self._stack.aclose()

    async def _leave(self) -> None:
        if not hasattr(self, "process"):
            return
        if self.runtime.stuck_threads:  # their keys stay ours until the process ends (R17)
            return
        await self.journal.leave(self.process)

    # --- leases -----------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            waking = self.clock.call_later(self.runtime.lease_s / 3, self._nudge.set)
            try:
                await self._nudge.wait()
            finally:
                waking.cancel()
            self._nudge.clear()
            try:
                await self.beat()
                self.trouble = None
            except JournalError as error:
                self._note(error)
                await self.clock.sleep(min(1.0, self.runtime.lease_s / 10))
                self._nudge.set()

    def _note(self, error: JournalError) -> None:
        if self.trouble != str(error):  # said once, however often it is tried
            log.warning("%s: leases could not be renewed, trying again: %s", self.service.name, error)
        self.trouble = str(error)

    async def beat(self) -> None:
        """Renew, then give and take until what is held is what should be."""
        async with self._changing:
            view = await self._ask([], self._drained())
            for _ in range(3):
                led = self.leads
                wanted = self._wanted(view)
                if self.leads and not led:
                    await self._take_the_lead()
                self._give_up(sorted(set(self.held) - wanted))
                take = sorted(wanted - set(self.held))
                drained = self._drained()
                if not take and not drained:
                    break
                view = await self._ask(take, drained)
                if not (set(self.held) & set(take)):
                    break
            await self.reloads.follow_control(view.control)
            await self.reloads.carry_out()
        self.runtime.periodic.happened()

    async def _take_the_lead(self) -> None:
        """Code that is older than what led before says again what it declares: what was suspended is active again."""
        if self.registered.generation == self.newest:
            return
        self.registered = await register(self)
        say_what_it_passes(self)
        for one, stored in zip(self.subscriptions, self.registered.subscriptions, strict=True):
            one.update(stored)

    async def _ask(self, take: Sequence[int], release: Sequence[int]) -> LeaseView:
        asked = self.clock.monotonic()
        now_us = self.clock.now_us()
        until_us = now_us + round(self.runtime.lease_s * 1e6)
        view = await self.journal.lease(
            self.process, [self._lease(n) for n in take], [self._lease(n) for n in release], now_us, until_us
        )
        self.trusted_until = asked + self.runtime.lease_s * TRUST
        for number in release:
            self.leaving.pop(number, None)
        await self._adjust({partition_of(name): lease for name, lease in view.held.items() if name != UPKEEP})
        for opened in self._open:
            opened()
        self._open.clear()
        return view

    async def _adjust(self, held: dict[int, Lease]) -> None:
        """What is held has changed: drop what is lost, adopt what is new."""
        had = self.held
        mine = {number: lease for number, lease in held.items() if number not in self.leaving} if self.leaving else held
        lost = [number for number in had if number not in mine]
        new = [number for number, lease in mine.items() if number not in had or had[number].epoch != lease.epoch]
        if not lost and not new:
            return
        await self.readers.stop()  # one that is ahead would pass events for who is loaded anew
        for number in {*lost, *new}:
            self.held.pop(number, None)
            for subscription in self.subscriptions:
                subscription.drop(number)
        self.held.update({number: mine[number] for number in new})
        try:
            if new:
                await adopt(self.active, [self.held[number] for number in new])
            await self.readers.rebuild(self.active)
        except BaseException:
            self.reloads.missing.update(self.subscriptions)
            raise

    def _wanted(self, view: LeaseView) -> AbstractSet[int]:
        if self.stopping:
            return self._at_work_in() if self.giving_back else set(self.held)
        lead = leaders(view.processes)
        now = self.clock.monotonic()
        ids = tuple([process.id for process in lead])
        if self.process.id not in ids:
            self._newer_seen = now
        self.newest = max([self.newest, *(process.generation for process in view.processes)])
        behind = self.registered.generation < self.newest
        waits = behind and now - self._newer_seen < 2 * self.runtime.lease_s
        self.leads = self.process.id in ids and not waits
        if not self.leads:
            return set()
        return share(self._partitions(), ids, self.process.id)

    def _partitions(self) -> tuple[int, ...]:
        orders = {subscription.whole for subscription in self.subscriptions}
        whole = (WHOLE_FEED,) if True in orders else ()
        return whole + (tuple(range(PARTITIONS)) if False in orders else ())

    def _give_up(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.held.pop(number, None)
            parts = [part for one in self.subscriptions if (part := one.parts.get(number)) is not None]
            self.leaving[number] = parts
            for subscription in self.subscriptions:
                subscription.drop(number)

    def _drained(self) -> list[int]:
        return [number for number, parts in self.leaving.items() if not any(part.taken for part in parts)]

    def _lease(self, number: int) -> str:
        return f"{self.service.name}/{OWN_FEED}/{number}"

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(sorted(number for number in self.held if number != WHOLE_FEED))

    @property
    def active(self) -> list[Subscription]:
        return [one for one in self.subscriptions if one.active]

    # --- reloading ------------------------------------------------------------------------------------------------------

    def reload(self, subscription: Subscription) -> None:
        """Something about it was changed from outside: load it again."""
        self.reloads.whole.add(subscription)
        self._nudge.set()

    def step_back(self) -> None:
        """A newer release has registered, whether it is live or not yet. It leads for two leases, at least."""
        if self.newest <= self.registered.generation:
            self.newest = self.registered.generation + 1
            self._newer_seen = self.clock.monotonic()
        self._nudge.set()

    def look_again(self, subscription: Subscription) -> None:
        """Rows of it may have been changed by others without its being noticed here."""
        self.reloads.rows.add(subscription)
        self._nudge.set()

    def load_missing(self, subscription: Subscription) -> None:
        """A partition of it was dropped: load that again. The others, and what they have in hand, stay."""
        self.reloads.missing.add(subscription)
        self._nudge.set()

    # --- what subscriptions ask of it -------------------------------------------------------------------------------------

    def record_of(self, event: Any, *, id: bytes | None, time: datetime | None, cause: Cause | None) -> Record:
        return through(self.middleware, self.publisher, event, id=id, time=time, cause=cause)

    def room(self) -> None:
        self.readers.room()
        if self.leaving and self._drained():
            self._nudge.set()  # whoever waits for it need not wait for our next beat

    @property
    def closed(self) -> bool:
        """Whether nothing may be handed out just now."""
        return self.runtime.gate.closed or self.out_of_trust

    @property
    def out_of_trust(self) -> bool:
        """Leases have not been renewed in time, so another process may have them by now."""
        return self.clock.monotonic() > self.trusted_until

    def when_open(self, call: Callable[[], None]) -> None:
        self._open.append(call)
        self.runtime.gate.when_open(call)

    @asynccontextmanager
    async def alone(self, workers: Workers) -> AsyncIterator[None]:
        async with self.runtime.gate.alone(partial(self.runtime.others_at_work, workers)):
            yield

    # --- watching -----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        self.readers.wake()

    async def look(self) -> None:
        """Once a second or so: cursors of what was passed, control, and whatever has stopped moving."""
        if self.stopping:
            return
        self._note_absence()
        for one in self.active:
            one.passed()
        self._head = await self.journal.head()
        for one in self.active:
            if one.handler.projection is not None:
                await one.handler.projection.look(one)
        if (failed := self.readers.failed()) is not None:
            log.error("%s: a reader ended and is started again", self.service.name, exc_info=failed)
            await self._restart()
        elif any(self.stalled(one) for one in self.active):
            log.error("%s: no progress for %g s though there is work; starting again", self.service.name, STALLED_S)
            await self._restart()

    def _note_absence(self) -> None:
        """Time in which this process stood still is nobody's lack of progress."""
        now = self.clock.monotonic()
        if now - self._looked > AWAY_S:
            for one in self.subscriptions:
                one.progressed += now - self._looked
        self._looked = now

    async def follow(self) -> None:
        version = await self.journal.control_version()
        if version != self.control or await self._given_back():
            self._nudge.set()

    async def _given_back(self) -> bool:
        """Whether other processes have given back partitions since the last look."""
        mine = {self._lease(number) for number in self._partitions()}
        free = {lease.name for lease in await self.journal.leases() if not lease.owner} & mine
        more, self._free = free - self._free, free
        return bool(more) and self.leads and not self.stopping

    def stalled(self, one: Subscription) -> bool:
        """Whether it has work that nobody does: lanes are ready or overdue, or the feed goes on, and nothing moves."""
        now = self.clock.monotonic()
        due_us = one.lanes.next_due()
        waiting = one.lanes.ready or (due_us is not None and due_us < self.clock.now_us())
        behind = one.capacity >= ROOM and any(part.scanned < self._head for part in one.parts.values())
        if not (waiting or behind) or one.workers.items or self.closed or not self.committer.idle:
            one.progressed = now
        return now - one.progressed > STALLED_S and now - self._looked <= AWAY_S

    async def _restart(self) -> None:
        self.restarts += 1
        async with self._changing:
            self.reloads.whole.update(self.subscriptions)
            await self.reloads.carry_out()

    def check_time(self) -> int:
        now = self.clock.monotonic()
        return sum(one.workers.check_time(now) for one in self.subscriptions)
