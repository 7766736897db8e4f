"""What a spine does with aggregates and commands, for the service that it speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UnknownPublisher
from ..journal.port import Unit
from ..observe.correlation import Cause, current
from ..observe.seen import published
from ..publishing import Receipt, Speaker, receipts
from ..within import beside, carrier_of, opening, write_async

if TYPE_CHECKING:
    from ..journal.port import Journal, Record, Verdict
    from ..service import Service
    from .aggregate import Aggregate, Identity
    from .commands import Command
    from .sending import Sender

    A = TypeVar("A", bound=Aggregate)
else:
    A = TypeVar("A")
T = TypeVar("T")


class State:
    """The part of a spine that is about aggregates and commands."""

    if TYPE_CHECKING:
        journal: Journal
        _publisher: Any
        _around: Any

        async def _at_first_use(self) -> None: ...
        async def _committed(self, unit: Unit) -> Verdict: ...
        async def _look_soon(self) -> None: ...

    _sender: Sender | None = None  # made with the first command

    # --- aggregates -------------------------------------------------------------------------------------------------

    async def load(
        self,
        aggregate: type[A],
        id: Identity,
        /,
        *,
        at_version: int | None = None,
        at_position: int | None = None,
        at: datetime | None = None,
    ) -> A:
        """The aggregate of the service that this spine speaks for. Raises NoSuchAggregate when it has no events. With
        `at_version`, `at_position` or `at` (a time): as it was, to look at."""
        from .streams import AsOf, load

        speaker = self._speaker()
        await self._at_first_use()
        return await load(self.journal, speaker.service, aggregate, id, AsOf(at_version, at_position, at))

    async def load_or_new(self, aggregate: type[A], id: Identity, /) -> A:
        """The aggregate; new, at version 0, where it has no events."""
        from .streams import load_or_new

        speaker = self._speaker()
        await self._at_first_use()
        return await load_or_new(self.journal, speaker.service, aggregate, id)

    async def save(self, *aggregates: Aggregate, within: Any = None) -> list[Receipt]:
        """Store what these have recorded: all, or nothing. Raises Conflict when one of them has been saved by somebody
        else since it was loaded: load it again, and decide again. Inside a handler it is stored with the handler's
        other effects, with `within=` in a transaction of yours; else it is durable when this returns."""
        from ..delivery import Delivery

        cause = current.get()
        if within is None and isinstance(cause, Delivery) and cause._open:
            await self._at_first_use()
            cause._refuse_other_journal(self.journal)
            return cause.save(*aggregates)
        unit, records = self._unit_of(aggregates, cause)
        with opening(within):
            await self._at_first_use()
        verdict = await self._stored(unit, within)
        self._have_saved(aggregates)
        await self._look_soon()
        made = receipts(records, verdict, None)
        if (request := published.get()) is not None:
            request.note(made)
        return made

    def _unit_of(self, aggregates: Sequence[Aggregate], cause: Cause | None) -> tuple[Unit, list[Record]]:
        from . import saving

        saving.check(aggregates)
        unit, speaker, records = Unit(), self._speaker(), []
        for one in aggregates:
            records += saving.add(unit, one, speaker, cause, lambda: None)
        return unit, records

    async def _stored(self, unit: Unit, within: Any) -> Verdict | None:
        if not unit.appends:
            return None
        if within is not None:
            await write_async(carrier_of(within), self.journal, unit)
            return None
        for refuse in beside.get():
            refuse(self.journal)
        return await self._committed(unit)

    def _have_saved(self, aggregates: Sequence[Aggregate]) -> None:
        from .saving import saved

        for one in aggregates:
            saved(one)

    def _speaker(self) -> Speaker:
        """Whose streams these are."""
        if self._publisher is None:
            raise UnknownPublisher(
                "This spine speaks for no service, so it has no aggregates. Give it one: Spine(url, service=bank)."
            )
        return Speaker(self._publisher, self._around)

    # --- commands ---------------------------------------------------------------------------------------------------

    async def send(self, command: Command[T], /, *, id: str | None = None, within: Any = None) -> T:
        """Have the command handled by the service that owns it, here in this process, and give its result.

        What it changed is durable when this returns, except `within=` a transaction of yours. Raises Refused, or what
        the handler raised; then nothing has changed. `id`: an idempotency key of your own, any text: the same command
        sent again with it is answered with the first result, and changes nothing. Raises OutcomeUnknown when nobody can
        say whether it was stored: send it again, with an id."""
        return await self._sending().send(command, id, within)

    def _sending(self) -> Sender:
        if self._sender is None:
            from .sending import Sender

            self._sender = Sender(self)
        return self._sender

    def _services_here(self) -> list[Service[Any]]:
        """Those that can handle a command in this process."""
        raise NotImplementedError


ANSWERS_KEPT = timedelta(days=7)
