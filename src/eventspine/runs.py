"""What a batch handler may take beside its events: one unit for the run, an outcome and a delivery for each event."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic

from .delivery import Delivery, R
from .errors import DeclarationError, Reject, SpineError
from .ids import id_text
from .journal.port import Statement, Unit
from .observe.correlation import Cause
from .publishing import Receipt
from .writing import Writing, statement

if TYPE_CHECKING:
    from .engine.subscription import Subscription


def _not_of_a_run(handler: str, what: str) -> DeclarationError:
    return DeclarationError(
        f"{handler} handles a run of events as one unit, and can't {what}, for the run or for one event of it. It has "
        "delivery.query(...), execute(...) and publish(..., cause=event); for more, leave batch= out."
    )


def refuse_returned(delivery: BatchDelivery[Any], result: object) -> None:
    if result is not None:
        raise DeclarationError(
            f"{delivery.handler} is a batch handler and returned {type(result).__name__}. A published event must name its cause: "
            "delivery.publish(event, cause=...)."
        )


class RunDelivery(Delivery[R]):
    """One event of a run. What it changes goes into the run's unit, if this event is done."""

    __slots__ = ()

    _of_run: Sequence[Statement]  # what the run itself has executed
    _behind: list[int]  # how many of these each of its own statements comes after

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        super().execute(sql, expect_rows=expect_rows, **parameters)
        self._behind.append(len(self._of_run))

    def join(self, within: Any, result: Any = None) -> Any:
        raise _not_of_a_run(self.handler, "join a connection")

    def transaction(self) -> AbstractAsyncContextManager[Writing]:  # type: ignore[override]  # refused before it is one
        raise _not_of_a_run(self.handler, "have a transaction")

    async def _loaded(self, *_: Any) -> Any:
        raise _not_of_a_run(self.handler, "load aggregates")

    def save(self, *_: Any) -> list[Receipt]:
        raise _not_of_a_run(self.handler, "save aggregates")

    def _move_to(self, unit: Unit) -> Sequence[tuple[int, Statement]]:
        """All but its statements, which are told with their places."""
        own, self._unit = self._unit, None
        if own is None:
            return ()
        unit.appends.extend(own.appends)
        unit.timers.extend(own.timers)
        unit.notes.extend(own.notes)
        return list(zip(self._behind, own.statements, strict=True))


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
            found._of_run, found._behind = self._unit.statements, []
        return found

    @property
    def resources(self) -> R:
        return self._first.resources

    @property
    def events(self) -> int:  # type: ignore[override]  # read-only here, as what follows: for log records
        return len(self._items)

    @property
    def first_event_id(self) -> str:  # type: ignore[override]
        return self._first.event_id

    @property
    def last_event_id(self) -> str:  # type: ignore[override]
        return id_text(next(reversed(self._items.values())).record.id)

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

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        """Run this SQL in the run's unit, unless no event of the run is done."""
        self._first._changeable()
        self._unit.statements.append(statement(sql, parameters, expect_rows))

    def publish(
        self,
        *events: Any,
        cause: Any,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
    ) -> list[Receipt]:
        """Publish in the run's unit; `cause` is the event of this run that it answers."""
        return self.of(cause).publish(*events, time=time, at=at, after=after)

    def _publish(self, *_: Any) -> list[Receipt]:
        raise DeclarationError(
            f"{self.handler} handles a run of events, and a published event must name the one that caused it: use "
            f"delivery.publish(event, cause=...)."
        )

    async def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return await self._first.query(sql, **parameters)

    if not TYPE_CHECKING:  # checkers are to refuse them by themselves

        def join(self, *_: Any, **__: Any) -> None:
            raise _not_of_a_run(self.handler, "join a connection")

        def transaction(self) -> None:
            raise _not_of_a_run(self.handler, "have a transaction")

        def load(self, *_: Any, **__: Any) -> None:
            raise _not_of_a_run(self.handler, "load aggregates")

        load_or_new = load

        def save(self, *_: Any) -> None:
            raise _not_of_a_run(self.handler, "save aggregates")

    # --- for the engine -----------------------------------------------------------------------------------------

    def _move_all(self, events: Sequence[Any]) -> None:
        """What belongs to these events, into the unit of the run; that of an event stands where it was
        asked for among the run's SQL: a later event of a key may have changed what an earlier one had."""
        own: list[tuple[int, Statement]] = []
        for event in events if len(self._made) > 1 else events[:1]:  # the first is always made
            made = self._made.get(id(event))
            if made is not None:
                own += made._move_to(self._unit)
        if own:
            of_run = [(behind, statement) for behind, statement in enumerate(self._unit.statements, 1)]
            self._unit.statements = [statement for _, statement in sorted(of_run + own, key=_place)]

    def _close(self) -> None:
        self._open = False
        for made in self._made.values():
            made._open = False


def _place(one: tuple[int, Statement]) -> int:
    return one[0]
