"""A spine that blocks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from uuid import UUID

from .. import spine as _spine
from ..brokers.port import Broker
from ..clock import Clock
from ..journal.port import Journal, StreamCut
from ..observe.correlation import current
from ..observe.written import wrote
from ..publishing import Receipt, due_us, receipts, unit_of
from ..service import Middleware, Service
from ..within import carrier_of, opening, write
from .loop import Here, Loop

V = TypeVar("V")
T = TypeVar("T")
if TYPE_CHECKING:
    from typing import Unpack

    from ..commands.declare import Command
    from ..state.aggregate import Aggregate, Identity
    from ..state.blocking import SyncViewReader
    from ..state.changing import Changed
    from ..state.streams import At

    A = TypeVar("A", bound=Aggregate)
else:
    A = TypeVar("A")


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
        commands: Sequence[Service[Any]] = (),
    ) -> None:
        self._begin(
            partial(
                _spine.Spine, url, service=service, middleware=middleware, lease_s=lease_s, clock=clock, broker=broker,
                take_over=take_over, outbox_max=outbox_max, commands=commands,
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
        commands: Sequence[Service[Any]] = (),
    ) -> Self:
        from .. import settings

        read = settings.read(file=file)  # once: a forked child is not to find others
        spine = cls.__new__(cls)
        spine._begin(
            partial(
                _spine.Spine._with, read, service=service, middleware=middleware, lease_s=lease_s, clock=clock,
                commands=commands,
            )
        )  # fmt: skip
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
        id: str | UUID | None = None,
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
        id: str | UUID | None = None,
    ) -> list[Receipt]:
        """In the caller's own thread, to which the connection belongs."""
        spine = self._now
        with opening(within):
            self._loop.run(spine._at_first_use())
        due = due_us(spine.clock, at, after)
        records = spine.records(events, cause=current.get(), time=time, id=id)
        write(carrier_of(within), spine.journal, unit_of(records, due))
        wrote(records if due is None else ())
        if spine._unheard.to_look_at:
            self._loop.run(spine._look_soon())
        return receipts(records, None, due)

    def load(self, aggregate: type[A], id: Identity, /, **at: Unpack[At]) -> A:
        return self._loop.run(self._now.load(aggregate, id, **at))

    def load_or_new(self, aggregate: type[A], id: Identity, /) -> A:
        return self._loop.run(self._now.load_or_new(aggregate, id))

    def save(self, *aggregates: Aggregate, within: Any = None) -> list[Receipt]:
        if within is None:
            return self._loop.run(self._now.save(*aggregates))
        return self._save_within(aggregates, within)

    def _save_within(self, aggregates: Sequence[Aggregate], within: Any) -> list[Receipt]:
        """In the caller's own thread, to which the connection belongs."""
        from ..state.saving import saved

        spine = self._now
        with opening(within):
            self._loop.run(spine._at_first_use())
        unit, records = spine._unit_of(aggregates, current.get())
        if unit.appends:
            write(carrier_of(within), spine.journal, unit)
            wrote(records)
        for one in aggregates:
            saved(one)
        return receipts(records, None, None)

    def delete_stream(self, aggregate: type[A], id: Identity, /) -> StreamCut:
        return self._loop.run(self._now.delete_stream(aggregate, id))

    def truncate_stream(self, aggregate: type[A], id: Identity, /, *, before: int) -> StreamCut:
        return self._loop.run(self._now.truncate_stream(aggregate, id, before=before))

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
        from ..state.changing import Changing

        changing = Changing(self._now, aggregate, id, new, command_id)
        while (found := self._loop.run(changing.load())) is not None:
            decide(found)
            self._loop.run(changing.save(found))
        return changing.changed

    def send(self, command: Command[T], /, *, command_id: str | None = None) -> T:
        """A `def` handler is called here, in the caller's thread."""
        from ..commands.sending import OnLoop, send

        here = Here()
        return here.serve(self._loop.submit(send(self._now, command, command_id, OnLoop(here.run))))

    def view(self, view: type[V], *, tenant: Any = None) -> SyncViewReader[V]:
        from ..state.blocking import SyncViewReader

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
        block = Block(self._now, services, roll_back=roll_back, retire=retire, drain_s=drain_s)
        self._loop.run(block.enter())
        try:
            yield
        finally:
            self._loop.run(block.leave())


class Block:
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
