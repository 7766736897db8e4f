"""The runtime of one process: what its hosts share. One journal, one committer, one pool of threads, one clock; the task
that fires timers, the one that looks after everybody else, and the gate that closes when a delivery must run alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from .._version import RELEASE
from ..brokers.feed import FeedBroker
from ..clock import Clock
from ..errors import JournalError, SpineError
from ..ids import IdSource
from ..journal.port import Journal, Record, Subscription as Registered
from ..observe.unheard import Unheard
from ..service import Handler, Middleware, Service
from .commits import Committer
from .host import LOOK_S, Host
from .periodic import Periodic
from .registering import say_what_nobody_had
from .subscription import Subscription
from .timers import Timers
from .upkeep import Upkeep
from .workers import Workers

log = logging.getLogger("eventspine.engine")
THREADS = 64
TROUBLE_S = 0.5  # before another round of what has failed


class StuckThreads(SpineError):
    """Every thread for `def` handlers is held by one that does not return; only ending the process frees them."""


class Gate:
    """Closed while one delivery runs with nothing beside it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.closed = False
        self._one = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._waiting: list[Callable[[], None]] = []

    def when_open(self, call: Callable[[], None]) -> None:
        self._waiting.append(call)

    async def opened(self) -> None:
        while self.closed:  # again, since who comes next may have closed it by now
            await self._open.wait()

    @asynccontextmanager
    async def alone(self, others_at_work: Callable[[], bool]) -> AsyncIterator[None]:
        async with self._one:
            self.closed = True
            self._open.clear()
            try:
                while others_at_work():  # rare, and not worth a signal on the hot path
                    await self.clock.sleep(0.005)
                yield
            finally:
                self.closed = False
                self._open.set()
                waiting, self._waiting = self._waiting, []
                for call in waiting:
                    call()


class Runtime:
    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        *,
        lease_s: float,
        middleware: Sequence[Middleware],
        unheard: Unheard | None = None,
        retention: Mapping[str, timedelta | None] | None = None,
        fits: Callable[[Record], None] | None = None,
    ) -> None:
        self.journal = journal
        self.unheard = unheard or Unheard(journal)
        self.fits = fits  # what the broker takes, if one carries what is published
        self.clock = clock
        self.ids = ids
        self.lease_s = lease_s
        self.middleware = tuple(middleware)
        self.retention = retention or {}  # of the settings, by channel; "*": where services say nothing
        self.release = RELEASE
        self.broker = FeedBroker(journal, shuffle=clock.random)
        self.committer = Committer(journal, clock)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="spine-handler")
        self._in_threads: set[Future[Any]] = set()
        self.gate = Gate(clock)
        self.hosts: list[Host] = []
        self.periodic = Periodic(self)
        self.upkeep = Upkeep(self)
        self.stuck_threads = 0
        self.failure: BaseException | None = None
        self.stopped = asyncio.Event()
        self._timers = Timers(journal, clock)
        self._noticed = asyncio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, services: Sequence[Service[Any]], *, roll_back: bool, retire: Sequence[str]) -> None:
        self.committer.start(self.fail)
        self._unwatch = self.broker.watch(self._on_change)
        try:
            for service in services:
                host = Host(service, self, roll_back=roll_back, retire=retire)
                self.hosts.append(host)
                await host.start()
                self.periodic.take_up(host)
            await say_what_nobody_had(self.hosts, retire)
        except BaseException:
            await self.stop(0.0)
            raise
        self._tasks = [
            asyncio.create_task(self._forever(work), name=f"spine-{work.__name__}")
            for work in (
                self._timers.fire,
                self._look,
                self._check_time,
                self._follow,
                self.periodic.bring_in,
                self.upkeep.round,
            )
        ]

    async def stop(self, drain_s: float) -> bool:
        """Drain: nothing new is handed out, what is at work finishes, cursors are stored, leases given back. Whether
        everything did finish within the time."""
        for host in self.hosts:
            host.halt()
            await host.readers.stop()
        self._store_what_was_passed()
        await self._settle(most_s=1.0)  # before partitions are given back
        drained = await self._drain(drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._store_what_was_passed()
        await self._settle()
        for host in reversed(self.hosts):
            await host.stop()
        await self.committer.stop()
        if self._unwatch is not None:
            self._unwatch()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.stopped.set()
        return drained

    async def _drain(self, drain_s: float) -> bool:
        until = self.clock.monotonic() + drain_s
        if self._at_work():
            for host in self.hosts:
                host.give_back()
        while self._at_work():
            if self.clock.monotonic() >= until:
                log.warning("drained for %g s; what is still at work will be handled again", drain_s)
                return False
            for host in self.hosts:
                host.give_back_more()
            await self.clock.sleep(0.01)
        return True

    def _at_work(self) -> bool:
        return any(host.at_work for host in self.hosts)

    def _store_what_was_passed(self) -> None:
        for host in self.hosts:
            for subscription in host.subscriptions:
                subscription.passed()

    async def _settle(self, most_s: float = 5.0) -> None:
        """Let the last units be committed, unless the journal is in trouble."""
        until = self.clock.monotonic() + (most_s if self.failure is None else 0.0)
        while not self.committer.idle and self.committer.trouble is None and self.clock.monotonic() < until:
            await self.clock.sleep(0.005)

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def _forever(self, work: Callable[[], Any]) -> None:
        """These tasks outlive trouble: it is logged, and the next round tries again."""
        while self.failure is None:
            try:
                await work()
            except JournalError as error:
                log.error("%s: %s", work.__name__.strip("_"), error)  # noqa: TRY400 -- the message says what to do
                await self.clock.sleep(TROUBLE_S)
            except Exception:
                log.exception("%s failed and goes on", work.__name__.strip("_"))
                await self.clock.sleep(TROUBLE_S)

    async def _look(self) -> None:
        await self.clock.sleep(LOOK_S)
        for host in self.hosts:
            await host.look()
        self.periodic.happened()
        await self.unheard.look()

    async def _follow(self) -> None:
        await self._noticed.wait()
        self._noticed.clear()
        for host in self.hosts:
            await host.follow()
        await self.clock.sleep(0.25)

    async def _check_time(self) -> None:
        await self.clock.sleep(self._tick_s())
        self.stuck_threads = sum(host.check_time() for host in self.hosts)
        if self.stuck_threads >= THREADS:
            self.fail(
                StuckThreads(f"All {THREADS} handler threads are stuck; this process has to end.", threads=THREADS)
            )

    def _tick_s(self) -> float:
        shortest = min((h.timeout_s for host in self.hosts for h in host.service.handlers.values()), default=1.0)
        return max(0.02, min(1.0, shortest / 5))

    def fail(self, error: BaseException) -> None:
        self.failure = error
        self.stopped.set()

    def _on_change(self) -> None:
        self._timers.changed()
        self._noticed.set()
        for host in self.hosts:
            host.changed()

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        future = self._threads.submit(call)
        self._in_threads.add(future)
        future.add_done_callback(self._in_threads.discard)
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # it has the error, and the error this frame: in such a circle all that its handler had in hand would stay

    @property
    def unfinished_threads(self) -> int:
        """Handlers in threads that have not returned. After `stop`, only ending the process ends them."""
        return len(self._in_threads)

    def keeps_of(self, service: Service[Any]) -> dict[str, int | None]:
        """For how long (microseconds) it has its channels kept: as the settings say, else as its code does."""
        return service.keeps_by(self.retention)

    # --- what hosts ask of it -----------------------------------------------------------------------------------------

    def subscription(self, handler: Handler, stored: Registered, host: Host) -> Subscription:
        return Subscription(handler, stored, host)

    def others_at_work(self, mine: Workers) -> bool:
        """Without those that are out of time: a thread that never returns must not keep everybody waiting."""
        me = asyncio.current_task()
        every = [one.workers for host in self.hosts for one in host.subscriptions]
        return any(
            item.started and not item.timed_out
            for workers in every
            for task, item in workers.items.items()
            if workers is not mine or task is not me
        )
