"""The same names for programs without an event loop: Django, Flask, scripts, and `def` handlers.

    from eventspine.sync import Spine

One loop in one background thread does the work; every call here waits for it. Nothing is written twice."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload
from weakref import WeakSet

from . import delivery as _delivery, spine as _spine
from .brokers.port import Broker
from .clock import Clock
from .envelope import Envelope
from .errors import SpineClosed, WouldDeadlock
from .journal.port import Journal
from .observe.correlation import current
from .publishing import Receipt, due_us, receipts, unit_of
from .service import Middleware, Service
from .within import carrier_of, opening, write

__all__ = ["BatchDelivery", "Delivery", "Spine"]

T = TypeVar("T")
V = TypeVar("V")
if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault

    from .state.aggregate import Aggregate, Identity
    from .state.blocking import SyncViewReader
    from .state.changing import Changed

    A = TypeVar("A", bound=Aggregate)
    R = WithDefault("R", default=None)
else:
    A = TypeVar("A")
    R = TypeVar("R")


FINISH_S = 5.0


_loops: WeakSet[Loop] = WeakSet()


def _renew_locks() -> None:
    """In a forked child: the thread of the parent that may hold one is not here to give it back."""
    for loop in _loops:
        loop._lock, loop.counting = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Loop:
    """An event loop in a thread of its own; made anew in a forked child."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stopped_in = 0  # the process in which it was stopped
        self._lock = threading.Lock()
        self.counting = threading.Lock()  # who enters and leaves `with spine:`
        _loops.add(self)

    def run(self, coroutine: Coroutine[Any, Any, T], *, again: bool = False) -> T:
        """What it returns. Once stopped, a loop is only started `again` for who says so."""
        with self._lock:  # so that `stop` finds everything that was ever handed to its loop
            if self._stopped_in == os.getpid() and not again:
                coroutine.close()
                raise SpineClosed(
                    "This spine is closed. Publish before it is, or open it again: spine.open(), or with spine."
                )
            self._stopped_in = 0
            loop = self._running()
            if _inside(loop):
                coroutine.close()
                raise WouldDeadlock("This is the loop that would have to answer; use eventspine.Spine with await here.")
            future = asyncio.run_coroutine_threadsafe(_with_context(coroutine), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._pid != os.getpid():
            self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="eventspine", daemon=True)
            self._thread.start()
        return self._loop

    def stop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
            self._stopped_in = os.getpid()
        if loop is not None and self._pid == os.getpid():
            loop.call_soon_threadsafe(loop.stop)
            if self._thread is not None:
                self._thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_finish())  # what other threads still wait for
    loop.close()


async def _finish() -> None:
    """Let what is under way have its answer; what takes too long is cancelled, and whoever waits for it is told so."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=FINISH_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


def _inside(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _with_context(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Run it with the caller's context variables: correlation flows into the loop's thread."""
    cause = current.get()

    async def inner() -> T:
        current.set(cause)
        return await coroutine

    return inner()


class Spine:
    """See `eventspine.Spine`; every name is the same, and blocks."""

    def __init__(
        self,
        url: str | Journal = "sqlite:///spine.db",
        *,
        service: Service[Any] | None = None,
        middleware: Sequence[Middleware] = (),
        lease_s: float = _spine.LEASE_S,
        clock: Clock | None = None,
        broker: str | Broker | None = None,
        take_over: bool = False,
        outbox_max: int = _spine.OUTBOX_MAX,
    ) -> None:
        self._begin(
            partial(
                _spine.Spine, url, service=service, middleware=middleware, lease_s=lease_s, clock=clock, broker=broker,
                take_over=take_over, outbox_max=outbox_max,
            )
        )  # fmt: skip

    @classmethod
    def from_settings(
        cls,
        *,
        service: Service[Any] | None = None,
        middleware: Sequence[Middleware] = (),
        lease_s: float = _spine.LEASE_S,
        clock: Clock | None = None,
        file: str | os.PathLike[str] | None = None,
    ) -> Self:
        from . import settings

        read = settings.read(file=file)  # once: a forked child is not to find others
        spine = cls.__new__(cls)
        spine._begin(
            partial(_spine.Spine._with, read, service=service, middleware=middleware, lease_s=lease_s, clock=clock)
        )
        return spine

    def _begin(self, make: Callable[[], _spine.Spine]) -> None:
        self._make = make
        self._spine = make()
        self._pid = os.getpid()
        self._loop = Loop()
        self._inside = 0  # blocks `with` that are open: the last one to be left closes

    @property
    def _now(self) -> _spine.Spine:
        """In a forked child, the parent's is left alone and a new one made."""
        if self._pid != os.getpid():
            self._spine, self._pid = self._make(), os.getpid()
        return self._spine

    @property
    def journal(self) -> Journal:
        return self._now.journal

    def open(self) -> Self:
        self._loop.run(self._now.open(), again=True)
        return self

    def close(self) -> None:
        self._loop.run(self._now.close(), again=True)
        self._loop.stop()

    def __enter__(self) -> Self:
        with self._loop.counting:
            self._inside += 1
            return self.open()

    def __exit__(self, *_: object) -> None:
        with self._loop.counting:
            self._inside -= 1
            if not self._inside:
                self.close()

    @overload
    def publish(
        self,
        event: Any,
        /,
        *,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
        id: str | None = None,
        within: Any = None,
    ) -> Receipt: ...
    @overload
    def publish(
        self,
        event: Any,
        second: Any,
        /,
        *events: Any,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
        within: Any = None,
    ) -> list[Receipt]: ...

    def publish(self, *events: Any, within: Any = None, **options: Any) -> Any:
        if within is None:
            return self._loop.run(self._now.publish(*events, **options))
        made = self._publish_within(events, within, **options)
        return made[0] if len(events) == 1 else made

    def _publish_within(
        self,
        events: tuple[Any, ...],
        within: Any,
        *,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
        id: str | None = None,
    ) -> list[Receipt]:
        """In the caller's own thread, to which the connection belongs."""
        spine = self._now
        with opening(within):
            self._loop.run(spine._at_first_use())
        due = due_us(spine.clock, at, after)
        records = spine.records(events, cause=current.get(), time=time, id=id)
        write(carrier_of(within), spine.journal, unit_of(records, due))
        if spine._unheard.to_look_at:
            self._loop.run(spine._look_soon())
        return receipts(records, None, due)

    def load(
        self,
        aggregate: type[A],
        id: Identity,
        /,
        *,
        at_version: int | None = None,
        at_position: int | None = None,
        at: datetime | None = None,
    ) -> A:
        return self._loop.run(self._now.load(aggregate, id, at_version=at_version, at_position=at_position, at=at))

    def load_or_new(self, aggregate: type[A], id: Identity, /) -> A:
        return self._loop.run(self._now.load_or_new(aggregate, id))

    def save(self, *aggregates: Aggregate, within: Any = None) -> list[Receipt]:
        if within is None:
            return self._loop.run(self._now.save(*aggregates))
        return self._save_within(aggregates, within)

    def _save_within(self, aggregates: Sequence[Aggregate], within: Any) -> list[Receipt]:
        """In the caller's own thread, to which the connection belongs."""
        from .state.saving import saved

        spine = self._now
        with opening(within):
            self._loop.run(spine._at_first_use())
        unit, records = spine._unit_of(aggregates, current.get())
        if unit.appends:
            write(carrier_of(within), spine.journal, unit)
        for one in aggregates:
            saved(one)
        return receipts(records, None, None)

    def change(
        self,
        aggregate: type[A],
        id: Identity,
        decide: Callable[[A], Any],
        /,
        *,
        new: bool = False,
        command_id: str | None = None,
    ) -> Changed[A]:
        """`decide` is called here, in the caller's thread."""
        from .state.changing import Changing

        changing = Changing(self._now, aggregate, id, new, command_id)
        while (found := self._loop.run(changing.load())) is not None:
            decide(found)
            self._loop.run(changing.save(found))
        return changing.changed

    def view(self, view: type[V], *, tenant: Any = None) -> SyncViewReader[V]:
        from .state.blocking import SyncViewReader

        return SyncViewReader(self._now.view(view, tenant=tenant), self._loop.run)

    def cancel(self, *published: Receipt) -> int:
        return self._loop.run(self._now.cancel(*published))

    def health(self) -> dict[str, Any]:
        return self._now.health()

    @contextmanager
    def running(
        self,
        *services: Service[Any],
        roll_back: bool = False,
        retire: Sequence[str] = (),
        drain_s: float | None = None,
    ) -> Iterator[None]:
        """Run these services in the background until the block is left. An engine that failed meanwhile raises then."""
        block = _Block(self._now, services, roll_back=roll_back, retire=retire, drain_s=drain_s)
        self._loop.run(block.enter())
        try:
            yield
        finally:
            self._loop.run(block.leave())


class _Block:
    """`async with spine.running(...)` held open by a task of its own, so that it is entered and left by one task."""

    def __init__(self, spine: _spine.Spine, services: Sequence[Service[Any]], **options: Any) -> None:
        self._spine, self._services, self._options = spine, services, options

    async def enter(self) -> None:
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._hold())
        await asyncio.wait([self._started, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task

    async def _hold(self) -> None:
        async with self._spine.running(*self._services, **self._options):
            self._started.set_result(None)
            await self._stop.wait()

    async def leave(self) -> None:
        self._stop.set()
        await self._task


class Delivery(Generic[R]):
    """What a `def` handler may take as its second argument. See `eventspine.Delivery`."""

    def __init__(self, inner: _delivery.Delivery[R], loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    @property
    def event_id(self) -> str:
        return self._inner.event_id

    @property
    def key(self) -> str | None:
        return self._inner.key

    @property
    def time(self) -> datetime:
        return self._inner.time

    @property
    def handler(self) -> str:
        return self._inner.handler

    @property
    def attempt(self) -> int:
        return self._inner.attempt

    @property
    def late(self) -> bool:
        return self._inner.late

    @property
    def correlation(self) -> str:
        return self._inner.correlation

    @property
    def causation(self) -> str | None:
        return self._inner.causation

    @property
    def envelope(self) -> Envelope:
        return self._inner.envelope

    @property
    def idempotency_key(self) -> str:
        return self._inner.idempotency_key

    @property
    def resources(self) -> R:
        return self._inner.resources

    def execute(self, sql: str, *, expect_rows: int | None = None, **parameters: Any) -> None:
        self._inner.execute(sql, expect_rows=expect_rows, **parameters)

    def publish(
        self, *events: Any, time: datetime | None = None, at: datetime | None = None, after: timedelta | None = None
    ) -> list[Receipt]:
        return self._inner.publish(*events, time=time, at=at, after=after)

    def load(
        self,
        aggregate: type[A],
        id: Identity,
        /,
        *,
        at_version: int | None = None,
        at_position: int | None = None,
        at: datetime | None = None,
    ) -> A:
        return self._wait(self._inner.load(aggregate, id, at_version=at_version, at_position=at_position, at=at))

    def load_or_new(self, aggregate: type[A], id: Identity, /) -> A:
        return self._wait(self._inner.load_or_new(aggregate, id))

    def save(self, *aggregates: Aggregate) -> list[Receipt]:
        return self._inner.save(*aggregates)

    def join(self, within: Any) -> None:
        carrier_of(within).check_blocking()
        self._inner.join(within)

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return self._wait(self._inner.query(sql, **parameters))

    @contextmanager
    def transaction(self) -> Iterator[Writing]:
        manager = self._inner.transaction()
        writing = self._wait(manager.__aenter__())
        try:
            yield Writing(writing, self)
        finally:
            self._wait(manager.__aexit__(None, None, None))

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class BatchDelivery(Generic[R]):
    """What a `def` batch handler may take as its second argument. See `eventspine.BatchDelivery`."""

    def __init__(self, inner: _delivery.BatchDelivery[R], loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    @property
    def handler(self) -> str:
        return self._inner.handler

    @property
    def resources(self) -> R:
        return self._inner.resources

    def of(self, event: Any) -> Delivery[R]:
        return Delivery(self._inner.of(event), self._loop)

    def retry(self, event: Any, error: BaseException) -> None:
        self._inner.retry(event, error)

    def dead(self, event: Any, reason: str) -> None:
        self._inner.dead(event, reason)

    def execute(self, sql: str, *, expect_rows: int | None = None, **parameters: Any) -> None:
        self._inner.execute(sql, expect_rows=expect_rows, **parameters)

    def publish(self, *events: Any, cause: Any, time: datetime | None = None) -> list[Receipt]:
        return self._inner.publish(*events, cause=cause, time=time)

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return asyncio.run_coroutine_threadsafe(self._inner.query(sql, **parameters), self._loop).result()


class Writing:
    """A `def` handler's own transaction. See `Delivery.transaction`."""

    def __init__(self, inner: _delivery.Writing, delivery: Delivery[Any]) -> None:
        self._inner, self._delivery = inner, delivery

    def execute(self, sql: str, *, expect_rows: int | None = None, **parameters: Any) -> int:
        return self._delivery._wait(self._inner.execute(sql, expect_rows=expect_rows, **parameters))

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return self._delivery._wait(self._inner.query(sql, **parameters))


def in_thread(delivery: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """The delivery as a `def` handler gets it."""
    return Delivery(delivery, loop) if isinstance(delivery, _delivery.Delivery) else BatchDelivery(delivery, loop)
