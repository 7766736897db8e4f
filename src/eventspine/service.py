"""A service: an object that holds declarations. Running it is someone else's job.

inventory = Service("inventory", tables="inventory.sql")

@inventory.on(OrderPlaced)
async def reserve_stock(event: OrderPlaced, delivery: Delivery) -> StockReserved: ...
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, overload

from .annotations import positional, returns_event
from .declared import (
    CONCURRENCY,
    check_handler,
    check_handler_name,
    check_options,
    check_part,
    check_retention,
    check_service,
    check_types,
    retention_of,
)
from .decorators import (
    BatchDecorator,
    Decorator,
    HandlerOptions,
    Order,
    PeriodicDecorator,
    PeriodicOptions,
    ProjectionDecorator,
)
from .errors import DeclarationError, SettingsError
from .events import EventType, check_chain, describe
from .journal.port import SubscriptionDeclaration
from .policies import Batch, Policies, Retry
from .wording import plural

if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault

    from .commands.handlers import CommandDecorator, CommandHandler, CommandOptions
    from .foreign import Decoder, Foreign
    from .periodic import TickType
    from .schedules import Missed, Schedule
    from .state.projections import Projection, ProjectionOptions

if TYPE_CHECKING:
    R = WithDefault("R", default=None)  # a service without a lifespan has no resources
else:
    R = TypeVar("R")
E = TypeVar("E")
V = TypeVar("V")
C = TypeVar("C")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
T = TypeVar("T")
TICKS_KEPT = timedelta(days=7)  # what came of a run is said by its deliveries and events, which are kept as they are
Tables = str | Callable[[Any], None]


@dataclass(frozen=True)
class Handler:
    """A declared handler. The subscription's stored name is `<service>.<name>`."""

    name: str
    function: Callable[..., Any]
    types: tuple[EventType, ...] | tuple[TickType, ...]
    renamed_from: str | None = None
    start: Literal["earliest", "now"] | datetime | None = None
    retry: Retry = field(default_factory=Retry)
    errors: Policies = field(default_factory=dict)
    on_dead: Literal["goes_on", "waits"] = "goes_on"
    order: Order = "key"
    concurrency: int = CONCURRENCY
    timeout_s: float = 60.0
    replayable: bool = False
    batch: Batch | None = None
    schedule: Schedule | None = None  # of a periodic handler
    missed: Missed = "once"
    projection: Projection | None = None  # of one that keeps a view

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property  # a signature takes longer than most handlers do
    def wants_delivery(self) -> bool:
        return len(positional(self.function)) == 2

    @cached_property  # at the first use: by then, what an annotation names is there
    def returns_event(self) -> bool:
        return returns_event(self.function)

    def declaration(self, service: str, start: Literal["earliest", "now"] | int | None) -> SubscriptionDeclaration:
        return SubscriptionDeclaration(
            name=f"{service}.{self.name}",
            channels=tuple(sorted({event_type.context for event_type in self.types})),
            types=tuple(
                sorted(
                    (name, kind.version if kind.version_declared else None)
                    for kind in self.types
                    for name in kind.names
                )
            ),
            order=self.order,
            on_dead=self.on_dead,
            start=start,
            renamed_from=f"{service}.{self.renamed_from}" if self.renamed_from else None,
            extra=self._extra(),
        )

    def _extra(self) -> str:
        if self.schedule is not None:
            return f"{self.schedule.spec} missed={self.missed}"
        return "replayable" if self.replayable else ""


class Service(Generic[R]):
    """Handlers that are deployed together.

    `publishes` names the contexts whose events this service may publish: its own name's by default. `tables` is the
    service's schema: a file of SQL (relative to the module that calls this), or a function that is given the
    connection; it runs once per version, before the first delivery. `lifespan` yields the service's resources, one
    object per process, typed at `delivery.resources`. `errors` is the fallback of every handler's own. `retention` says
    for how long events are kept, of all contexts that it publishes or by their names; for ever unless it does.
    """

    def __init__(
        self,
        name: str,
        *,
        publishes: str | Sequence[str] | None = None,
        tables: Tables | None = None,
        lifespan: Callable[[], AbstractAsyncContextManager[R]] | None = None,
        errors: Policies | None = None,
        middleware: Sequence[Middleware] = (),
        retention: timedelta | Mapping[str, timedelta | None] | None = None,
    ) -> None:
        check_service(name, publishes, tables, lifespan, errors, middleware)
        check_retention(name, retention)
        self.name = name
        self.publishes = (
            (name,) if publishes is None else (publishes,) if isinstance(publishes, str) else tuple(publishes)
        )
        self.tables = _beside_caller(tables)
        self.lifespan = lifespan
        self.errors: Policies = dict(errors or {})
        self.middleware = tuple(middleware)
        self.retention = retention_of(name, retention, self.publishes)
        self.handlers: dict[str, Handler] = {}
        self.commands: dict[str, CommandHandler] = {}  # by the command's type
        self.decoders: dict[str, Decoder] = {}  # by channel
        self.parts: list[Service[Any]] = []  # what it has included, and what that had
        self.part_of: Service[Any] | None = None  # which has included this one

    @property
    def keeps(self) -> dict[str, int | None]:
        """For how long (microseconds) it has each of its contexts' events kept, and its ticks; None: for ever."""
        kept = {name: _us(self.retention.get(name)) for name in self.publishes}
        ticks = {kind.context for one in self.handlers.values() if one.schedule is not None for kind in one.types}
        return kept | dict.fromkeys(ticks, _us(TICKS_KEPT))

    def keeps_by(self, settings: Mapping[str, timedelta | None]) -> dict[str, int | None]:
        """The same where these settings (by channel; "*": where code says nothing) come before what code says."""
        keeps = self.keeps
        for channel in self.publishes:
            word = "*" if channel not in settings and channel not in self.retention else channel
            if word in settings:
                keeps[channel] = _us(settings[word])
        return keeps

    def __repr__(self) -> str:
        return f"Service({self.name!r}, {plural(len(self.handlers), 'handler')})"

    @overload
    def on(self, t1: type[E1], /, *, batch: Batch, **options: Unpack[HandlerOptions]) -> BatchDecorator[E1, R]: ...
    @overload
    def on(
        self, t1: type[E1], t2: type[E2], /, *, batch: Batch, **options: Unpack[HandlerOptions]
    ) -> BatchDecorator[E1 | E2, R]: ...
    @overload
    def on(self, t1: type[E1], /, **options: Unpack[HandlerOptions]) -> Decorator[E1, R]: ...
    @overload
    def on(self, t1: type[E1], t2: type[E2], /, **options: Unpack[HandlerOptions]) -> Decorator[E1 | E2, R]: ...
    @overload
    def on(
        self, t1: type[E1], t2: type[E2], t3: type[E3], /, **options: Unpack[HandlerOptions]
    ) -> Decorator[E1 | E2 | E3, R]: ...
    @overload
    def on(
        self, t1: type[E1], t2: type[E2], t3: type[E3], t4: type[E4], /, **options: Unpack[HandlerOptions]
    ) -> Decorator[E1 | E2 | E3 | E4, R]: ...
    @overload
    def on(self, *types: type[Any], **options: Unpack[HandlerOptions]) -> Decorator[Any, R]: ...

    def on(self, *types: type[Any], batch: Batch | None = None, **options: Unpack[HandlerOptions]) -> Any:
        """Declare a handler of these event types."""
        check_types(self.name, types)

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            self._add(_handler(self, function, types, batch, options))
            return function

        return declare

    def every(
        self,
        interval: timedelta | None = None,
        /,
        *,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        missed: Missed = "once",
        **options: Unpack[PeriodicOptions],
    ) -> PeriodicDecorator[R]:
        """Declare a periodic handler: run once per interval, in one process of this service, at multiples of the
        interval since 1970 UTC. `missed` says what becomes of runs whose time passed while nobody could run them."""
        from .schedules import every

        units = {"weeks": weeks, "days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
        # First, so that `minute=5` is told as unknown, and not as an interval of 0.
        check_options(f"{self.name}.every", options, PeriodicOptions, (*units, "missed"))
        return self._periodic("every", every(self.name, interval, units), missed, options)

    def cron(
        self, line: str, /, *, zone: str = "UTC", missed: Missed = "once", **options: Unpack[PeriodicOptions]
    ) -> PeriodicDecorator[R]:
        """Declare a periodic handler: run at the times of a cron line in a time zone, in one process of this service."""
        from .schedules import cron

        return self._periodic("cron", cron(self.name, line, zone), missed, options)

    def _periodic(
        self, word: str, schedule: Schedule, missed: Missed, options: PeriodicOptions
    ) -> PeriodicDecorator[R]:
        from .periodic import taking_ticks
        from .schedules import check_missed

        check_missed(f"@{self.name}.{word}", missed)

        def declare(function: Callable[..., Any]) -> Callable[..., Any]:
            check_options(_where(self, function), options, PeriodicOptions, ("missed",))
            name = check_handler_name(self.name, options.get("name"), function, word)
            taking = taking_ticks(f"{self.name}.{name}", function)
            given: dict[str, Any] = {**options, "name": name, "function": taking, "types": (), "concurrency": 1}
            handler = Handler(**given, schedule=schedule, missed=missed)
            check_handler(handler, self.name)
            self._add(handler)
            return function

        return cast("PeriodicDecorator[R]", declare)

    @overload
    def projection(
        self, view: type[V], t1: type[E1], /, **options: Unpack[ProjectionOptions]
    ) -> ProjectionDecorator[V, E1]: ...
    @overload
    def projection(
        self, view: type[V], t1: type[E1], t2: type[E2], /, **options: Unpack[ProjectionOptions]
    ) -> ProjectionDecorator[V, E1 | E2]: ...
    @overload
    def projection(
        self, view: type[V], /, *types: type[Any], **options: Unpack[ProjectionOptions]
    ) -> ProjectionDecorator[V, Any]: ...

    def projection(self, view: type[Any], /, *types: type[Any], **options: Unpack[ProjectionOptions]) -> Any:
        """Declare what keeps a view: a plain function that changes rows of it, event by event, from the first there was."""
        from .state.projections import declare  # here, since a service without views does without them

        check_types(self.name, types, "projection")

        def declaring(function: Callable[..., Any]) -> Callable[..., Any]:
            self._add(declare(self, view, types, function, options))
            return function

        return declaring

    def command(self, command: type[C], /, **options: Unpack[CommandOptions]) -> CommandDecorator[C, R]:
        """Declare the one handler of this command: it returns what the command is answered with, or raises why not."""
        from .commands.handlers import declare  # here, since a service without commands does without them

        return cast("CommandDecorator[C, R]", declare(self, command, options))

    def decoder(
        self, channel: str, /, *, id: Callable[[Foreign], str] | None = None
    ) -> Callable[[Callable[[Foreign], T]], Callable[[Foreign], T]]:
        """Declare how messages of this channel are read that are no CloudEvents: the function returns an event of the
        channel, or None where the message is not wanted. `id` names what the producer has made unique about it; without it
        the event's id follows from the message's place, on brokers that have places."""
        from .foreign import check_channel, decoder_of

        check_channel(self.name, channel)  # here, since `@service.decoder` without parentheses gets no further

        def declare(function: Callable[[Foreign], T]) -> Callable[[Foreign], T]:
            if channel in self.decoders:
                raise DeclarationError(f"The service {self.name!r} has a decoder of {channel!r} already.")
            self.refuse_late(f"the decoder of {channel!r}")
            self.decoders[channel] = decoder_of(self.name, channel, function, id)
            return function

        return declare

    def include(self, other: Service[Any]) -> None:
        """Take over the handlers, those of commands too, and the decoders of another module's `Service` object, as if they were declared here.

        That object is a part of this service from here on: it has its handlers already, and nothing else of its own."""
        given: Any = other
        if not isinstance(given, Service) or given is self:
            raise DeclarationError(
                f"{self.name}.include(...) takes another Service, made by another module, not {given!r}."
            )
        check_part(self, other)
        for handler in other.handlers.values():
            self._add(handler)
        if other.commands:
            from .commands.handlers import add

            for command in other.commands.values():
                add(self, replace(command, service=self.name))
        for decoder in other.decoders.values():
            self.decoder(decoder.channel, id=decoder.id)(decoder.function)
        other.part_of = self
        self.parts += (other, *other.parts)

    def refuse_late(self, what: str) -> None:
        """Whoever has included this one would not have it, and nobody would say so."""
        if self.part_of is not None:
            raise DeclarationError(
                f"{what} of {self.name!r} comes too late: {self.part_of.name!r} has included that Service already. Write "
                "include(...) below all that it declares."
            )

    def _add(self, handler: Handler) -> None:
        self.refuse_late(f"the handler {handler.name!r}")
        if handler.name in self.handlers:
            raise DeclarationError(
                f"The service {self.name!r} has a handler named {handler.name!r} already; give one of them name='...'."
            )
        if handler.schedule is not None:
            from .periodic import tick_types

            handler = replace(handler, types=tick_types(self.name, handler.name, handler.renamed_from))
        self.handlers[handler.name] = handler


class Middleware:
    """Around publishing and handling; subclass and override one or both. Innermost is last in the list."""

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Around one attempt. Raising fails the attempt. When `proceed` returns, what the handler
        returned has been added to the unit."""
        return await proceed()

    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        """Around the making of one record. `attributes` are further CloudEvents attributes to travel with it."""
        return proceed()


def _handler(
    service: Service[Any],
    function: Callable[..., Any],
    types: tuple[type[Any], ...],
    batch: Batch | None,
    options: HandlerOptions,
) -> Handler:
    check_options(_where(service, function), options, HandlerOptions, ("batch",))
    name = check_handler_name(service.name, options.get("name"), function)
    described = tuple(describe(cls) for cls in types)
    names = [name for kind in described for name in kind.names]
    if len(set(names)) < len(names):
        raise DeclarationError(
            f"{service.name}.{name}: two of its classes stand for one event type; a handler reads each type one way."
        )
    handler = Handler(**{**options, "name": name, "function": function, "types": described, "batch": batch})  # type: ignore[arg-type]  # a TypedDict spread loses its types
    check_handler(handler, service.name)
    return handler


def _where(service: Service[Any], function: Any) -> str:
    return f"{service.name}.{getattr(function, '__name__', function)}"


def _us(kept: timedelta | None) -> int | None:
    return None if kept is None else kept // timedelta(microseconds=1)


def _beside_caller(tables: Tables | None) -> Tables | None:
    """A relative file of SQL is looked for beside the module that makes the service."""
    if not isinstance(tables, str):
        return tables
    from pathlib import Path

    module_file = sys._getframe(2).f_globals.get("__file__")
    path = Path(tables) if module_file is None else Path(module_file).parent / tables
    if not path.is_file():
        raise DeclarationError(f"tables={tables!r}: there is no file {path}. Write it, or pass a function.")
    return str(path)


def tables_script(tables: Tables) -> tuple[str, str | Callable[[Any], None]]:
    """Its version, which says whether it has run, and what to run."""
    from hashlib import blake2b
    from pathlib import Path

    from .journal._sql_tables import ScriptFile

    if isinstance(tables, str):
        script = ScriptFile(Path(tables).read_text(encoding="utf-8"))
        script.path = tables
        return blake2b(script.encode(), digest_size=8).hexdigest(), script
    return cast("Mapping[str, str]", vars(tables)).get("version", tables.__qualname__), tables


def check_services(services: Sequence[Any]) -> None:
    """That these are services, and that each is there once."""
    names = list[str]()
    for service in services:
        if not isinstance(service, Service):
            raise SettingsError(f"{service!r} is no service. Pass the object that Service(...) made.")
        if service.name in names:
            raise SettingsError(
                f"Two services named {service.name!r} are to run beside each other. Pass the same one once; join two objects "
                f"of one service with service.include(...)."
            )
        names.append(service.name)
    check_commands(services)


def wholes(services: Sequence[Service[Any]]) -> list[Service[Any]]:
    """Without those that another of them has included, and runs."""
    parts = {id(part) for service in services for part in service.parts}
    return [service for service in services if id(service) not in parts]


def check_commands(services: Sequence[Service[Any]]) -> None:
    """That each command has one handler among these services."""
    if any(service.commands for service in services):
        from .commands.handlers import check_owners

        check_owners(services)


def check_upcasters(services: Sequence[Service[Any]]) -> None:
    """That the events which they handle can be read in all their versions: found at the start, not at the first of them."""
    for service in services:
        for handler in service.handlers.values():
            for kind in handler.types:
                if isinstance(kind, EventType):
                    check_chain(kind)
