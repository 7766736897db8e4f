"""One simulated process, from its start to its end, and what goes wrong around its handlers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ...clock import Alarm
from ...delivery import Delivery
from ...engine.runtime import Runtime
from ...errors import SpineError
from ...service import Middleware
from ...spine import Spine
from .broker import FlakyBroker
from .flaky import FlakyJournal
from .loop import Loop
from .shared import FAILING, MARK
from .site import Site
from .threads import Threads

if TYPE_CHECKING:
    from .world import World

LEASE_S = 10.0
STARTED_US = 1_700_000_000_000_000  # when every history begins
AGAIN_S = 1.0  # after which whoever starts processes starts one again that has ended by an error


class SimulatedClock:
    def __init__(self, loop: Loop, chance: random.Random) -> None:
        self.random = chance
        self._loop = loop
        self.ahead_us = 0

    def now_us(self) -> int:
        return STARTED_US + round(self._loop.elapsed_s * 1e6) + self.ahead_us

    def monotonic(self) -> float:
        return self._loop._now + 1.0

    def entropy(self, size: int) -> bytes:
        return self.random.randbytes(size)

    def call_at(self, due_us: int, call: Callable[[], None]) -> Alarm:
        return self._loop.call_later(min(max(0.0, (due_us - self.now_us()) / 1e6), 60.0), call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return self._loop.call_later(seconds, call)

    sleep = staticmethod(asyncio.sleep)


class _Spine(Spine):
    process: Process

    def _runtime(self) -> Runtime:
        runtime = super()._runtime()
        runtime._threads.shutdown()
        runtime._threads = self.process.threads  # type: ignore[assignment]
        self.process.runtime = runtime
        return runtime


class Process:
    """A process that runs the services of its site; and relays what they publish, if there is a broker."""

    def __init__(self, world: World, name: str, site: Site) -> None:
        self.world = world
        self.name = name
        self.site = site
        self.clock = SimulatedClock(world.loop, world.dice.stream(name, "clock"))
        self.reaches_journal = self.reaches_broker = True
        self.context = Context()
        self.ended = asyncio.Event()
        self.runtime: Runtime | None = None
        self.drained = True
        self._end = asyncio.Event()
        self.journal = FlakyJournal(world, self)
        self.broker = None if world.broker is None else FlakyBroker(world, self)
        self.threads = Threads(world.loop)
        self.turns = world.loop.process(name, self._live)

    @property
    def ending(self) -> bool:
        return self._end.is_set()

    async def _live(self) -> None:
        self.context = copy_context()
        world = self.world
        spine = _Spine(
            self.journal, service=self.site.speaks if self.broker else None, clock=self.clock, lease_s=LEASE_S,
            middleware=[Meddler(self)], broker=self.broker,
        )  # fmt: skip
        spine.process = self
        while not self.ending:
            try:
                self.drained = await self._run(spine)
                if not self.drained:
                    world.tell(self.name, "did not drain in time", "")
            except SpineError as error:
                self.runtime = None
                world.tell(self.name, "ended by an error", str(error))
                await asyncio.sleep(AGAIN_S)
        self.ended.set()

    async def _run(self, spine: Spine) -> bool:
        async with spine:
            if not self.site.services:  # it only relays
                await self._end.wait()
                return True
            async with spine.running(*self.site.services) as running:
                await self._end.wait()
        return running.drained is not False

    def dies(self) -> None:
        """What it held at the journal and the broker is seen to be free."""
        self.site.journal.dies(self)
        if self.broker is not None:
            self.broker.dies()

    def end(self) -> None:
        """As SIGTERM would."""
        self._end.set()


class Meddler(Middleware):
    """Around each attempt: slows it, fails it, and has its unit carry a mark that is counted when it commits. Where the
    handler itself changes nothing, two of three change nothing at all, as in life."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        world, who = self.process.world, self.process.name
        faults = world.faults
        amount = world.falls(who, "slow_handlers", faults.slow_handlers) if faults.slow_handlers else None
        if amount is not None:
            await asyncio.sleep(amount * faults.handler_s)
        fails = world.falls(who, "failing", faults.failing) if faults.failing else None
        if fails is not None and fails < 0.4:
            raise Injected("before the handler")
        result = await proceed()
        if fails is not None and fails < 0.8:
            raise Injected("after the handler")
        if fails is None and _changes_nothing(delivery):
            self.process.site.tables.unmarked.handled(delivery._subscription, delivery._item)
            return result
        for one in [delivery.of(each) for each in event] if isinstance(event, list) else (delivery,):
            record = one.record
            one.execute(  # of a run: if this one of it is done
                MARK, subscription=one.handler, event_id=record.id, position=record.position, key=one.key, late=one.late
            )
        if fails is not None:
            delivery.execute(FAILING)
        return result


def _changes_nothing(delivery: Any) -> bool:
    return (
        type(delivery) is Delivery
        and delivery._subscription.follows
        and delivery._item.plain
        and delivery._unit is None
        and delivery.record.position % 3 > 0
    )


class Injected(Exception):
    """A fault of the simulator's: what a handler may raise on any day."""
