"""Aggregates inside a handler: loaded as committed, saved in the unit of the delivery.

`load` gives the same object each time it is asked for the same aggregate, so that what this handler has recorded is seen
by the rest of it. `save` only adds to the unit, as `publish` does. Where somebody else has saved the aggregate meanwhile,
the unit is in conflict: nothing of it is stored, and the handler is called again. A handler that returns without having
saved what it recorded has failed: it would be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from typing import Unpack

    from ..engine.subscription import Subscription
    from ..journal.port import Unit
    from ..observe.correlation import Cause
    from ..publishing import Receipt
    from .aggregate import Aggregate, Identity
    from .streams import AsOf, At

    A = TypeVar("A", bound=Aggregate)
else:
    A = TypeVar("A")


class Handling:
    """The part of a delivery that is about aggregates."""

    _aggregates: dict[tuple[type, str], Aggregate] | None = None  # made when the first is loaded or saved

    if TYPE_CHECKING:
        _subscription: Subscription

        @property
        def handler(self) -> str: ...
        def _changeable(self) -> Unit: ...
        def _next_id(self) -> bytes: ...

    async def load(self, aggregate: type[A], id: Identity, /, **at: Unpack[At]) -> A:
        """The aggregate, with all that is committed. Raises NoSuchAggregate when it has no events. With `at_version`,
        `at_position` or `at` (a time): as it was, to look at."""
        from .streams import AsOf, load

        return await self._loaded(load, aggregate, id, AsOf.of(**at))

    async def load_or_new(self, aggregate: type[A], id: Identity, /) -> A:
        """The aggregate; new, at version 0, where it has no events. Of two that make the same one, one is in conflict
        and is tried again; then it is there."""
        from .streams import AsOf, load_or_new

        return await self._loaded(load_or_new, aggregate, id, AsOf())

    async def _loaded(self, load: Any, aggregate: type[A], id: Identity, as_of: AsOf) -> A:
        from .aggregate import id_of

        self._changeable()
        subscription, place = self._subscription, (aggregate, id_of(id))
        known = (self._aggregates or {}).get(place)
        if known is not None and as_of.is_now:
            return cast("A", known)
        found: A = await load(subscription.journal, subscription.speaker.service, aggregate, id, as_of)
        if as_of.is_now:
            self._keep(found)
        return found

    def save(self, *aggregates: Aggregate) -> list[Receipt]:
        """Add what these have recorded to the unit, at the versions at which they were loaded."""
        from ..publishing import receipts
        from . import saving

        saving.check(aggregates)
        unit, cause = self._changeable(), cast("Cause", self)
        records = []
        for one in aggregates:
            records += saving.add(unit, one, self._subscription.speaker, cause, self._next_id)
            saving.saved(one)
            self._keep(one)
        return receipts(records, None, None)

    def _keep(self, aggregate: Aggregate) -> None:
        if self._aggregates is None:
            self._aggregates = {}
        self._aggregates[type(aggregate), aggregate.id] = aggregate

    def _refuse_unsaved(self) -> None:
        from .saving import refuse_unsaved

        refuse_unsaved(self.handler, list((self._aggregates or {}).values()))
