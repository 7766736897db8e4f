"""What `def` handlers take: they run in threads, and wait for the loop that handles their events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .. import delivery as _delivery, runs, writing
from ..envelope import Envelope
from ..publishing import Receipt
from ..within import carrier_of

T = TypeVar("T")
if TYPE_CHECKING:
    from typing import Unpack

    from typing_extensions import TypeVar as WithDefault

    from ..state.aggregate import Aggregate, Identity
    from ..state.streams import At

    A = TypeVar("A", bound=Aggregate)
    R = WithDefault("R", default=None)
else:
    A = TypeVar("A")
    R = TypeVar("R")


class Delivery(Generic[R]):
    """What a `def` handler may take as its second argument. See `eventspine.Delivery`."""

    def __init__(self, inner: _delivery.Delivery[R], loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    @property
    def event_id(self) -> str:
        return self._inner.event_id

    @property
    def key(self) -> str | None:
        return self._inner.key

    @property
    def time(self) -> datetime:
        return self._inner.time

    @property
    def handler(self) -> str:
        return self._inner.handler

    @property
    def attempt(self) -> int:
        return self._inner.attempt

    @property
    def late(self) -> bool:
        return self._inner.late

    @property
    def correlation(self) -> str:
        return self._inner.correlation

    @property
    def causation(self) -> str | None:
        return self._inner.causation

    @property
    def envelope(self) -> Envelope:
        return self._inner.envelope

    @property
    def idempotency_key(self) -> str:
        return self._inner.idempotency_key

    @property
    def resources(self) -> R:
        return self._inner.resources

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        self._inner.execute(sql, expect_rows=expect_rows, **parameters)

    def publish(
        self, *events: Any, time: datetime | None = None, at: datetime | None = None, after: timedelta | None = None
    ) -> list[Receipt]:
        return self._inner.publish(*events, time=time, at=at, after=after)

    def load(self, aggregate: type[A], id: Identity, /, **at: Unpack[At]) -> A:
        return self._wait(self._inner.load(aggregate, id, **at))

    def load_or_new(self, aggregate: type[A], id: Identity, /) -> A:
        return self._wait(self._inner.load_or_new(aggregate, id))

    def save(self, *aggregates: Aggregate) -> list[Receipt]:
        return self._inner.save(*aggregates)

    def join(self, within: Any, result: Any = None) -> None:
        carrier_of(within).check_blocking()
        self._inner.join(within, result)

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return self._wait(self._inner.query(sql, **parameters))

    @contextmanager
    def transaction(self) -> Iterator[Writing]:
        manager = self._inner.transaction()
        writing = self._wait(manager.__aenter__())
        try:
            yield Writing(writing, self)
        finally:
            self._wait(manager.__aexit__(None, None, None))

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class BatchDelivery(Generic[R]):
    """What a `def` batch handler may take as its second argument. See `eventspine.BatchDelivery`."""

    def __init__(self, inner: runs.BatchDelivery[R], loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    @property
    def handler(self) -> str:
        return self._inner.handler

    @property
    def resources(self) -> R:
        return self._inner.resources

    def of(self, event: Any) -> Delivery[R]:
        return Delivery(self._inner.of(event), self._loop)

    def retry(self, event: Any, error: BaseException) -> None:
        self._inner.retry(event, error)

    def dead(self, event: Any, reason: str) -> None:
        self._inner.dead(event, reason)

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        self._inner.execute(sql, expect_rows=expect_rows, **parameters)

    def publish(
        self,
        *events: Any,
        cause: Any,
        time: datetime | None = None,
        at: datetime | None = None,
        after: timedelta | None = None,
    ) -> list[Receipt]:
        return self._inner.publish(*events, cause=cause, time=time, at=at, after=after)

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return asyncio.run_coroutine_threadsafe(self._inner.query(sql, **parameters), self._loop).result()

    if not TYPE_CHECKING:  # what a run has not: refused there, in words

        def join(self, *_: Any, **__: Any) -> None:
            self._inner.join()

        def transaction(self) -> None:
            self._inner.transaction()

        def load(self, *_: Any, **__: Any) -> None:
            self._inner.load()

        load_or_new = load

        def save(self, *_: Any) -> None:
            self._inner.save()


class Writing:
    """A `def` handler's own transaction. See `Delivery.transaction`."""

    def __init__(self, inner: writing.Writing, delivery: Delivery[Any]) -> None:
        self._inner, self._delivery = inner, delivery

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> int:
        return self._delivery._wait(self._inner.execute(sql, expect_rows=expect_rows, **parameters))

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return self._delivery._wait(self._inner.query(sql, **parameters))


def in_thread(delivery: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """The delivery as a `def` handler gets it."""
    return Delivery(delivery, loop) if isinstance(delivery, _delivery.Delivery) else BatchDelivery(delivery, loop)
