"""When an engine is idle: nothing is ready, at work, uncommitted or unread. What is due later does not count.

Exact, not a guess after a pause: all that the engine has in hand can be asked for, and what it does not know yet stands in
the journal (its head, its next timer, its control version). There are three kinds of work: the engine's own, which goes on
by itself; handlers at work, which may take as long as they like; and runs that gather until a time."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

from ..at_once import at_once
from ..engine.batches import BatchWorkers
from ..engine.host import Host
from ..engine.lanes import Item
from ..engine.readers import ROOM
from ..engine.runtime import Runtime
from ..engine.subscription import Subscription
from ..errors import SpineError
from ..journal.port import PARTITIONS

T = TypeVar("T")


class NotIdle(SpineError):
    """The engine did not become idle in time; the message says what is at work."""


def read_now(coroutine: Coroutine[Any, Any, T]) -> T:
    return at_once(coroutine, SpineError("This journal can't be read without waiting."))


def engine_work(runtime: Runtime) -> Iterator[str]:
    """What the engine itself has yet to do, in words."""
    if not runtime.committer.idle:
        trouble = runtime.committer.trouble
        yield f"commits do not get through: {trouble}" if trouble else "a commit is under way"
    if not runtime.periodic.idle:
        yield "the next run of a periodic handler is looked for"
    for host in runtime.hosts:
        yield from _of_host(host)
    journal, now_us = runtime.journal, runtime.clock.now_us()
    due_us = read_now(journal.next_due())
    if due_us is not None and due_us <= now_us:
        yield "a timer is due"
    head, control = read_now(journal.head()), read_now(journal.control_version())
    for host in runtime.hosts:
        if host.control != control:
            yield f"{host.service.name}: something was changed from outside, and is to be loaded"
        for one in host.subscriptions:
            yield from _of_subscription(one, head, now_us)


def _of_host(host: Host) -> Iterator[str]:
    if host._nudge.is_set() or host._changing.locked() or host.reloads.asked:
        yield f"{host.service.name}: partitions are being loaded"
    if (error := host.readers.failed()) is not None:
        yield f"{host.service.name}: a reader ended by {error!r}"


def _of_subscription(one: Subscription, head: int, now_us: int) -> Iterator[str]:
    if one.lanes.ready and not _gathers(one):  # what is ready meanwhile joins the run, or waits for it
        yield f"{one.name}: deliveries are ready"
    due_us = one.lanes.next_due()
    if due_us is not None and due_us <= now_us:
        yield f"{one.name}: a parked delivery is due"
    if one.workers._later is not None:
        yield one.workers.faults.problem or f"{one.name} is held up by an error of the engine"
    if one.state == "active":
        if len(one.parts) < (1 if one.whole else PARTITIONS):
            yield f"{one.name}: its partitions are not loaded"
        elif one.capacity >= ROOM and any(part.scanned < head for part in one.parts.values()):
            yield f"{one.name}: events are unread"


def handlers_at_work(runtime: Runtime) -> dict[Item, Subscription]:
    """Deliveries in the hands of handlers, the first of each run."""
    return {item: one for host in runtime.hosts for one in host.subscriptions for item in one.workers.items.values()}


def gathering(runtime: Runtime) -> list[BatchWorkers]:
    """Runs that wait for more events."""
    return [
        one.workers
        for host in runtime.hosts
        for one in host.subscriptions
        if isinstance(one.workers, BatchWorkers) and _gathers(one)
    ]


def _gathers(one: Subscription) -> bool:
    return isinstance(one.workers, BatchWorkers) and one.workers._gathering and one.lanes.taken > 0


def next_due(runtime: Runtime) -> int | None:
    """The next time (microseconds) at which the passing of time itself makes a difference."""
    now_us, now = runtime.clock.now_us(), runtime.clock.monotonic()
    times = [read_now(runtime.journal.next_due())]
    times += [one.lanes.next_due() for host in runtime.hosts for one in host.subscriptions]
    until = [workers.gathers_until for workers in gathering(runtime)]
    until += [
        item.started + one.handler.timeout_s
        for item, one in handlers_at_work(runtime).items()
        if item.started and not item.timed_out
    ]
    times += [now_us + max(1, round((moment - now) * 1e6) + 1) for moment in until]
    return min((time for time in times if time is not None), default=None)


def picture(runtime: Runtime) -> str:
    """Everything that is not idle, a line each."""
    lines = list(engine_work(runtime))
    for host in runtime.hosts:
        for one in host.subscriptions:
            lines += [f"{one.name}: at work on {_words(one, item, task)}" for task, item in one.workers.items.items()]
    lines += [f"{workers.subscription.name}: gathers a run" for workers in gathering(runtime)]
    return "\n".join(f"  {line}" for line in lines) or "  nothing any more"


def _words(one: Subscription, item: Item, task: Any) -> str:
    record = item.record
    what = "a stored delivery" if record is None else f"{record.type} (key {record.key!r})"
    place = None if one.handler.is_async else _place_in_thread(one.handler.function)
    return f"{what}, attempt {item.attempts + 1}, at {place or _place(task.get_coro())}"


def _place_in_thread(function: Callable[..., Any]) -> str | None:
    """The line of a `def` handler at which a thread stands; None: it is in none."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None and frame.f_code is not code:
            frame = frame.f_back
        if frame is not None:
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    return None


def _place(coroutine: Any) -> str:
    """The innermost line of ours or the user's that it stands at."""
    found = "its first line"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None and "/asyncio/" not in frame.f_code.co_filename:
            found = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        inner = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        coroutine = inner if inspect.iscoroutine(inner) or inspect.isgenerator(inner) else None
    return found
