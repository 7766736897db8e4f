"""The delivery: one attempt to hand one event to one handler, and the unit that the attempt may change.

`execute` and `publish` only add to the unit; nothing of it is stored before the handler returns, and nothing if it
raises. `query` reads committed state, which holds all that earlier events of this key did."""

from __future__ import annotations

from _blake2 import blake2b
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, overload

from .envelope import Envelope
from .errors import DeclarationError, Fenced, SpineError, UnknownPublisher, WouldDeadlock
from .ids import derived_id, id_text
from .journal.port import Append, Journal, Record, Timer, Transaction, Unit
from .observe.acting import of_meta
from .observe.correlation import Cause, Who
from .publishing import Receipt, due_us, receipts
from .state.handling import Handling
from .within import Awaiting, Carrier, carrier_of, write, write_async
from .writing import Writing, statement

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from .engine.subscription import Subscription
    from .runs import BatchDelivery

    R = TypeVar("R", default=None)  # a service without a lifespan has no resources
else:
    from typing import TypeVar

    R = TypeVar("R")

TRANSACTION_LIMIT_S = 1.0


class Delivery(Cause, Handling, Generic[R]):
    """What a handler may take as its second argument. `R` is the type of the service's resources."""

    _unit: Unit | None = None  # defaults of the class: one is made for every attempt, and most change nothing
    _ordinal = 0
    _open = True
    _joined = False  # not which connection: one that is forgotten uncommitted must not be kept alive, and locked, by us
    _rolled_back = False  # what it joined, since it is not to have any effect
    _unawaited = False  # an asynchronous join() that has been called and not awaited
    _transaction: Transaction | None = None

    def __init__(self, subscription: Subscription, item: Any, record: Record) -> None:  # no super: see the properties
        self._subscription = subscription
        self._item = item
        self.record = record

    # --- what is being handled ----------------------------------------------------------------------------------

    @property
    def event_id(self) -> str:  # type: ignore[override]  # read-only here: made when asked for
        return id_text(self.record.id)

    @property
    def key(self) -> str | None:  # type: ignore[override]
        return self.record.key

    @property
    def time(self) -> datetime:
        """When it happened, as its publisher said. Of a periodic handler: the time at which this run was due."""
        return Envelope(self.record).time

    @property
    def correlation(self) -> str:  # type: ignore[override]
        return self.record.correlation or id_text(self.record.id)

    @property
    def causation(self) -> str | None:  # type: ignore[override]
        return self.record.causation

    @property
    def hops(self) -> int:  # type: ignore[override]
        return self.record.hops

    @property
    def traceparent(self) -> str | None:  # type: ignore[override]
        return Envelope(self.record).traceparent if self.record.meta else None

    @property
    def who(self) -> Who:  # type: ignore[override]
        """Who has it done, and why, as far as the event says."""
        return of_meta(self.record.meta)

    @property
    def handler(self) -> str:  # type: ignore[override]
        return self._subscription.name

    @property
    def attempt(self) -> int:  # type: ignore[override]
        """1 for the first; counted across restarts."""
        return int(self._item.attempts) + 1

    @property
    def late(self) -> bool:
        """A replayed dead delivery, which has left the order of its key; never where that waits for its dead."""
        return bool(self._item.late) and not self._subscription.waits_for_dead

    @property
    def envelope(self) -> Envelope:
        return Envelope(self.record)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt, and every replay, of this event at this handler; unlike any other's. For effects
        outside the unit: a message id, an `Idempotency-Key` header, a file name."""
        identity = self._subscription.uid + self.record.source.encode() + b"\0" + self.record.id
        return blake2b(identity, digest_size=16).hexdigest()

    @property
    def resources(self) -> R:
        """What the service's `lifespan` yielded."""
        resources: R = self._subscription.resources
        return resources

    # --- what it changes ----------------------------------------------------------------------------------------

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        """Run this SQL in the unit, with `:name` parameters. With `expect_rows`, another number of rows fails the
        unit, and with it this attempt."""
        self._changeable().statements.append(statement(sql, parameters, expect_rows))

    def publish(
        self,
        *events: Any,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
    ) -> list[Receipt]:
        """Publish in the unit: durable when the handler's other effects are."""
        return self._publish(events, self, time, due_us(self._subscription.clock, at, after))

    def _publish(self, events: Iterable[Any], cause: Cause, time: datetime | None, due: int | None) -> list[Receipt]:
        unit = self._changeable()
        record_of = self._subscription.record_of
        records = [record_of(event, self._next_id(), time, cause) for event in events]
        if due is None:
            unit.appends.append(Append(records))
        else:
            unit.timers.extend(Timer(due, record) for record in records)
        return receipts(records, None, due)

    def _next_id(self) -> bytes:
        ordinal, self._ordinal = self._ordinal, self._ordinal + 1
        subscription = self._subscription
        return derived_id(subscription.uid, subscription.republish, self.record.source, self.record.id, ordinal)

    def _changeable(self) -> Unit:
        if not self._open or self._item.timed_out:
            raise SpineError(
                f"{self.handler} has returned (or run out of time); its unit is closed. Finish all work, and await all "
                f"tasks that publish or execute, before returning."
            )
        if self._joined:
            raise SpineError(
                "This delivery has joined a transaction already, which it does once, so its unit is written. Publish and execute "
                "before join()."
            )
        if self._unit is None:
            self._unit = Unit()
        return self._unit

    @overload
    def join(self, within: Awaiting, result: Any = None) -> Coroutine[Any, Any, None]: ...
    @overload
    def join(self, within: Any, result: Any = None) -> None: ...

    def join(self, within: Any, result: Any = None) -> Any:
        """Write this delivery's cursor and events in a transaction of the caller's, to commit with it or not at all:
        `delivery.join(session)`, `await delivery.join(async_session)`. Call it last; then commit, and return nothing: what is to
        be published has to be, by `delivery.publish`, before. In the handler of a command, `result` is what it is going to
        return, which commits with the rest. Once that transaction has committed the event is done, whatever the handler
        raises after it.

        Raises `Fenced` where this attempt is not to have any effect, and `DeclarationError` in a handler that is annotated to return an
        event, after it has rolled that transaction back."""
        if result is not None:
            raise SpineError(f"{self.handler} handles an event, which is not answered; leave result= out.")
        return self._joining(within)

    def _joining(self, within: Any) -> Any:
        unit = self._changeable()
        if self._transaction is not None:
            raise WouldDeadlock("This delivery has a transaction of its own; it can't join a connection beside it.")
        if self._aggregates:
            self._refuse_unsaved()  # what is recorded and not in this unit by now never will be
        carrier = carrier_of(within)
        self._subscription.complete(self._item, unit)
        self._joined = True  # whatever comes of it: nothing else finishes this delivery from here on
        if carrier.is_async:
            self._unawaited = True
            return self._join_async(carrier, unit)
        self._join(carrier, unit)
        return None

    def _join(self, carrier: Carrier, unit: Unit) -> None:
        """A handler may leave its connection as it is when this raises, or commit it all the same: its lock would be kept from
        the commit that this attempt waits for, and what it wrote would happen again in the next one."""
        try:
            self._check_joining()
            write(carrier, self._subscription.journal, unit)
        except (Fenced, DeclarationError):
            self._rolled_back = True
            carrier.roll_back()
            raise

    async def _join_async(self, carrier: Carrier, unit: Unit) -> None:
        self._unawaited = False
        try:
            self._check_joining()
            await write_async(carrier, self._subscription.journal, unit)
        except (Fenced, DeclarationError):
            self._rolled_back = True
            await carrier.roll_back_async()
            raise

    def _check_joining(self) -> None:
        if self._subscription.handler.returns_event:
            raise DeclarationError(
                f"{self.handler} joins a transaction, with which its unit is written, and is to return an event, which would come too "
                "late to be stored. Publish it before join(), by delivery.publish(...), and write -> None. Your transaction has been "
                "rolled back."
            )
        self._follow_no_more()

    def _follow_no_more(self) -> None:
        """Who joins a connection may hold the lock that the commit of what came before it in its key waits for; and its own
        commit must not come first. Known from the first that joins, which hardly ever follows another."""
        one, item = self._subscription, self._item
        one.follows = False
        if item.turn and not (one.committer.is_stored(item.turn) and item.lane.turn == item.turn):
            item.lane.turn = -1  # as if that had been refused, which it may have been: there will be another attempt
            raise Fenced(
                "What came before this event in its key is not stored yet; it is handled again when it is. Your transaction has been "
                "rolled back."
            )

    # --- what it reads ------------------------------------------------------------------------------------------

    async def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of committed state. Inside `transaction()` ask that transaction instead: it sees its own writes."""
        if self._transaction is not None:
            return await self._transaction.query(sql, parameters)
        return await self._subscription.journal.query(sql, parameters)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Writing]:
        """Take the journal's write lock until the handler returns, to read one's own writes; so it comes last.
        Leaving the block closes it to further SQL and commits nothing: the handler's return does. What was asked of it and
        not awaited fails the attempt there."""
        self._changeable()
        if self._transaction is not None:
            raise WouldDeadlock("This delivery has a transaction already; a second one would wait for the first.")
        transaction = self._transaction = await self._lock()
        if self._unit is not None:
            for statement in self._unit.statements:
                await transaction.execute(statement.sql, statement.parameters, statement.expect_rows)
            self._unit.statements.clear()
        writing = Writing(transaction)
        try:
            yield writing
        finally:
            writing.closed = True
        writing.refuse_unawaited(self.handler)

    async def _lock(self) -> Transaction:
        """Waiting for the lock is not the handler's time (R4); nor is waiting for what comes first in its key, whose commit
        needs the lock."""
        item, clock = self._item, self._subscription.clock
        started, asked = item.started, clock.monotonic()
        item.started = 0.0
        try:
            if item.turn:
                await self._subscription.committer.through(item.turn)
            return await self._subscription.journal.begin(TRANSACTION_LIMIT_S)
        finally:
            item.started = started and started + clock.monotonic() - asked

    # --- for the engine -----------------------------------------------------------------------------------------

    def _close(self) -> Unit | None:
        self._open = False
        return self._unit

    async def _abandon(self) -> None:
        self._open = False
        if self._transaction is not None:
            from asyncio import shield

            await shield(self._transaction.rollback())


def refuse_other_journal(delivery: Delivery[Any] | BatchDelivery[Any], journal: Journal) -> None:
    own = delivery._subscription.journal
    if own.id != journal.id:
        raise WouldDeadlock(
            f"{delivery.handler} is handling an event of the journal {own.url}; what is stored in {journal.url} from inside "
            "would not commit with it. Use delivery.publish(...) and delivery.save(...)."
        )


def publish_returned(delivery: Delivery[Any], result: object) -> None:
    """What the handler returned: one event, or several."""
    try:
        delivery.publish(*(result if isinstance(result, (list, tuple)) else (result,)))
    except UnknownPublisher:
        raise
    except DeclarationError as error:
        raise DeclarationError(
            f"{delivery.handler} returned {repr(result)[:80]}, and what a handler returns is published: an event, a list "
            f"of events, or None. {error}"
        ) from error
