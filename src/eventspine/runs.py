"""What a batch handler may take beside its events: one unit for the run, an outcome and a delivery for each event."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic

from .delivery import Delivery, R
from .errors import DeclarationError, Reject, SpineError
from .journal.port import Statement, Unit
from .observe.correlation import Cause
from .publishing import Receipt
from .writing import Writing

if TYPE_CHECKING:
    from .engine.subscription import Subscription


class RunDelivery(Delivery[R]):
    """One event of a run. What it changes goes into the run's unit, if this event is done."""

    __slots__ = ()

    def join(self, within: Any, result: Any = None) -> Any:
        raise SpineError(f"{self.handler} handles a run of events as one unit; one of them can't join a connection.")

    def transaction(self) -> AbstractAsyncContextManager[Writing]:  # type: ignore[override]  # refused before it is one
        raise SpineError(f"{self.handler} handles a run of events as one unit; one of them can't have a transaction.")

    async def _loaded(self, *_: Any) -> Any:
        raise SpineError(f"{self.handler} handles a run of events as one unit; one of them can't load aggregates.")

    def save(self, *_: Any) -> list[Receipt]:
        raise SpineError(f"{self.handler} handles a run of events as one unit; one of them can't save aggregates.")

    def _move_to(self, unit: Unit) -> None:
        own, self._unit = self._unit, None
        if own is not None and own is not unit:
            unit.appends.extend(own.appends)
            unit.statements.extend(own.statements)
            unit.timers.extend(own.timers)
            unit.notes.extend(own.notes)


class BatchDelivery(Cause, Generic[R]):
    """What a batch handler may take as its second argument: one unit for the run, an outcome per event.

    Without a word every event is done. `retry` and `dead` say otherwise for one event; those after it in its key
    are then handled again."""

    __slots__ = ("_first", "_items", "_made", "_open", "_outcomes", "_subscription", "_unit")

    def __init__(self, subscription: Subscription, events: Sequence[Any], items: Sequence[Any]) -> None:
        super().__init__("", handler=subscription.name)
        self._subscription = subscription
        self._items = dict(zip(map(id, events), items, strict=True))
        self._made: dict[int, RunDelivery[R]] = {}  # of events that somebody has asked for
        self._open = True
        self._outcomes: dict[int, BaseException] = {}
        self._unit = Unit()
        self._first = self.of(events[0])

    def of(self, event: Any) -> RunDelivery[R]:
        """The delivery of one event of this run: its key, id, attempt, idempotency key."""
        found = self._made.get(id(event))
        if found is None:
            item = self._items.get(id(event))
            if item is None:
                raise SpineError("This object is not an event of this run; pass the very object from the list.")
            found = self._made[id(event)] = RunDelivery(self._subscription, item, item.record)
            found._open = self._open
        return found

    @property
    def resources(self) -> R:
        return self._first.resources

    def retry(self, event: Any, error: BaseException) -> None:
        """This event failed with `error`; the rest of the run did not."""
        self.of(event)
        if not isinstance(error, BaseException):  # with None it would pass for done
            raise DeclarationError(
                f"{self.handler}: delivery.retry(event, error) takes the error, as it would be raised. This is {error!r}."
            )
        self._outcomes[id(event)] = error

    def dead(self, event: Any, reason: str) -> None:
        """This event will never be handled."""
        self.retry(event, Reject(reason))

    def execute(self, sql: str, *, expect_rows: int | None = None, **parameters: Any) -> None:
        """Run this SQL in the run's unit, unless no event of the run is done."""
        self._first._changeable()
        self._unit.statements.append(Statement(sql, parameters, expect_rows))

    def publish(self, *events: Any, cause: Any, time: datetime | None = None) -> list[Receipt]:
        """Publish in the run's unit; `cause` is the event of this run that it answers."""
        causing = self.of(cause)
        return causing._publish(events, causing, time, None)

    def _publish(self, *_: Any) -> list[Receipt]:
        raise SpineError(
            f"{self.handler} handles a run of events, and a published event must name the one that caused it: use "
            f"delivery.publish(event, cause=...)."
        )

    async def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        return await self._first.query(sql, **parameters)

    # --- for the engine -----------------------------------------------------------------------------------------

    def _move(self, event: Any) -> None:
        """What belongs to this event, into the unit of the run."""
        made = self._made.get(id(event))
        if made is not None:
            made._move_to(self._unit)

    def _move_all(self, events: Sequence[Any]) -> None:
        for event in events if len(self._made) > 1 else events[:1]:  # the first is always made
            self._move(event)

    def _close(self) -> None:
        self._open = False
        for made in self._made.values():
            made._open = False
