"""Workers: a fixed number of tasks per subscription that pull ready lanes.

A worker that finds more ready lanes wakes one idle colleague before it calls its handler. So a handler that never
suspends is run by one task in a tight loop, and one that does is soon run by as many as `concurrency` allows.

No more than HANDED_OUT_MAX deliveries of a subscription are handed out and not stored: so many may come again when the process
is killed, however long a commit has been waiting.

What a handler leaves in context variables (a tenant, fields for its log lines) is of that event and no other: its worker ends
then, and a colleague with a clean context goes on."""

from __future__ import annotations

import asyncio
import decimal
import logging
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from ..clock import Alarm
from ..delivery import Delivery
from ..journal.port import Record
from ..observe.correlation import current
from .calls import close, expire, in_time, raised, returned
from .faults import Faults
from .lanes import Item
from .loading import SUSPECTS

if TYPE_CHECKING:
    from .subscription import Subscription

log = logging.getLogger("eventspine.engine")
HANDED_OUT_MAX = SUSPECTS  # what the next owner reckons with
CANCELLED_S = 1.0  # after which the loop has ended, if it was about to
STREAK = 64  # items handled before other tasks of the loop get their turn, at most
STREAK_S = 0.005  # nor any more after so long


class Surroundings:
    """The context that a worker has begun with, but for what is ours in it, such as the delivery that it handles."""

    def __init__(self) -> None:
        current.set(None)
        self.arithmetic = decimal.getcontext()  # whoever calculates first would set it; localcontext() puts it back
        context = copy_context()
        self.size = len(context)
        self.kept = [
            (var, value) for var, value in context.items() if not var.name.startswith(("eventspine_", "decimal_"))
        ]

    def changed(self) -> bool:
        context = copy_context()
        return (
            len(context) != self.size
            or decimal.getcontext() is not self.arithmetic
            or any(context.get(var) is not value for var, value in self.kept)
        )


class Workers:
    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.tasks: list[asyncio.Task[None]] = []
        self.items: dict[asyncio.Task[None], Item] = {}  # what each is handling now
        self.halted = True  # nothing new is handed out
        self.stopped = False  # nor is anything left to be waited for
        self.faults = Faults(subscription.name, subscription.clock)
        self._paused = False  # whoever were hired now would end as the last one did
        self._later: Alarm | None = None
        self._waking = False  # one colleague at a time is on its way
        self._idle: deque[asyncio.Future[None]] = deque()
        self._context = copy_context()  # that everybody begins with

    def start(self) -> None:
        self.halted = False
        self.wake()

    def halt(self) -> None:
        self.halted = True

    async def stop(self) -> None:
        """Cancel what is still running; it stays unsettled."""
        self.halt()
        self.stopped = True
        if self._later is not None:
            self._later.cancel()
            self._later = None
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        self.items.clear()
        self._idle.clear()

    @property
    def _free(self) -> int:
        """How many more may be handed out now."""
        return max(0, HANDED_OUT_MAX - self.subscription.lanes.taken)

    def wake(self) -> None:
        if self._waking or self._paused or self.halted or not self.subscription.lanes.ready or not self._free:
            return
        self._waking = True
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        if len(self.tasks) < self.subscription.handler.concurrency:
            self._hire()
        else:
            self._waking = False

    def _hire(self) -> None:
        name = f"{self.subscription.name}-{len(self.tasks)}"
        task = asyncio.create_task(self._work(), name=name, context=self._context.copy())
        self.tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A worker only ends when it is cancelled, or its context is not clean any more; else a colleague is hired for it."""
        self._waking = False
        items = self._lost(task)
        if task in self.tasks:
            self.tasks.remove(task)
        if task.cancelled():
            if not self.stopped and self.subscription.handler.is_async:  # else a thread may still be at work
                self.subscription.clock.call_later(CANCELLED_S, partial(self._cancelled, items))
            return
        if (error := task.exception()) is not None:
            self._paused = not items
            self.stumbled(items, error)
        else:
            self.wake()

    def _cancelled(self, items: Sequence[Item]) -> None:
        """By none of us, nor with the loop, which would have ended by now; so it was its handler, or a library that this uses."""
        if self.stopped:
            return
        if items and items[0].turn:
            self.subscription.fenced(items[0])  # what it follows may have been refused meanwhile
        elif items:
            error = asyncio.CancelledError(
                "its task was cancelled by the handler itself, or by a library that this uses"
            )
            self._have_failed(items, in_time(self.subscription, items[0], error))
        self.wake()

    def _have_failed(self, items: Sequence[Item], error: BaseException) -> None:
        for item in items:
            self.subscription.waiting.failed(item, error)

    def in_hand(self) -> Sequence[Item]:
        """All that is being handled now."""
        return list(self.items.values())

    def _lost(self, task: asyncio.Task[None]) -> Sequence[Item]:
        """What a worker that has ended was handling."""
        item = self.items.pop(task, None)
        return () if item is None else (item,)

    def stumbled(self, items: Sequence[Item], error: BaseException) -> None:
        """An error of the engine's own: what it was about is loaded again after a pause, others go on."""
        pause_s = self.faults.pause_after(error)
        taken = [item for item in items if item.lane.taken]
        for item in taken:
            self.subscription.drop(item.part.number)  # so that nothing of its key overtakes it
        for item in taken:
            self.subscription.release(item)
        if self._later is None and not self.halted:
            self._later = self.subscription.clock.call_later(pause_s, self._take_up)
        self.wake()

    def _take_up(self) -> None:
        self._later, self._paused = None, False
        self.subscription.host.reload(self.subscription)
        self.wake()

    async def _work(self) -> None:
        subscription = self.subscription
        ready, host = subscription.lanes.ready, subscription.host
        me = asyncio.current_task()
        assert me is not None
        self._waking = False
        surroundings = Surroundings()
        while not surroundings.changed():
            if not ready or self.halted or host.closed or not self._free:
                await self._rest()
            elif await self._streak(me, surroundings):
                await asyncio.sleep(0)

    async def _streak(self, me: asyncio.Task[None], surroundings: Surroundings) -> bool:
        """Delivery after delivery while there are any; whether others of the loop should have their turn. Of what is plain,
        which is nearly everything, all that need not be a call is done right here; `calls.attempt` is the same for the others."""
        one, items = self.subscription, self.items
        lanes, host, decoders, committer, finish = (
            one.lanes,
            one.host,
            one.decoders,
            one.committer,
            one.committer.finish,
        )
        ready, take, gate, monotonic = lanes.ready, lanes.take, host.runtime.gate, one.clock.monotonic
        invoke, wants = one.invoke, one.with_delivery
        size, kept, arithmetic, getcontext = (
            surroundings.size,
            surroundings.kept,
            surroundings.arithmetic,
            decimal.getcontext,  # asked by itself: `kept` is mostly empty, and all of it takes ten times as long
        )
        until, most = monotonic() + STREAK_S, HANDED_OUT_MAX
        for _ in range(STREAK):
            now = monotonic()
            if not ready or self.halted or gate.closed or now > host.trusted_until or lanes.taken >= most:
                return False
            if now > until:
                break
            item = take(committer.turn)
            if item is None:
                continue
            if ready and not self._waking:
                self.wake()
            items[me] = item
            if item.plain:
                record: Record = item.record  # type: ignore[assignment]  # what is plain has one
                delivery: Delivery[Any] = Delivery(one, item, record)
                current.set(delivery)  # not reset: the next attempt of this worker sets it anew
                item.started = now
                try:
                    decode, _, version = decoders[record[5]]
                    event = decode(record[14]) if record[6] == version else one.decode(record)
                    result = await (invoke(event, delivery) if wants else invoke(event))
                    if result is not None or item.timed_out or delivery._aggregates:
                        returned(one, item, delivery, result)
                except BaseException as error:
                    await raised(one, item, delivery, error)
                else:
                    if delivery._unit is None and (item.turn == committer.turn or not item.turn):
                        delivery._open = False
                        finish(one, item)
                        if item.lane.queue and one.follows:
                            lanes.follow(item, committer.turn)
                    else:
                        await close(one, item, delivery)
            else:
                current.set(None)  # what is logged before its attempt is not about the delivery before it
                await one.handle(item)
            del items[me]
            if len(copy_context()) != size or getcontext() is not arithmetic or (kept and surroundings.changed()):
                return False
        return True

    async def _rest(self) -> None:
        if self.stopped:  # its handler has kept to itself that it was cancelled
            raise asyncio.CancelledError
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        if self.subscription.host.closed and not self.halted:
            self.subscription.host.when_open(self.wake)
        await waiter
        self._waking = False

    def check_time(self, now: float) -> int:
        """Fail what runs for too long; how many threads are stuck."""
        handler, stuck = self.subscription.handler, 0
        for task, item in self.items.items():
            if item.started and now - item.started > handler.timeout_s:
                if not item.timed_out:
                    log.warning("%s: out of time after %g s", self.subscription.name, handler.timeout_s)
                    expire(item, task, threaded=not handler.is_async)
                stuck += not handler.is_async
        return stuck
