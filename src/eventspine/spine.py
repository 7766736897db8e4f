"""The spine: one process's journal, broker and services.

Opened lazily and safe to make at import time. It touches neither signals nor logging; that is the program's business
(`spine run` is such a program)."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload
from uuid import UUID

from .brokers import check_broker, check_carrying, open_broker
from .clock import Clock, SystemClock
from .commands.on_spine import Commanding
from .delivery import Delivery, refuse_other_journal
from .errors import EventRefused, JournalError, OutcomeUnknown, SettingsError, SpineClosed, SpineError, UnknownPublisher
from .events import EventType, describe_event
from .ids import IdSource, id_bytes, id_text
from .journal import check_journal, open_journal, without_password
from .journal.notes import SCRATCH
from .journal.port import Journal, Record, Unit, Verdict
from .observe.correlation import Cause, current
from .observe.unheard import Unheard
from .observe.written import wrote
from .publishing import Publisher, Receipt, due_us, receipts, through, unit_of
from .running import Running, at_work
from .runs import BatchDelivery
from .service import Middleware, Service, check_commands, check_services, check_upcasters, tables_script
from .state.on_spine import State
from .within import beside, carrier_of, opening, write_async

if TYPE_CHECKING:
    import asyncio

    from .brokers.port import Broker
    from .engine.carrying import Carrying
    from .engine.runtime import Runtime
    from .settings import Settings

log = logging.getLogger("eventspine")
AnyRuntime = TypeVar("AnyRuntime", bound="Runtime")
DRAIN_S = 30.0
OUTBOX_MAX = 1_000_000
LEASE_S = 10.0  # how long a silent process keeps its partitions; a killed one on this host loses them at once
UNKNOWN_TRIES = 5


class Spine(State, Commanding):
    """`url` names the journal: `sqlite:///spine.db` (relative), `sqlite:////var/lib/spine.db`,
    `postgresql://user@host/shop?schema=spine`, `memory://`; or pass a journal object. `service` is whom this program
    publishes for: the envelope's `source`, and what it may publish.
    `broker` names what carries events to and from services on other journals: `kafka://…`, `amqp://…`, `nats://…`,
    `pulsar://…`, `eventbridge://…`; or pass a broker object. `take_over` takes the place of a journal that is gone; `outbox_max` is how many events
    the broker may be behind before publishing raises OutboxFull. `commands` are services whose commands are handled here,
    beside those of `service` and of what runs here."""

    _instead = "eventspine.sync.Spine"  # of code that blocks

    def __init__(
        self,
        url: str | Journal = "sqlite:///spine.db",
        *,
        service: Service[Any] | None = None,
        middleware: Sequence[Middleware] = (),
        lease_s: float = LEASE_S,
        clock: Clock | None = None,
        broker: str | Broker | None = None,
        take_over: bool = False,
        outbox_max: int = OUTBOX_MAX,
        commands: Sequence[Service[Any]] = (),
    ) -> None:
        check_services([*([] if service is None else [service]), *_listed(commands)])
        check_carrying(lease_s, outbox_max, take_over=take_over, carried=broker is not None)
        self.commands = tuple(commands)
        self.broker = _broker(broker)
        self._take_over = take_over
        self._outbox_max = outbox_max
        self._carrying: Carrying | None = None
        self.drain_s = DRAIN_S  # of `running`, where it is told nothing else
        self._retention: Mapping[str, timedelta | None] = {}  # of the settings, over what services say
        self.clock = clock or SystemClock()
        self.journal = _journal(url)
        self.service = service
        self.middleware = tuple(middleware)
        self.lease_s = lease_s
        self._ids = IdSource(self.clock)
        self._unheard = Unheard(self.journal)
        self._looks: set[asyncio.Task[None]] = set()
        self._fits = None if self.broker is None else _limit_of(self.broker)
        self._publisher = None if service is None else self._publisher_of(service)
        self._around = self.middleware + (service.middleware if service else ())
        self._opened = False
        self._closed = False
        self._opening = threading.Lock()  # held across awaits, so it is only ever tried
        self._inside = 0  # blocks `async with` that are open: the last one to be left closes
        self._runtimes: list[Runtime] = []

    @classmethod
    def from_settings(
        cls,
        *,
        service: Service[Any] | None = None,
        middleware: Sequence[Middleware] = (),
        lease_s: float = LEASE_S,
        clock: Clock | None = None,
        file: str | os.PathLike[str] | None = None,
        commands: Sequence[Service[Any]] = (),
    ) -> Self:
        """A spine with the settings that `spine run` would have in this folder: of the environment, and of the settings
        file (`file` names it; else it is looked for here and in the folders above)."""
        from . import settings

        return cls._with(
            settings.read(file=file),
            service=service,
            middleware=middleware,
            lease_s=lease_s,
            clock=clock,
            commands=commands,
        )

    @classmethod
    def _with(cls, settings: Settings, **options: Any) -> Self:
        """With what these settings say of a spine; `spine run` makes its own so too."""
        spine = cls(settings.journal, **{"broker": settings.broker, **options})
        spine.drain_s = settings.drain_s
        spine._retention = settings.retention
        return spine

    # --- life -------------------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open the journal now rather than at first use; or again, after `close`."""
        self._closed = False
        while not self._opened:
            async with self._alone():
                if not self._opened:
                    await self._open()
        return self

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One task opens or closes, on whatever event loop that is."""
        from asyncio import (
            sleep,  # where it is used: half the time of `import eventspine`, and a script may not need it
        )

        while not self._opening.acquire(blocking=False):  # noqa: ASYNC110 -- of several loops, which have no event in common
            await sleep(0.005)
        try:
            yield
        finally:
            self._opening.release()

    async def _open(self) -> None:
        await self.journal.open()
        try:
            await self._make_tables()
            await self._say_what_is_kept()
            await self._start_carrying()
        except BaseException:
            await self.journal.close()
            raise
        self._opened = True

    async def _start_carrying(self) -> None:
        if self.broker is None or await self._is_scratch():
            return
        from .engine.carrying import Carrying

        carrying = Carrying(
            self.broker, self.journal, self.clock, self._ids, lease_s=self.lease_s, take_over=self._take_over,
            outbox_max=self._outbox_max,
        )  # fmt: skip
        try:
            await carrying.start()
            await carrying.publish([] if self.service is None else self.service.publishes)
        except BaseException:
            await carrying.stop(0.0)
            raise
        self._carrying = carrying

    async def _is_scratch(self) -> bool:
        """A copy of history, in which what others have seen already is handled again: it is for nobody else."""
        if not await self.journal.notes("", SCRATCH):
            return False
        log.warning(
            "%s is a scratch journal: nothing of it goes to the broker, and nothing comes from there",
            without_password(self.journal.url),
        )
        return True

    async def _make_tables(self) -> None:
        """Of the services that this program speaks for, or handles commands of: they may want them before anything runs."""
        for service in [*([] if self.service is None else [self.service]), *self.commands]:
            if service.tables is not None:
                version, script = tables_script(service.tables)
                await self.journal.run_tables(service.name, version, script)

    async def _say_what_is_kept(self) -> None:
        """Of the channels of the service that this program speaks for, which nobody may run here."""
        if self.service is not None:
            keeps = self.service.keeps_by(self._retention)
            await self.journal.keep(self.service.name, keeps, self.clock.now_us())

    async def close(self) -> None:
        self._closed = True
        if not self._opened:
            return
        async with self._alone():
            if self._opened:
                self._opened = False  # before the first wait: who opens it from here on does so anew
                try:
                    await self._unheard.look()  # a script may be over before the background has had a look
                    if self._carrying is not None:
                        await self._carrying.stop(self.drain_s)
                    await self._lifespans.close()
                finally:
                    self._carrying = None
                    await self.journal.close()

    async def _at_first_use(self) -> None:
        if self._closed:
            raise SpineClosed(
                f"The spine of {without_password(self.journal.url)} is closed. Publish before it is, or open it again: "
                f"await spine.open(), or async with spine."
            )
        if not self._opened:
            await self.open()

    async def __aenter__(self) -> Self:
        self._inside += 1
        try:
            return await self.open()
        except BaseException:
            self._inside -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            await self.close()

    if not TYPE_CHECKING:  # a checker is to refuse it by itself

        def __enter__(self) -> NoReturn:
            raise TypeError(
                f"A {type(self).__name__} is entered with `async with`, inside of `async def`. For code that is not async there "
                f"is {self._instead}, with plain `with`."
            )

        def __exit__(self, *_: object) -> None:
            """Never called; but where it is missing Python has a word of its own, which names no way on."""

    # --- publishing -------------------------------------------------------------------------------------------------

    @overload
    async def publish(
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
    async def publish(
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

    async def publish(
        self,
        *events: Any,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
        id: str | UUID | None = None,
        within: Any = None,
    ) -> Receipt | list[Receipt]:
        """Publish facts: all of them, or none. Durable when this returns, except inside a handler (durable with its
        other effects) and `within=` a transaction of yours (durable when you commit).

        `time`: when it happened, if not now. `at`, `after`: publish later, never earlier. `id`: a UUID of your own, so
        that publishing the same event again answers with the first receipt. Raises EventRefused, UnknownPublisher,
        UnitFailed (it is too much to be stored as one), OutcomeUnknown (publish again with the same `id`) and
        JournalError; in all cases but the unknown nothing is stored."""
        due = due_us(self.clock, at, after)
        cause = current.get()
        if within is None and isinstance(cause, (Delivery, BatchDelivery)) and cause._open:
            if id is not None:
                raise EventRefused(
                    "id= is for publishing outside of handlers; inside one, ids derive from the delivery."
                )
            made = await self._join(cause, events, time, due)
        else:
            made = await self._publish(events, cause, time, due, id, within)
        return made[0] if len(events) == 1 else made

    async def _join(
        self,
        delivery: Delivery[Any] | BatchDelivery[Any],
        events: tuple[Any, ...],
        time: datetime | None,
        due: int | None,
    ) -> list[Receipt]:
        await self._at_first_use()
        refuse_other_journal(delivery, self.journal)
        return delivery._publish(events, delivery, time, due)

    async def _publish(
        self,
        events: tuple[Any, ...],
        cause: Cause | None,
        time: datetime | None,
        due: int | None,
        id: str | UUID | None,
        within: Any,
    ) -> list[Receipt]:
        records = self.records(events, cause=cause, time=time, id=id)
        unit = unit_of(records, due)
        if within is not None:
            return await self._publish_within(records, unit, due, within)
        if self._closed or not self._opened:  # asked here, and so below: most publishes need neither coroutine
            await self._at_first_use()
        for refuse in beside.get():
            refuse(self.journal)
        if self._carrying is not None:
            self._carrying.check_room()
        verdict = await self._committed(unit)
        if id is not None and verdict.kind == "repeated":
            await self._tell_of_another(describe_event(events[0]), records[0])
        wrote(records if due is None else ())
        if self._unheard.to_look_at:
            await self._look_soon()
        return receipts(records, verdict, due)

    async def _tell_of_another(self, kind: EventType, record: Record) -> None:
        """Where the first that was published under this id can't be the same fact. What it says of it is not compared: a later
        release, or a look at the same thing a moment later, may say it in other words."""
        with suppress(JournalError):  # what was asked for is done
            first = await self.journal.event(record.id)
            if first is None or (first.type in kind.names and first.key == record.key):
                return
            log.warning(
                "publish(id=%r): this id is that of %s with the key %r, so %s with the key %r was not stored. Give each event an id of "
                "its own.", id_text(record.id), first.type, first.key, record.type, record.key,
            )  # fmt: skip

    async def _publish_within(
        self, records: Sequence[Record], unit: Unit, due: int | None, within: Any
    ) -> list[Receipt]:
        with opening(within):
            await self._at_first_use()
        await write_async(carrier_of(within), self.journal, unit)
        wrote(records if due is None else ())
        await self._look_soon()
        return receipts(records, None, due)

    def records(
        self, events: Sequence[Any], *, cause: Cause | None, time: datetime | None, id: str | UUID | None
    ) -> list[Record]:
        publisher = self._may_publish()
        if not events:
            raise EventRefused("publish() was given no event.")
        if id is not None and len(events) != 1:
            raise EventRefused("id= names one event; publish the others without it, or one by one.")
        given = None if id is None else id_bytes(id)
        if given is not None and len(given) != 16:
            raise EventRefused(f"id={id!r:.100} is not a UUID.")
        if not self._around and given is None:
            return publisher.records(events, time=time, cause=cause)
        return [through(self._around, publisher, event, id=given, time=time, cause=cause) for event in events]

    def _may_publish(self) -> Publisher:
        if self._publisher is None:
            raise UnknownPublisher(
                "This spine speaks for no service, so it can't publish. Give it one: Spine(url, service=storefront)."
            )
        return self._publisher

    def _publisher_of(self, service: Service[Any]) -> Publisher:
        return Publisher(service.name, service.publishes, self.clock, self._ids, self._unheard.published, self._fits)

    async def _look_soon(self) -> None:
        """Whether anybody subscribes to what was published for the first time: in the background, for a notice."""
        if not self._unheard.to_look_at:
            return
        from asyncio import create_task

        look = create_task(self._unheard.look(), name="spine-unheard")
        self._unheard.asked = True  # once, by however many publish until it gets its turn
        self._looks.add(look)
        look.add_done_callback(self._looked)

    def _looked(self, look: asyncio.Task[None]) -> None:
        self._looks.discard(look)
        if look.cancelled():  # perhaps before it began
            self._unheard.asked = False

    async def _committed(self, unit: Unit) -> Verdict:
        """An unknown outcome is asked again, with the same ids, before the caller hears of it. Where the journal then fails
        to answer, it stays unknown: what was asked first may have been stored."""
        unknown = False
        for _ in range(UNKNOWN_TRIES):
            (verdict,) = await self.journal.commit([unit])
            if verdict.ok:
                return verdict
            if verdict.kind != "unknown":
                break
            unknown = True
        if verdict.kind == "unknown" or (unknown and isinstance(verdict.error, JournalError)):
            raise OutcomeUnknown(
                "The journal can't say whether this was stored; publish again with the same id=."
            ) from verdict.error
        raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")

    async def cancel(self, *published: Receipt) -> int:
        """Cancel events scheduled with `at=` or `after=`; how many were still to come."""
        for one in published:
            if not isinstance(one, Receipt):
                raise EventRefused(
                    f"cancel() takes the receipts that publish(..., at=) gave, and no {type(one).__name__}."
                )
        await self._at_first_use()
        verdict = await self._committed(Unit(cancels=[receipt.event_id for receipt in published]))
        return verdict.cancelled

    # --- running ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(
        self,
        *services: Service[Any],
        roll_back: bool = False,
        retire: Sequence[str] = (),
        drain_s: float | None = None,
    ) -> AsyncIterator[Running]:
        """Run these services until the block is left, then drain: nothing new is handed out, what is at work finishes
        within `drain_s` (30 seconds, or as the settings say), cursors are stored and leases given back. If the engine fails, the block is cancelled and
        the failure is raised."""
        check_services(services)
        check_commands([*self._owners(), *services])
        check_upcasters(services)
        await self._at_first_use()
        drain_s = self.drain_s if drain_s is None else drain_s
        async with at_work(self, services, roll_back, retire, drain_s) as running:
            yield running

    def _runtime(self) -> Runtime:
        from .engine.runtime import Runtime  # here, since who only publishes does without the engine

        return self._runtime_of(Runtime)

    def _runtime_of(self, kind: type[AnyRuntime]) -> AnyRuntime:
        return kind(
            self.journal,
            self.clock,
            self._ids,
            lease_s=self.lease_s,
            middleware=self.middleware,
            unheard=self._unheard,
            retention=self._retention,
            fits=self._fits,
        )

    def health(self) -> dict[str, Any]:
        """What runs here and how it is: `status` is "ok", "degraded", "failed" or "closed"; the rest says why."""
        from .engine.health import health

        found = health(self.journal, self._runtimes, self._carrying)
        if not self._opened and found["status"] == "ok":
            found["status"] = "closed"  # not open yet, or not any more
        return found


def _listed(commands: Any) -> Sequence[Service[Any]]:
    if isinstance(commands, Service):
        raise SettingsError(f"commands= is a list of services: commands=[{commands.name}].")
    return list(commands)


def _journal(given: str | Journal) -> Journal:
    if isinstance(given, str):
        return open_journal(given)
    check_journal(given)
    return given


def _broker(given: str | Broker | None) -> Broker | None:
    if isinstance(given, str):
        return open_broker(given)
    if given is not None:
        check_broker(given)
    return given


def _limit_of(broker: Broker) -> Callable[[Record], None]:
    from .brokers.limits import Limit

    return Limit(broker).check
