"""Switches for what goes wrong, and a note of what did: the subscription as tests run it.

The engine is the same; this only stands between it and the handler (`fail_next`), hands a delivery out a second time after
its commit (`deliver_twice`), and notes what handlers raise. A failed delivery is parked as ever, but is not tried again at
once where `idle` is to raise: then nothing happens twice unless time passes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import unwrap
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..engine.failures import name_of
from ..engine.lanes import Item
from ..engine.outcomes import Again, Outcome, Park, reason_of
from ..engine.runtime import Runtime
from ..engine.subscription import Subscription
from ..engine.waiting import Newer, Waiting
from ..errors import Fenced, SettingsError
from ..journal.port import Subscription as Registered, Verdict
from ..service import Handler, Service
from .mixing import HeldBack

if TYPE_CHECKING:
    from ..engine.host import Host

Failures = Literal["raise", "retry"]


class Raised(NamedTuple):
    error: BaseException
    said: str  # where; for a note


@dataclass
class Twice:
    handler: str | None  # all of them
    times: int | None  # for ever


@dataclass
class Switches:
    """What one spine's test has asked for, and what its handlers raised since that was last looked at."""

    failures: Failures
    held: list[HeldBack] = field(default_factory=list)
    holding: asyncio.Event = field(default_factory=asyncio.Event)  # something may be held back
    errors: dict[tuple[int, int], Raised] = field(default_factory=dict)  # by delivery: the first of each
    _to_fail: dict[str, deque[Any]] = field(default_factory=dict)
    _given: list[BaseException] = field(default_factory=list)  # raised for the test, not by a handler
    _twice: list[Twice] = field(default_factory=list)

    def fail_next(self, handler: str, error: Any, times: int) -> None:
        self._to_fail.setdefault(handler, deque()).extend([error] * times)

    def before(self, handler: str) -> None:
        """Raise what was asked for in the handler's place."""
        if asked := self._to_fail.get(handler):
            chosen = asked.popleft()
            error = chosen() if isinstance(chosen, type) else chosen
            self._given.append(error)
            raise error

    def deliver_twice(self, handler: str | None, times: int | None) -> None:
        self._twice.append(Twice(handler, times))

    def twice(self, handler: str) -> bool:
        for asked in self._twice:
            if asked.handler in (None, handler) and asked.times != 0:
                asked.times = asked.times and asked.times - 1
                return True
        return False

    def asked_for(self, error: BaseException) -> bool:
        return any(error is given for given in self._given)

    def note(self, one: Subscription, item: Item, error: BaseException) -> None:
        if isinstance(error, (Fenced, Newer)) or self.asked_for(error) or not item.part.alive:
            return
        place = (one.number, item.record.position if item.record is not None else -item.number)
        said = f"raised by {one.name}, attempt {item.attempts + 1}, handling {name_of(item)}"
        self.errors.setdefault(place, Raised(error, said))


class WatchedWaiting(Waiting):
    def __init__(self, subscription: Subscription, switches: Switches) -> None:
        super().__init__(subscription)
        self._switches = switches

    def failed(self, item: Item, error: BaseException, trace: str | None = None) -> None:
        if self._switches.failures == "raise":
            self._switches.note(self.subscription, item, error)
        super().failed(item, error, trace)
        if trace is not None:
            error.add_note(trace)  # for the test that it is raised in

    def too_late(self, item: Item, error: BaseException) -> None:
        if self._switches.failures == "raise":
            self._switches.note(self.subscription, item, error)
        super().too_late(item, error)

    def _decide(self, item: Item, error: BaseException) -> tuple[BaseException, Outcome]:
        error, outcome = super()._decide(item, error)
        if isinstance(outcome, Again) and self._switches.failures == "raise" and not self._switches.asked_for(error):
            return error, Park(self.subscription.clock.now_us() + 1, reason_of(error))
        return error, outcome


class WatchedSubscription(Subscription):
    def __init__(self, switches: Switches, handler: Handler, stored: Registered, host: Host) -> None:
        super().__init__(_switched(handler, stored.name, switches), stored, host)
        self._switches = switches
        self.waiting = WatchedWaiting(self, switches)
        if host.broker.shuffle is not None and len({kind.context for kind in handler.types}) > 1:
            self.lanes.ready = held = HeldBack(host.broker.shuffle, switches.holding.set)
            switches.held.append(held)

    def settled(self, item: Item) -> None:
        self._hand_out_again([item])
        super().settled(item)

    def finished(self, items: Sequence[Item], verdict: Verdict) -> None:
        if verdict.ok:
            self._hand_out_again(items)
        super().finished(items, verdict)

    def _hand_out_again(self, items: Iterable[Item]) -> None:
        """As a new owner would that has read the cursor just before this commit: the journal knows better."""
        for item in items:
            if item.record is None or isinstance(item, Copy) or not item.part.alive:
                continue
            if self._switches.twice(self.name):
                queue, copies = item.lane.queue, 0
                while copies < len(queue) and isinstance(queue[copies], Copy):  # of the same run
                    copies += 1
                item.lane.queue = deque((*islice(queue, copies), Copy.of(item), *islice(queue, copies, None)))
                self.lanes.size += 1
                self.bytes += len(item.record.data)


class Copy(Item, eq=False, gc=False):
    """A delivery that is finished, handed out once more."""

    @classmethod
    def of(cls, item: Item) -> Copy:
        return cls(
            item.record,
            item.part,
            item.after,
            item.lane,
            plain=False,
            single=True,
            number=item.number,
            attempts=item.attempts,
            first_us=item.first_us,
            late=item.late,
        )


class WatchedRuntime(Runtime):
    switches: Switches

    def subscription(self, handler: Handler, stored: Registered, host: Host) -> Subscription:
        return WatchedSubscription(self.switches, handler, stored, host)


def _switched(handler: Handler, name: str, switches: Switches) -> Handler:
    function: Callable[..., Any] = handler.function

    @wraps(function)
    async def awaited(*arguments: Any) -> Any:
        __tracebackhide__ = True
        switches.before(name)
        return await function(*arguments)

    @wraps(function)
    def called(*arguments: Any) -> Any:
        __tracebackhide__ = True
        switches.before(name)
        return function(*arguments)

    return replace(handler, function=awaited if handler.is_async else called)


def name_of_handler(services: Iterable[Service[Any]], wanted: Any) -> str:
    """The full name of the handler that a test names: by its function, its name, or `service.name`."""
    known = {f"{one.name}.{name}": handler for one in services for name, handler in one.handlers.items()}
    found = [
        full
        for full, handler in known.items()
        if wanted in (full, handler.name) or wanted is handler.function or wanted is unwrap(handler.function)
    ]
    if len(found) == 1:
        return found[0]
    said = repr(getattr(wanted, "__name__", wanted))
    if found:
        raise SettingsError(f"{said} names several handlers here: {', '.join(found)}. Say which, by its full name.")
    raise SettingsError(f"{said} names no handler of this spine; it runs {', '.join(known) or 'none'}.")
