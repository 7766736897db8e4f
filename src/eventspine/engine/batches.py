"""Runs: a batch handler takes many events at once; what the run changes is one unit (one commit, or nothing).

Each event still has its own outcome: done, retry or dead. If one fails, those after it in its key are handled again,
behind it. SQL of the run belongs to no event; so where one failed and there is such SQL, the handler is called again without it
and those after it, and what the first call asked for is dropped. If the run fails as a whole, its events run one by one, so that
only the culprit fails (verdicts.py). What a process that died may have had in hand makes runs of its own, under one start mark
each (R16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context, copy_context
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import HandlerTimeout
from ..observe.correlation import current
from ..runs import BatchDelivery, refuse_returned
from .calls import cancelled_from_outside, in_time, invoker
from .careful import SUSPECTS_AT_ONCE, marked
from .decoding import decoded
from .lanes import Item
from .verdicts import Left, Run, answering_for, back, commit, fail, fail_whole, remaining
from .workers import Surroundings, Workers

if TYPE_CHECKING:
    from .subscription import Subscription

T = TypeVar("T")


class BatchWorkers(Workers):
    _gathering = False
    gathers_until = 0.0  # monotonic; of the run that is being gathered

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self._suspects_most = max(1, SUSPECTS_AT_ONCE // subscription.handler.concurrency)
        self.runs: dict[asyncio.Task[None], list[Item]] = {}  # all of what `items` has the first of

    async def stop(self) -> None:
        await super().stop()
        self.runs.clear()

    def in_hand(self) -> Sequence[Item]:
        return [item for run in self.runs.values() for item in run]

    def _lost(self, task: asyncio.Task[None]) -> Sequence[Item]:
        super()._lost(task)
        return self.runs.pop(task, ())

    def _have_failed(self, items: Sequence[Item], error: BaseException) -> None:
        with answering_for(self.subscription, items) as left:
            fail_whole(self.subscription, list(items), error, left)

    async def _work(self) -> None:
        subscription = self.subscription
        host, batch = subscription.host, subscription.handler.batch
        assert batch is not None
        me = asyncio.current_task()
        assert me is not None
        self._waking = False
        surroundings = Surroundings()
        while not surroundings.changed():
            if self._gathering or not subscription.lanes.ready or self.halted or host.closed or not self._free:
                await self._rest()
                continue
            self._gathering = True  # by one at a time: two would share out what is to be one run
            try:
                items = await self._gather(batch.size, batch.within_ms / 1000)
            finally:
                self._gathering = False
            self.wake()
            if items:
                self.items[me], self.runs[me] = items[0], items
                if items[0].single:
                    await subscription.handle(items[0])
                else:
                    await run_careful(subscription, items)
                del self.items[me], self.runs[me]
                await asyncio.sleep(0)

    async def _gather(self, size: int, within_s: float) -> list[Item]:
        """A run: what is ready now, and what comes within the time from its first event."""
        clock = self.subscription.clock
        items: list[Item] = []
        until = self.gathers_until = clock.monotonic() + within_s
        while self._room(items, size):
            self._collect(items, size)
            if not items or items[-1].single or clock.monotonic() >= until or self.halted:
                break
            if self._room(items, size):
                await clock.sleep(min(0.005, within_s))
                items = self._still_ours(items)
        try:
            for item in items:
                if item.record is None:
                    await self.subscription.load(item)
        except Exception:
            self.subscription.back(items)
            raise
        return [item for item in items if item.record is not None]

    def _still_ours(self, items: list[Item]) -> list[Item]:
        """Without what was given up while more was waited for; it may come again, from another reading of its partition."""
        self.subscription.back([item for item in items if not item.part.alive])
        return [item for item in items if item.part.alive]

    def _collect(self, items: list[Item], size: int) -> None:
        lanes = self.subscription.lanes
        for lane in dict.fromkeys(item.lane for item in items):
            if not self._take_all(items, size, lanes.more(lane)):
                return
        while lanes.ready and self._room(items, size):
            if not self._take_all(items, size, lanes.take()):
                return

    def _take_all(self, items: list[Item], size: int, item: Item | None) -> bool:
        """This item and the others of its key; whether there may be more of other keys."""
        lanes = self.subscription.lanes
        if item is None:
            return True
        if items and (item.single or item.suspect != items[0].suspect or not self._room(items, size)):
            self.subscription.back([item])
            return False
        items.append(item)
        if item.single:
            return False
        items += lanes.run(item.lane, self._room(items, size), suspect=item.suspect)
        return self._room(items, size) > 0

    def _room(self, items: Sequence[Item], size: int) -> int:
        """How many more this run may have."""
        most = min(size, self._suspects_most) if items and items[0].suspect else size
        return min(most - len(items), self._free)


async def run_one(subscription: Subscription, item: Item) -> None:
    await run(subscription, [item])


async def run_careful(subscription: Subscription, items: list[Item]) -> None:
    """A run, beside nothing that must be alone; one of suspects with a start mark for each, in one commit (R16)."""
    with answering_for(subscription, items) as left:
        if not items[0].suspect:
            await subscription.host.runtime.gate.opened()
        elif not await marked(subscription, items):
            for item in items:
                subscription.fenced(item)
                del left[item]
            return
        left.clear()
        await run(subscription, items)


async def run(subscription: Subscription, items: list[Item]) -> None:
    with answering_for(subscription, items) as left:
        events, kept, broken, followers = decoded(subscription, items)
        back(subscription, followers, left)
        for item, error in broken:
            fail(subscription, item, error, left)
        if kept:
            subscription.workers.items[asyncio.current_task()] = kept[0]  # type: ignore[index]  # its time is the run's
            await _attempt(subscription, kept, events, left)


async def _attempt(subscription: Subscription, items: list[Item], events: list[Any], left: Left) -> None:
    """Once; and once more without those that it named as failed, if it has run SQL that may have been for them."""
    outcomes: dict[int, BaseException] = {}
    run = list(zip(events, items, strict=True))
    context = copy_context()
    while True:
        call = _called(subscription, items, run, left)
        delivery = await (call if len(run) == len(items) else _apart(call, context.copy()))
        if delivery is None:
            return
        outcomes |= delivery._outcomes
        kept = remaining(run, outcomes)
        if not kept or len(kept) == len(run) or not delivery._unit.statements:
            break
        run = kept
    commit(subscription, items, events, delivery, outcomes)
    left.clear()


@coroutine
def _apart(call: Coroutine[Any, Any, T], context: Context) -> Generator[Any, Any, T]:
    """In this task, and in a context of its own: the first call of a run may have left something in the worker's."""
    step: Callable[..., Any] = call.send
    given: Any = None
    while True:
        try:
            awaited = context.run(step, given)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            given = None  # an error would keep this frame, and the frame the error
        try:
            step, given = call.send, (yield awaited)
        except BaseException as error:
            step, given = call.throw, error


async def _called(subscription: Subscription, items: list[Item], run: Run, left: Left) -> BatchDelivery[Any] | None:
    """None: it failed as a whole."""
    events = [event for event, _ in run]
    delivery: BatchDelivery[Any] = BatchDelivery(subscription, events, [item for _, item in run])
    current.set(delivery)
    items[0].timed_out = False
    items[0].started = subscription.clock.monotonic()
    try:
        result = await invoker(subscription)(events, delivery)
        if items[0].timed_out:
            raise HandlerTimeout(f"{subscription.name} did not return within {subscription.handler.timeout_s:g} s.")
        refuse_returned(delivery, result)
    except asyncio.CancelledError as error:
        if cancelled_from_outside(subscription, items[0]):
            raise
        fail_whole(subscription, items, in_time(subscription, items[0], error), left)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        fail_whole(subscription, items, in_time(subscription, items[0], error), left)
    else:
        return delivery
    finally:
        items[0].started = 0.0
        delivery._close()
    return None
