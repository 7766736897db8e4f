"""The spine under test: one engine, a journal of its own, virtual time.

`idle` waits until nothing is ready, at work, uncommitted or unread (quiet.py says what that is), `advance` moves the time
from one moment at which something is due to the next, waiting for idle in between; so everything happens at its own time.
Neither sleeps for a while and hopes. What a handler raised is raised there, or when the block is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self, TypeVar, overload

from ..clock import time_of
from ..engine.subscription import Subscription
from ..envelope import Envelope
from ..errors import SettingsError, SpineError
from ..events import EventType, describe
from ..journal._memory_units import NO_SQL
from ..journal.port import Delivery as Row, Journal, Record, Replay, State
from ..journal.sqlite import SQLiteJournal
from ..observe.unheard import Unheard
from ..publishing import Publisher
from ..service import Middleware, Service
from ..spine import Spine
from ..sync.spine import Block
from ..wording import plural
from .clock import VirtualClock
from .quiet import NotIdle, engine_work, gathering, handlers_at_work, next_due, picture, read_now
from .switches import Switches, WatchedRuntime, name_of_handler

LEASE_S = 1e9  # thirty years: no test outlives it
LIMIT_S = 10.0
HANG_S = 1.0
TURNS = 100  # of the loop, before it is left to threads for a moment
PAUSE_S = 0.001
HELD_S = 0.01  # of real time, for which what is held back waits for handlers that are at work
SEED = "EVENTSPINE_SEED"
E = TypeVar("E")
E2 = TypeVar("E2")


class Kept(NamedTuple):
    """A delivery that is parked or dead."""

    handler: str  # "service.name"
    event: Any  # None when no handler here can read it
    key: str | None
    attempts: int
    reason: str
    error: str
    traceback: str
    due: datetime | None  # of its next attempt; None: dead, or behind another of its key
    late: bool
    number: int  # of its row


class Outside(Publisher):
    """The outside world, as a test plays it: it may publish for any context."""

    def check(self, event_type: EventType) -> None:
        pass

    def owns(self, context: str) -> bool:
        return True


class Unsaid(Unheard):
    """That nobody subscribes to what a handler publishes is how it is in a test: not every service is there."""

    async def look(self) -> None:
        pass


class VirtualSpine(Spine):
    """What `testing.spine(...)` gives: a `Spine` with services at work, and the names of a test."""

    _instead = "testing.sync_spine(...)"
    clock: VirtualClock

    def __init__(
        self,
        journal: Journal,
        services: Sequence[Service[Any]],
        *,
        clock: VirtualClock,
        switches: Switches,
        seed: int,
        interleave: bool,
        hang_s: float,
        stack: AsyncExitStack,
        service: Service[Any] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        super().__init__(journal, service=service, middleware=middleware, lease_s=LEASE_S, clock=clock)
        self.clock = clock
        self.seed = seed
        self._services = list(services)
        self._switches = switches
        self._interleave = random.Random(f"{seed} channels") if interleave else None
        self._hang_s = hang_s
        self._hung: set[Any] = set()
        self._stack = stack
        self._block: Block | None = None
        if service is None:
            self._publisher = Outside("test", (), clock, self._ids, self._unheard.published)

    # --- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        _refuse_other_loops()
        if self._block is not None:
            raise SpineError("This spine has been used; each is for one block. Call testing.spine(...) again.")
        try:
            await self.open()
            self._stack.push_async_callback(self.close)
            self._block = Block(self, self._services, drain_s=0.0)
            await self._block.enter()
            self._stack.push_async_callback(self._block.leave)
        except BaseException:
            await self._stack.aclose()
            raise
        mixing = asyncio.create_task(self._mix(), name="spine-mixing")
        self._stack.callback(mixing.cancel)
        return self

    async def __aexit__(self, *exit: object) -> None:
        error = exit[1] if len(exit) > 1 else None
        await self._stack.aclose()
        if isinstance(error, BaseException):
            self._explain(error)
        else:
            self._raise()

    def _runtime(self) -> WatchedRuntime:
        runtime = self._runtime_of(WatchedRuntime)
        runtime.switches = self._switches
        runtime.unheard = Unsaid(self.journal)
        runtime.broker.shuffle = self._interleave
        return runtime

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def idle(self, limit_s: float = LIMIT_S) -> None:
        """Wait until there is nothing to do. What is due later does not count; time stands still (only runs of a batch
        handler that are being gathered get the time that they wait for more). Raises what handlers raised, and NotIdle
        if it takes more than `limit_s` of real time."""
        __tracebackhide__ = True  # pytest then shows the test's line and the handler's
        await self._settle(limit_s)
        self._raise()

    async def advance(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
        limit_s: float = LIMIT_S,
    ) -> None:
        """Let this much time pass. All that is due meanwhile happens in order, each at its own time, with `idle` in
        between; `limit_s` is for each of these. Raises what handlers raised, as soon as they did: time stands there."""
        __tracebackhide__ = True
        passing = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        if passing < timedelta(0):
            raise SettingsError("Time goes forward only: advance() takes nothing below 0.")
        until_us = self.clock.now_us() + passing // timedelta(microseconds=1)
        await self._settle(limit_s, self._hang_s)
        while (due_us := self._next_due()) is not None and due_us <= until_us:
            self._raise()
            self._pass(max(due_us, self.clock.now_us()))
            await self._settle(limit_s, self._hang_s)
        self._raise()
        self._pass(until_us)
        await self._settle(limit_s, self._hang_s)
        self._raise()

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return self.clock.now

    def _next_due(self) -> int | None:
        times = [self.clock.next_due(), *(next_due(runtime) for runtime in self._runtimes)]
        return min((time for time in times if time is not None), default=None)

    def _pass(self, to_us: int) -> None:
        self.clock.move(to_us)
        for runtime in self._runtimes:
            for host in runtime.hosts:
                host.check_time()
        self._hung = {item for item in self._hung if not item.timed_out}

    async def _settle(self, limit_s: float, hang_s: float | None = None) -> None:
        """Until idle; with `hang_s`, or until handlers have been the only ones at work for so long."""
        loop = asyncio.get_running_loop()
        since = changed = loop.time()
        before: object = None
        turns = 0
        while True:
            await self._check_engine()
            busy, at_work = self._engine_works(), self._at_work()
            if busy or (at_work, self._progress()) != before:
                before, changed = (at_work, self._progress()), loop.time()
                turns = 0 if not busy else turns
            if not busy and not at_work:
                if not self._gather_on():
                    return
            elif not busy and hang_s is not None and (at_work <= self._hung or loop.time() - changed > hang_s):
                self._hung |= at_work
                return
            if loop.time() - since > limit_s:
                raise NotIdle(f"not idle within {limit_s:g} s of real time:\n{self._picture()}")
            turns += 1
            await asyncio.sleep(0 if turns < TURNS else PAUSE_S)

    def _engine_works(self, *, but_held: bool = False) -> bool:
        if self.clock.ringing or (not but_held and any(held.held for held in self._switches.held)):
            return True
        return any(next(engine_work(runtime), None) is not None for runtime in self._runtimes)

    def _subscriptions(self) -> list[Subscription]:
        return [one for runtime in self._runtimes for host in runtime.hosts for one in host.subscriptions]

    def _at_work(self) -> set[Any]:
        return {item for runtime in self._runtimes for item in handlers_at_work(runtime)}

    def _progress(self) -> int:
        return sum(one.handled + one.waiting.failures for one in self._subscriptions())

    def _gather_on(self) -> bool:
        """Give runs that gather the time that they wait for; whether there are any."""
        waiting = [workers for runtime in self._runtimes for workers in gathering(runtime)]
        if not waiting:
            return False
        until = min(workers.gathers_until for workers in waiting)
        self._pass(self.clock.now_us() + max(1, round((until - self.clock.monotonic()) * 1e6) + 1))
        return True

    def _picture(self) -> str:
        return "\n".join(picture(runtime) for runtime in self._runtimes)

    async def _check_engine(self) -> None:
        failed = any(runtime.failure is not None for runtime in self._runtimes)
        if self._block is not None and (failed or self._block._task.done()):
            await self._block.leave()  # raises why, if there was a failure
        if self._block is None or self._block._task.done():
            raise SpineError("This spine runs nothing now; use it inside `async with testing.spine(...)`.")

    async def _mix(self) -> None:
        """Show what is held back, one by one, when there is nothing else to do."""
        while True:
            await self._switches.holding.wait()
            self._switches.holding.clear()
            while some := [held for held in self._switches.held if held.held]:
                await self._nothing_else()
                assert self._interleave is not None, "only then is something held"
                self._interleave.choice(some).let_go()
                for one in self._subscriptions():
                    one.workers.wake()

    async def _nothing_else(self) -> None:
        """Until idle but for what is held back, or until handlers have been at work by themselves for a moment."""
        loop = asyncio.get_running_loop()
        alone: float | None = None
        turns = 0
        while (works := self._engine_works(but_held=True)) or self._at_work():
            alone = None if works else alone or loop.time()
            if alone is not None and loop.time() - alone > HELD_S:
                return
            turns += 1
            await asyncio.sleep(0 if turns < TURNS else PAUSE_S)

    # --- what was raised --------------------------------------------------------------------------------------------

    def _raise(self) -> None:
        __tracebackhide__ = True
        raised = list(self._switches.errors.values())
        self._switches.errors.clear()
        for error, said in raised:
            _note(error, said)
            if NO_SQL in str(error):
                _note(error, "eventspine: testing.spine(..., sql=True) gives this test a journal with tables")
            _note(error, self._how_to_repeat())
        if len(raised) == 1:
            raise raised[0].error
        if raised:
            raise BaseExceptionGroup(
                f"{plural(len(raised), 'delivery', 'deliveries')} failed", [error for error, _ in raised]
            )

    def _explain(self, error: BaseException) -> None:
        """A test that fails by another error is told what handlers have raised, too."""
        _note(error, self._how_to_repeat())
        for raised, said in self._switches.errors.values():
            if raised is not error:
                _note(error, f"eventspine: {raised!r} was {said}; idle() raises it")

    def _how_to_repeat(self) -> str:
        return (
            f"eventspine: seed={self.seed} (or {SEED}={self.seed} in the environment) repeats the chances of this run"
        )

    # --- switches ---------------------------------------------------------------------------------------------------

    def fail_next(
        self, handler: Callable[..., Any] | str, error: BaseException | type[BaseException], times: int = 1
    ) -> None:
        """Have the next `times` attempts at this handler fail with `error` in its place. `handler`: the function, or its
        name. Retries follow as declared, and `idle` does not raise it."""
        if times < 1:
            raise SettingsError(f"times={times!r}: at least 1 attempt must fail.")
        if not issubclass(error if isinstance(error, type) else type(error), BaseException):
            raise SettingsError(
                f"fail_next(..., {error!r}) is no error. Give an exception or its class, such as ValueError."
            )
        self._switches.fail_next(name_of_handler(self._services, handler), error, times)

    def deliver_twice(self, handler: Callable[..., Any] | str | None = None, times: int | None = None) -> None:
        """From now on hand every delivery (of this handler; of all) out once more when it is finished, as happens when
        a process loses its partition at the wrong moment. The handler runs twice; what its unit changes happens once."""
        self._switches.deliver_twice(None if handler is None else name_of_handler(self._services, handler), times)

    # --- looking ----------------------------------------------------------------------------------------------------

    @overload
    def published(self, first: type[E], /) -> list[E]: ...
    @overload
    def published(self, first: type[E], second: type[E2], /) -> list[E | E2]: ...
    @overload
    def published(self, first: type[Any], /, *classes: type[Any]) -> list[Any]: ...

    def published(self, first: type[Any], /, *classes: type[Any]) -> list[Any]:
        """All events of these classes, by whomever published, in the order of the feed."""
        kinds = {name: kind for kind in map(describe, (first, *classes)) for name in kind.names}
        return [kinds[record.type].read(record.data, record.version) for record in self._records(list(kinds))]

    def envelopes(self, *classes: type[Any]) -> list[Envelope]:
        """Envelopes of events of these classes, or of all, in the order of the feed."""
        return [
            Envelope(record)
            for record in self._records([name for cls in classes for name in describe(cls).names] or None)
        ]

    def _records(self, types: list[str] | None) -> Iterator[Record]:
        after, more = 0, True
        while more:
            page = read_now(self.journal.feed(after, limit=500, types=types))
            yield from page.records
            after, more = page.scanned, page.more

    def parked(self, handler: Callable[..., Any] | str | None = None) -> list[Kept]:
        """Deliveries that wait for another attempt, and those that wait behind them, in the order in which they came."""
        return self._kept("parked", handler)

    def dead(self, handler: Callable[..., Any] | str | None = None) -> list[Kept]:
        """Deliveries that were given up."""
        return self._kept("dead", handler)

    def _kept(self, state: State, handler: Callable[..., Any] | str | None) -> list[Kept]:
        wanted = None if handler is None else name_of_handler(self._services, handler)
        names = {row.number: row.name for row in read_now(self.journal.subscriptions())}
        rows = read_now(self.journal.deliveries(states=[state], limit=1_000_000))
        return [
            self._as_kept(row, names[row.subscription]) for row in rows if wanted in (None, names[row.subscription])
        ]

    def _as_kept(self, row: Row, name: str) -> Kept:
        due = None if row.due_us is None or row.state == "dead" else time_of(row.due_us)
        event = None if row.record is None else self._decoded(row.record, name)
        return Kept(name, event, row.key, row.attempts, row.reason, row.error, row.traceback, due, row.late, row.number)

    def _decoded(self, record: Record, name: str) -> Any:
        kinds = {
            type: kind
            for one in self._services
            for handler in one.handlers.values()
            if f"{one.name}.{handler.name}" == name
            for kind in handler.types
            for type in kind.names
        }
        with suppress(SpineError):
            return kinds[record.type].read(record.data, record.version) if record.type in kinds else None
        return None

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of the services' tables, as committed."""
        if not isinstance(self.journal, SQLiteJournal):
            raise SettingsError(
                "Nothing here has tables, so the journal is one in memory; say testing.spine(..., sql=True)."
            )
        return self.journal.query_blocking(sql, parameters)

    async def replay(self, *dead: Kept) -> int:
        """Have these dead deliveries, or all, handled again, as `spine dead replay` does; how many."""
        return await self.journal.control([Replay([one.number for one in dead or self.dead()])])


def _note(error: BaseException, note: str) -> None:
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _refuse_other_loops() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise SpineError(
            "eventspine runs on asyncio, and this test does not (trio, perhaps). With anyio's plug-in, have its tests "
            'run on asyncio: a fixture `anyio_backend` that returns "asyncio".'
        ) from None
