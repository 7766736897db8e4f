"""Runs: a batch handler takes many events at once; what the run changes is one unit (one commit, or nothing).

Each event still has its own outcome: done, retry or dead. If one fails, those after it in its key are handled again,
behind it. SQL of the run belongs to no event; so where one failed and there is such SQL, the handler is called again without it
and those after it, and what the first call asked for is dropped. If the run fails as a whole, its events run one by one, so that only the culprit fails. What a process that
died may have had in hand makes runs of its own, under one start mark each (R16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DeclarationError, HandlerTimeout
from ..journal.port import Done, Fence, Record, Verdict
from ..observe.correlation import current
from ..runs import BatchDelivery
from .calls import cancelled_from_outside, in_time, invoker
from .careful import SUSPECTS_AT_ONCE, marked
from .failures import culprit
from .lanes import Item, Lane, Part
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
        with _answering_for(self.subscription, items) as left:
            _failed(self.subscription, list(items), error, left)

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
        lost = [item for item in items if item.record is None]
        for item in lost:
            self.subscription.gone(item)
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


Run = list[tuple[Any, Item]]  # events, each with its item


async def run_one(subscription: Subscription, item: Item) -> None:
    await run(subscription, [item])


Left = dict[Item, None]  # of a run: those in hand of which nothing has been decided yet


@contextmanager
def _answering_for(subscription: Subscription, items: Sequence[Item]) -> Iterator[Left]:
    """An error of the engine's own must not leave keys taken: what is left by then is loaded again later."""
    left: Left = dict.fromkeys(items)
    try:
        yield left
    except Exception as error:
        subscription.workers.stumbled(list(left), error)


async def run_careful(subscription: Subscription, items: list[Item]) -> None:
    """A run, beside nothing that must be alone; one of suspects with a start mark for each, in one commit (R16)."""
    with _answering_for(subscription, items) as left:
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
    with _answering_for(subscription, items) as left:
        events, kept, broken, followers = _decoded(subscription, items)
        _back(subscription, followers, left)
        for item, error in broken:
            _fail(subscription, item, error, left)
        if kept:
            subscription.workers.items[asyncio.current_task()] = kept[0]  # type: ignore[index]  # its time is the run's
            await _attempt(subscription, kept, events, left)


def _back(subscription: Subscription, items: list[Item], left: Left) -> None:
    subscription.back(items)
    for item in items:
        del left[item]
        subscription.waiting.unsuspect(item)


def _fail(subscription: Subscription, item: Item, error: BaseException, left: Left) -> None:
    subscription.waiting.failed(item, error)
    del left[item]


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
        kept = _kept(run, outcomes)
        if not kept or len(kept) == len(run) or not delivery._unit.statements:
            break
        run = kept
    _commit(subscription, items, events, delivery, outcomes)
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


def _kept(run: Run, outcomes: Mapping[int, BaseException]) -> Run:
    """What has not failed, nor comes after one in its key that has."""
    stopped: set[Lane] = set()
    kept = []
    for event, item in run:
        if id(event) in outcomes:
            stopped.add(item.lane)
        elif item.lane not in stopped:
            kept.append((event, item))
    return kept


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
        if result is not None:
            raise DeclarationError(
                f"{subscription.name} is a batch handler and returned {type(result).__name__}. A published event must "
                f"name its cause: delivery.publish(event, cause=...)."
            )
    except asyncio.CancelledError as error:
        if cancelled_from_outside(subscription, items[0]):
            raise
        _failed(subscription, items, in_time(subscription, items[0], error), left)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        _failed(subscription, items, in_time(subscription, items[0], error), left)
    else:
        return delivery
    finally:
        items[0].started = 0.0
        delivery._close()
    return None


def _commit(
    subscription: Subscription,
    items: list[Item],
    events: list[Any],
    delivery: BatchDelivery[Any],
    outcomes: Mapping[int, BaseException],
) -> None:
    if outcomes or not all(item.plain for item in items):
        _commit_each(subscription, items, events, delivery, outcomes)
        return
    unit = delivery._unit
    delivery._move_all(events)
    parts = _by_part(items)
    for part, some in parts:
        unit.fences.append(Fence(part.lease, part.epoch))
        # One range for each, however they follow each other: by where each ends a repetition of some of them is known.
        ranges = [(item.after, item.record[0]) for item in some]  # type: ignore[index]  # handled, so loaded
        unit.done.append(Done(subscription.number, part.number, ranges, part.generation))
    subscription.committer.submit(unit, partial(_all_done, subscription, items, parts))


ByPart = Sequence[tuple[Part, list[Item]]]


def _by_part(items: list[Item]) -> ByPart:
    found: dict[Part, list[Item]] = {}
    for item in items:
        found.setdefault(item.part, []).append(item)
    return list(found.items())


def _all_done(subscription: Subscription, items: list[Item], parts: ByPart, verdict: Verdict) -> None:
    """The verdict on a run of which every event is done, and none has a row of its own."""
    if not verdict.ok:
        _verdict(subscription, items, [], verdict)
        return
    with _answering_for(subscription, items) as left:
        for _, some in parts:
            subscription.finished(some, verdict)
        left.clear()


def _commit_each(
    subscription: Subscription,
    items: list[Item],
    events: list[Any],
    delivery: BatchDelivery[Any],
    outcomes: Mapping[int, BaseException],
) -> None:
    unit = delivery._unit
    done: list[Item] = []
    kept: list[Any] = []  # their events
    failed: list[tuple[Item, BaseException, list[Item]]] = []
    stopped: dict[Any, list[Item]] = {}
    for event, item in zip(events, items, strict=True):
        error = outcomes.get(id(event))
        if item.lane in stopped:
            stopped[item.lane].append(item)
        elif error is None:
            done.append(item)
            kept.append(event)
            subscription.complete(item, unit)
        else:
            stopped[item.lane] = []
            failed.append((item, error, stopped[item.lane]))
    if not done:  # nothing of a run of which no event is done
        _verdict(subscription, done, failed, Verdict("done"))
        return
    delivery._move_all(kept)
    subscription.committer.submit(unit, partial(_verdict, subscription, done, failed))


def _verdict(
    subscription: Subscription,
    done: list[Item],
    failed: list[tuple[Item, BaseException, list[Item]]],
    verdict: Verdict,
) -> None:
    everything = done + [item for item, _, _ in failed] + [one for _, _, after in failed for one in after]
    with _answering_for(subscription, everything) as left:
        if not verdict.ok and verdict.kind != "fenced":
            everything.sort(key=_position)
            _failed(subscription, everything, verdict.error or RuntimeError("the unit failed"), left)
            return
        for item in done:
            subscription.verdict(item, verdict)
            del left[item]
        for item, error, followers in failed:
            _back(subscription, followers, left)
            _fail(subscription, item, error, left)


def _failed(subscription: Subscription, items: list[Item], error: BaseException, left: Left) -> None:
    """The run as a whole failed: one by one from here, so that only the culprit does."""
    if len(items) == 1:
        _fail(subscription, items[0], culprit(subscription, error), left)
        return
    for item in items:
        item.single = True
    _back(subscription, items, left)
    subscription.workers.wake()


def _decoded(
    subscription: Subscription, items: list[Item]
) -> tuple[list[Any], list[Item], list[tuple[Item, BaseException]], list[Item]]:
    """Events with their items, those that can't be read, and what follows one of these in its key. One that can't be read and has
    others of its key before it in this run is left to a later one, which it begins."""
    events: list[Any] = []
    kept: list[Item] = []
    broken: list[tuple[Item, BaseException]] = []
    followers: list[Item] = []
    stopped: set[Lane] = set()
    decoders, decode_any = subscription.decoders, subscription.decode
    for item in items:
        if stopped and item.lane in stopped:
            followers.append(item)
            continue
        record: Record = item.record  # type: ignore[assignment]  # loaded by _gather
        try:
            decode, _, version = decoders[record[5]]
            events.append(decode(record[14]) if record[6] == version else decode_any(record))
            kept.append(item)
        except Exception as error:
            stopped.add(item.lane)
            if any(
                one.lane is item.lane for one in kept
            ):  # it may not be finished before those, nor its lane held meanwhile
                followers.append(item)
            else:
                broken.append((item, error))
    return events, kept, broken, followers


def _position(item: Item) -> int:
    return item.record.position if item.record is not None else 0
