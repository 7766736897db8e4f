"""What a spine does with aggregates, for the service that it speaks for, and how it reads views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar

from ..delivery import Delivery, refuse_other_journal
from ..errors import UnknownPublisher
from ..journal.port import Unit
from ..observe.correlation import Cause, current
from ..observe.written import wrote
from ..publishing import Publisher, Receipt, Speaker, receipts
from ..within import beside, carrier_of, opening, write_async

if TYPE_CHECKING:
    from typing import Unpack

    from ..clock import Clock
    from ..journal.port import Journal, Note, Record, StreamCut, Verdict
    from .aggregate import Aggregate, Identity
    from .changing import Changed
    from .reading import ViewReader
    from .streams import At

    A = TypeVar("A", bound=Aggregate)
else:
    A = TypeVar("A")
V = TypeVar("V")


class State:
    """The part of a spine that is about aggregates and views."""

    if TYPE_CHECKING:
        clock: Clock
        journal: Journal
        _publisher: Publisher | None
        _around: Any
        _carrying: Any

        async def _at_first_use(self) -> None: ...
        async def _committed(self, unit: Unit) -> Verdict: ...
        async def _look_soon(self) -> None: ...

    async def load(self, aggregate: type[A], id: Identity, /, **at: Unpack[At]) -> A:
        """The aggregate of the service that this spine speaks for. Raises NoSuchAggregate when it has no events. With
        `at_version`, `at_position` or `at` (a time): as it was, to look at."""
        from .streams import AsOf, load_here

        speaker = self._speaker()
        await self._at_first_use()
        return await load_here(self.journal, speaker.service, aggregate, id, AsOf.of(**at))

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
        cause = current.get()
        if within is None and isinstance(cause, Delivery) and cause._open:
            await self._at_first_use()
            refuse_other_journal(cause, self.journal)
            return cause.save(*aggregates)
        if within is None:
            await self._at_first_use()
        else:
            with opening(within):
                await self._at_first_use()
        return await self._save(aggregates, cause, (), within)

    async def change(
        self,
        aggregate: type[A],
        id: Identity,
        decide: Callable[[A], Any],
        /,
        *,
        new: bool = False,
        command_id: str | None = None,
    ) -> Changed[A]:
        """A command: load the aggregate, have `decide` call its methods, save it. After a conflict all of it is done
        again, as often as the class says with `conflict_tries=`, so `decide` has no effects but on the aggregate. What it
        raises is raised, and then nothing has changed.

        `new`: it may have no events yet. `command_id`: any text of the caller's; the same command sent again with it
        changes nothing, and is answered with what it did the first time."""
        from .changing import Changing

        changing = Changing(self, aggregate, id, new, command_id)
        while (found := await changing.load()) is not None:
            decided = decide(found)
            if isawaitable(decided):
                await decided
            await changing.save(found)
        return changing.changed

    async def delete_stream(self, aggregate: type[A], id: Identity, /) -> StreamCut:
        """Delete all events of this aggregate, for good. Its stream goes on with one private event that says so, so that
        its id is not used again and loading it raises StreamDeleted. Raises StreamNeeded, and nothing has changed, while a
        subscription or view has not come past one of its events, or a delivery of one is parked, dead or held.

        It commits by itself, also inside a handler; asked again, it goes on where it was interrupted."""
        from .deleting import delete_stream
        from .shapes import shape_of

        service = await self._by_itself()
        return await delete_stream(self.journal, self.clock, service, shape_of(aggregate).stream(aggregate(id).id))

    async def truncate_stream(self, aggregate: type[A], id: Identity, /, *, before: int) -> StreamCut:
        """Delete its events before this version, whose event says all that they have come to: applied alone it has to make
        the same aggregate, or nothing is deleted. Raises StreamNeeded as `delete_stream` does."""
        from .deleting import truncate_stream

        return await truncate_stream(self.journal, await self._by_itself(), aggregate, id, before)

    async def _by_itself(self) -> str:
        """For what commits by itself: the service that this spine speaks for."""
        speaker = self._speaker()
        await self._at_first_use()
        for refuse in beside.get():
            refuse(self.journal)
        return speaker.service

    def view(self, view: type[V], *, tenant: Any = None) -> ViewReader[V]:
        """What a projection has made of the events so far; of one tenant's rows, where the view has tenants."""
        from .reading import ViewReader

        return ViewReader(self, view, tenant)

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _save(
        self, aggregates: Sequence[Aggregate], cause: Cause | None, notes: Sequence[Note], within: Any = None
    ) -> list[Receipt]:
        unit, records = self._unit_of(aggregates, cause)
        unit.notes += notes
        verdict = await self._stored(unit, within)
        wrote(records)
        for one in aggregates:
            _saving().saved(one)
        await self._look_soon()
        return receipts(records, verdict, None)

    def _unit_of(self, aggregates: Sequence[Aggregate], cause: Cause | None) -> tuple[Unit, list[Record]]:
        saving = _saving()
        saving.check(aggregates)
        unit, speaker = Unit(), self._speaker()
        records: list[Record] = []
        for one in aggregates:
            records += saving.add(unit, one, speaker, cause, None)
        return unit, records

    async def _stored(self, unit: Unit, within: Any) -> Verdict | None:
        if not unit.appends and not unit.notes:
            return None
        if within is not None:
            await write_async(carrier_of(within), self.journal, unit)
            return None
        for refuse in beside.get():
            refuse(self.journal)
        if self._carrying is not None:
            self._carrying.check_room()
        return await self._committed(unit)

    def _speaker(self) -> Speaker:
        """Whose streams these are."""
        if self._publisher is None:
            raise UnknownPublisher(
                "This spine speaks for no service, so it has no aggregates. Give it one: Spine(url, service=bank)."
            )
        return Speaker(self._publisher, self._around)


@cache
def _saving() -> Any:
    """When it is used: who only publishes does without aggregates, and a save needs not look it up each time."""
    from . import saving

    return saving
