"""Deliveries made by hand, to call a handler as the plain function that it is.

A real `Delivery`, with the same rules, of which nothing is stored: it notes what the handler asks for, and reads the rows,
or the SQLite connection, that the test gives it. It shows what a handler does, not that its SQL is right: for that there
is `testing.spine`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

from .. import sync as _sync
from ..at_once import at_once
from ..clock import Clock, SystemClock
from ..delivery import Delivery
from ..engine.lanes import Item, Part
from ..envelope import make_record
from ..errors import RowsUnexpected, SettingsError, WouldDeadlock
from ..events import describe
from ..ids import IdSource, id_bytes
from ..journal.port import Record, Unit, Verdict
from ..observe.correlation import Cause
from ..publishing import Receipt
from ..within import carrier_of
from ..wording import plural

if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault

    R = WithDefault("R", default=None)
else:
    R = TypeVar("R")

T = TypeVar("T")
Rows = Iterable[Mapping[str, Any]] | Callable[..., Iterable[Mapping[str, Any]]]


class Executed(NamedTuple):
    """SQL that the handler handed over."""

    sql: str
    parameters: Mapping[str, Any]
    expect_rows: int | None = None


class HandDelivery(Delivery[R]):
    """`executed`: what was handed over, `published`: the events, in order; `joined`: the connection that it joined."""

    def __init__(self, subscription: _Subscription, item: Item, record: Record) -> None:
        super().__init__(subscription, item, record)  # type: ignore[arg-type]  # it has what a delivery asks for
        self.executed: list[Executed] = []
        self.published: list[Any] = []
        self.joined: Any = None

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        super().execute(sql, expect_rows=expect_rows, **parameters)
        self.executed.append(Executed(sql, parameters, expect_rows))

    def join(self, within: Any, result: Any = None) -> Any:
        self._changeable()
        if self._aggregates:
            self._refuse_unsaved()
        carrier = carrier_of(within)
        self.joined, self._joined = within, True
        return _awaited() if carrier.is_async else None

    def _publish(self, events: Iterable[Any], cause: Cause, time: datetime | None, due: int | None) -> list[Receipt]:
        given = list(events)
        made = super()._publish(given, cause, time, due)
        self.published += given
        return made


async def _awaited() -> None:
    pass


class SyncHandDelivery(_sync.Delivery[R]):
    """`HandDelivery` for `def` handlers."""

    _inner: HandDelivery[R]

    def __init__(self, inner: HandDelivery[R]) -> None:
        self._inner = inner

    @property
    def executed(self) -> list[Executed]:
        return self._inner.executed

    @property
    def published(self) -> list[Any]:
        return self._inner.published

    @property
    def joined(self) -> Any:
        return self._inner.joined

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return at_once(coroutine, WouldDeadlock("Nothing of a delivery made by hand waits; this did."))


def delivery(
    event: Any,
    *,
    attempt: int = 1,
    resources: R = None,  # type: ignore[assignment]  # its default, when a service has none
    rows: Rows | None = None,
    connection: sqlite3.Connection | None = None,
    handler: str = "test.handler",
    key: str | None = None,
    id: str | UUID | None = None,
    time: datetime | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    late: bool = False,
    clock: Clock | None = None,
) -> HandDelivery[R]:
    """A delivery of `event` for an `async def` handler.

    `rows`: what `query` answers: rows, or a function that is given the SQL and its parameters; without them, and without a
    connection, it refuses. `connection`: of SQLite,
    for `query` and `transaction`. `key`: another than the event's own. `id`: of the event; the same id and `handler` have the
    same idempotency key."""
    own = clock or SystemClock()
    subscription = _Subscription(handler, own, resources, rows, connection)
    record = _record(event, own, subscription.ids, key, id, time, correlation, causation)
    part = Part(record.slot & 15, "", 0, 0, [], 0, 0)
    item = Item(record, part, 0)
    item.attempts, item.late = _attempts(attempt), late
    return HandDelivery(subscription, item, record)


def sync_delivery(
    event: Any,
    *,
    attempt: int = 1,
    resources: R = None,  # type: ignore[assignment]  # its default, when a service has none
    rows: Rows | None = None,
    connection: sqlite3.Connection | None = None,
    handler: str = "test.handler",
    key: str | None = None,
    id: str | UUID | None = None,
    time: datetime | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    late: bool = False,
    clock: Clock | None = None,
) -> SyncHandDelivery[R]:
    """`delivery` for a `def` handler."""
    made: HandDelivery[R] = delivery(
        event,
        attempt=attempt,
        resources=resources,
        rows=rows,
        connection=connection,
        handler=handler,
        key=key,
        id=id,
        time=time,
        correlation=correlation,
        causation=causation,
        late=late,
        clock=clock,
    )
    return SyncHandDelivery(made)


def _attempts(attempt: Any) -> int:
    if type(attempt) is not int or attempt < 1:
        raise SettingsError(f"attempt={attempt!r}: the first is 1.")
    return attempt - 1


def _record(
    event: Any,
    clock: Clock,
    ids: IdSource,
    key: str | None,
    id: str | UUID | None,
    time: datetime | None,
    correlation: str | None,
    causation: str | None,
) -> Record:
    kind, now_us = describe(type(event)), clock.now_us()
    if time is not None and time.tzinfo is None:
        raise SettingsError(f"time={time.isoformat()} has no time zone; pass an aware datetime, e.g. tzinfo=UTC.")
    time_us = now_us if time is None else round(time.astimezone(UTC).timestamp() * 1e6)
    made_id = ids.one() if id is None else id_bytes(id)
    record = make_record(
        kind, event, made_id, "test", now_us, time_us, correlation, causation, 0 if causation is None else 1
    )
    return record._replace(position=1, key=record.key if key is None else key)


_NO_STREAMS = (
    "A delivery made by hand has no streams, so it neither loads aggregates nor saves them. Test this handler with "
    "testing.spine(service), and what the aggregate decides with testing.given(...)."
)


class _Subscription:
    """What a delivery asks of the subscription that it belongs to."""

    republish = ""
    waits_for_dead = False

    def __init__(
        self, handler: str, clock: Clock, resources: Any, rows: Rows | None, connection: sqlite3.Connection | None
    ) -> None:
        from hashlib import blake2b

        self.name = handler if "." in handler else f"test.{handler}"
        self.uid = blake2b(self.name.encode(), digest_size=16).digest()
        self.clock = clock
        self.ids = IdSource(clock)
        self.resources = resources
        self.journal = _Journal(rows, connection)

    @property
    def speaker(self) -> Any:
        raise SettingsError(_NO_STREAMS)

    def record_of(self, event: Any, id: bytes, time: datetime | None, cause: Cause) -> Record:
        """As a publisher would, save that it may publish everything."""
        now_us = self.clock.now_us()
        kind = describe(type(event))
        time_us = now_us if time is None else round(time.timestamp() * 1e6)
        return make_record(
            kind,
            event,
            id,
            self.name.partition(".")[0],
            now_us,
            time_us,
            cause.correlation,
            cause.event_id,
            cause.hops + 1,
        )


class _Journal:
    """What a delivery asks of a journal."""

    id = url = "by hand"

    def __init__(self, rows: Rows | None, connection: sqlite3.Connection | None) -> None:
        self._rows = rows
        self._connection = connection

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self._connection is not None:
            return _fetched(self._connection.execute(sql, parameters))
        if self._rows is None:
            raise SettingsError(
                "This delivery was made by hand and has no database, so it can't say what this query finds: give it rows= (rows=[] for none), "
                "or connection=, to testing.delivery() or sync_delivery()."
            )
        rows = self._rows(sql, **parameters) if callable(self._rows) else self._rows
        return [dict(row) for row in rows]

    async def begin(self, limit_s: float) -> _Transaction:
        if self._connection is None:
            raise SettingsError(
                "A transaction reads its own writes, so this delivery needs a database: give it connection=."
            )
        return _Transaction(self._connection)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Mapping[str, Any], expect_rows: int | None = None) -> int:
        count = self._connection.execute(sql, parameters).rowcount
        if expect_rows is not None and count != expect_rows:
            raise RowsUnexpected(f"{sql} touched {plural(count, 'row')}; expect_rows={expect_rows}.")
        return count

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return _fetched(self._connection.execute(sql, parameters))

    async def commit(self, unit: Unit) -> Verdict:
        return Verdict("done")

    async def rollback(self) -> None:
        self._connection.rollback()


def _fetched(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    columns: Sequence[str] = [column[0] for column in cursor.description or ()]
    return [dict(zip(columns, tuple(row), strict=True)) for row in cursor.fetchall()]
