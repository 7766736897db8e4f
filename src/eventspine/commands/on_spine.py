"""What a spine does with commands: who handles them here, with which resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import NotHandled
from ..journal.port import Unit, Verdict
from ..within import beside

if TYPE_CHECKING:
    from ..clock import Clock
    from ..engine.runtime import Runtime
    from ..ids import IdSource
    from ..journal.port import Journal
    from ..publishing import Publisher
    from ..service import Middleware, Service
    from .declare import Command, CommandType
    from .deliveries import Desk
    from .handlers import CommandHandler
    from .lifespans import Lifespans
    from .sending import Sender, Turns

T = TypeVar("T")


class Commanding:
    """The part of a spine that is about commands."""

    if TYPE_CHECKING:
        clock: Clock
        journal: Journal
        service: Service[Any] | None
        commands: Sequence[Service[Any]]
        middleware: Sequence[Middleware]
        _around: Any
        _ids: IdSource
        _carrying: Any
        _runtimes: list[Runtime]

        async def _at_first_use(self) -> None: ...
        async def _committed(self, unit: Unit) -> Verdict: ...
        async def _look_soon(self) -> None: ...
        def _publisher_of(self, service: Service[Any]) -> Publisher: ...

    async def send(self, command: Command[T], /, *, command_id: str | None = None) -> T:
        """Have a command done by the one that handles it, and give what it is answered with. All that it changes is durable
        when this returns; when it raises, nothing of it has happened, but for OutcomeUnknown.

        What the handler raises is raised here: `Reject("why")`, or an error of its own. `command_id`: any text of the
        caller's, such as an Idempotency-Key; the same command sent again with it is not done again, and is answered with
        what the first was. Raises CommandRefused for values that the command can't have, CommandReused for an id that was
        another command's, NotHandled, and OutcomeUnknown (send it again with the id that it names)."""
        from .sending import send

        return await send(self, command, command_id)

    # --- inside -------------------------------------------------------------------------------------------------------

    @cached_property
    def _turns(self) -> Turns:
        from .sending import Turns

        return Turns()

    @cached_property
    def _sender(self) -> Sender:
        from .sending import Sender

        return Sender("" if self.service is None else self.service.name, (), self.clock, self._ids)

    @cached_property
    def _lifespans(self) -> Lifespans:
        from .lifespans import Lifespans

        return Lifespans()

    def _owners(self) -> Iterator[Service[Any]]:
        """The services whose commands are handled here, each once."""
        told = [] if self.service is None else [self.service]
        running = [host.service for runtime in self._runtimes for host in runtime.hosts]
        known = dict[str, Any]()
        for service in [*told, *self.commands, *running]:
            if known.setdefault(service.name, service) is service:
                yield service

    def _handler_of(self, kind: CommandType) -> tuple[CommandHandler, Service[Any]]:
        for service in self._owners():
            if kind.name in service.commands:
                return service.commands[kind.name], service
        raise NotHandled(
            f"Nobody here handles {kind.name}, which the context {kind.context!r} owns. Give this spine the service that has "
            f"@{kind.context}.command({kind.cls.__name__}): Spine(url, service={kind.context}), or commands=[{kind.context}] beside the "
            "one that it speaks for. Commands are not carried to another process yet.",
            type=kind.name,
        )

    async def _desk(self, handler: CommandHandler, service: Service[Any]) -> Desk:
        from .deliveries import Desk

        around = (*self.middleware, *service.middleware)
        resources = await self._resources(service)
        return Desk(handler, self.journal, self.clock, self._publisher_of(service), around, resources)

    async def _resources(self, service: Service[Any]) -> Any:
        for runtime in self._runtimes:
            for host in runtime.hosts:
                if host.service.name == service.name and host.started:
                    return host.resources
        return None if service.lifespan is None else await self._lifespans.of(service)

    async def _store(self, unit: Unit) -> Verdict:
        for refuse in beside.get():
            refuse(self.journal)
        if self._carrying is not None and unit.appends:
            self._carrying.check_room()
        verdict = await self._committed(unit)
        await self._look_soon()
        return verdict
