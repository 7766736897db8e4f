"""Handlers called in the transaction of a test, without an engine: what `handle()` of `testing` does.

A delivery, and a run, is a real one. What it asks of its subscription and of the journal is answered on Django's own
connection, of the test's thread, and its unit is written there. A projection's view has its table, its note and its
cursor in that transaction too, so `view(...)` reads it, and `wait(...)` finds what was handled; they go with the test.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

from asgiref.sync import async_to_sync
from django.db import transaction

from ... import sync
from ...clock import SystemClock
from ...delivery import Delivery, publish_returned
from ...engine.verdicts import remaining
from ...errors import SpineError
from ...ids import IdSource, id_text
from ...journal import _sql_read as read
from ...journal.port import Done, Record, Registration, Unit, Verdict
from ...observe.correlation import current
from ...publishing import Publisher, Speaker, through
from ...runs import BatchDelivery, refuse_returned
from ...service import Handler, Service
from ...state import versions
from ...state.progress import Progress, progress_of
from ...state.projections import Projection
from ...state.store import store_of
from . import journals
from .connection import OnConnection, now

T = TypeVar("T")


class Handling:
    """What a delivery asks of its subscription, without an engine."""

    republish = ""
    waits_for_dead = False

    def __init__(self, service: Service[Any], handler: Handler, resources: Any) -> None:
        self.name = f"{service.name}.{handler.name}"
        self.uid = blake2b(self.name.encode(), digest_size=16).digest()
        self.clock = SystemClock()
        self.resources = resources
        self.journal = _InTest()
        self.run_max = None if handler.batch is None else handler.batch.size
        self.types = {name: kind for kind in handler.types for name in kind.names}
        self.handler = handler
        publisher = Publisher(service.name, service.publishes, self.clock, IdSource(self.clock))
        self.speaker = Speaker(publisher, service.middleware)

    def record_of(self, event: Any, id: bytes, time: Any, cause: Any) -> Record:
        return through(self.speaker.middleware, self.speaker.publisher, event, id=id, time=time, cause=cause)

    def complete(self, item: Any, unit: Unit) -> None:
        """Nothing: who handled what is the test's to know."""

    def deliver(self, records: Sequence[Record]) -> tuple[Sequence[Record], BaseException | None]:
        """A run, or one event. What of it is done, and the first error that a handler of runs has named; others are raised."""
        if self.run_max is not None:
            return self._deliver_run(records)
        self._deliver_one(records[0])
        return records, None

    def _deliver_one(self, record: Record) -> None:
        delivery: Delivery[Any] = Delivery(self, self._item(record), record)  # type: ignore[arg-type]  # all that it asks for is here
        with self._noting([record]), transaction.atomic(using=self.journal.alias):
            result = self._call(self._read(record), delivery, _Blocking)
            if result is not None:
                publish_returned(delivery, result)
            if delivery._aggregates:
                delivery._refuse_unsaved()
            unit = delivery._close()
            if unit is not None and not delivery._joined:
                self.journal.write(unit)

    def _deliver_run(self, records: Sequence[Record]) -> tuple[list[Record], BaseException | None]:
        """What is named as failed is left out, with what follows it in its key, as the engine has it."""
        with self._noting(records):
            run: list[tuple[Any, Any]] = [(self._read(record), self._item(record)) for record in records]
        outcomes: dict[int, BaseException] = {}
        left = run
        while left:
            events = [event for event, _ in left]
            delivery: BatchDelivery[Any] = BatchDelivery(self, events, [item for _, item in left])  # type: ignore[arg-type]
            with self._noting(records), transaction.atomic(using=self.journal.alias):
                self._call_run(events, delivery)
                outcomes |= delivery._outcomes
                done: list[tuple[Any, Any]] = remaining(run, outcomes)
                if len(done) == len(left) or not delivery._unit.statements:
                    delivery._move_all([event for event, _ in done])
                    if done:
                        self.journal.write(delivery._unit)
                    break
                transaction.set_rollback(True, using=self.journal.alias)  # its SQL may have been for those that failed
            left = done
        failed = next(((outcomes[id(event)], item) for event, item in run if id(event) in outcomes), None)
        if failed is not None:
            _note(failed[0], self.name, [failed[1].record])
        return [item.record for _, item in done], None if failed is None else failed[0]

    def _call_run(self, events: Sequence[Any], delivery: BatchDelivery[Any]) -> None:
        try:
            result = self._call(events, delivery, _BlockingRun)
        finally:
            delivery._close()
        refuse_returned(delivery, result)

    def _call(self, event: Any, delivery: Any, blocking: Callable[[Any], Any]) -> Any:
        function = self.handler.function
        token = current.set(delivery)
        try:
            if not self.handler.wants_delivery:
                return async_to_sync(function)(event) if self.handler.is_async else function(event)
            if self.handler.is_async:
                return async_to_sync(function)(event, delivery)
            return function(event, blocking(delivery))
        finally:
            current.reset(token)

    def _read(self, record: Record) -> Any:
        return self.types[record.type].read(record.data, record.version)

    def _item(self, record: Record) -> Any:
        made = SimpleNamespace(attempts=0, late=False, timed_out=False, started=0.0, turn=0)
        made.record, made.lane = record, self._lane(record)
        return made

    def _lane(self, record: Record) -> str:
        if self.handler.order == "feed":
            return ""
        return record.key if self.handler.order == "key" and record.key else id_text(record.id)

    @contextmanager
    def _noting(self, records: Sequence[Record]) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            _note(error, self.name, records)
            raise


def _note(error: BaseException, handler: str, records: Sequence[Record]) -> None:
    first, *more = [f"{record.type} key={record.key} {id_text(record.id)}" for record in records]
    note = f"eventspine: raised by {handler}, handling {f'a run of {len(records)}, from ' if more else ''}{first}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


# --- views ----------------------------------------------------------------------------------------------------------------


class Views:
    """Those that a service's projections keep."""

    def __init__(self, service: Service[Any]) -> None:
        self._service = service
        self._projections = [one.projection for one in service.handlers.values() if one.projection is not None]
        self._journal = _InTest()

    def prepare(self) -> None:
        """Their tables, and which version of each is read: the newest, as when all have caught up."""
        if not self._projections:
            return
        with transaction.atomic(using=self._journal.alias):
            for projection in self._projections:
                now(store_of(projection.view, self._journal).prepare(self._journal, self._service.name))  # type: ignore[arg-type]
                now(versions.change(self._journal, projection.view.name, partial(self._declared, projection)))  # type: ignore[arg-type]
            self._journal.register(self._service)

    def _declared(self, projection: Projection, stored: versions.Known | None) -> versions.Known | None:
        view, name = projection.view, self._name(projection)
        made = versions.declared(view, self._service.name, name, stored, projection.code)
        known = made or stored
        if known is None or projection.switch != "caught_up":
            return made
        return versions.switched_by_itself(known, view.version) or made

    def read_on(self) -> None:
        """To the end of the feed: what they have no use for is passed."""
        for projection in self._projections:
            progress = now(progress_of(self._journal, self._service.name, self._name(projection)))  # type: ignore[arg-type]
            if progress is not None:
                self._pass(progress, self._journal.head())

    def _pass(self, progress: Progress, head: int) -> None:
        number, generation = progress.subscription.number, progress.subscription.generation
        behind = [one for one in progress.cursors.values() if one.position < head]
        if behind:
            done = [Done(number, one.partition, [(one.position, head)], generation) for one in behind]
            with transaction.atomic(using=self._journal.alias):
                self._journal.write(Unit(done=done))

    def _name(self, projection: Projection) -> str:
        return f"{self._service.name}.{projection.name}"


# --- the journal ----------------------------------------------------------------------------------------------------------


class _InTest(OnConnection):
    """The journal, as far as a delivery, or a view, in a test needs it: Django's own connection, of the test's thread."""

    def __init__(self) -> None:
        super().__init__(journals.wrapper())
        self.alias: str = self._wrapper.alias
        self.url = "of this test"

    def head(self) -> int:
        return self._read(read.head)

    def write(self, unit: Unit) -> Verdict:
        with self._journal.searching(self._wrapper):
            return self.write_within(self._wrapper.connection, unit)

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        """For `delivery.join(...)`."""
        return self._journal.write_within(connection, unit)

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        return [self.write(unit) for unit in units]

    async def run_tables(self, service: str, version: str, script: str) -> bool:
        return self._journal.run_tables(self._wrapper, service, version, script)

    def register(self, service: Service[Any]) -> None:
        declared = [one.declaration(service.name, self._start(one)) for one in service.handlers.values()]
        registration = Registration(service.name, service.publishes, tuple(declared))
        self._journal.register(self._wrapper, registration)

    def _start(self, handler: Handler) -> Any:
        start = handler.start
        return self._read(read.position_at, round(start.timestamp() * 1e6)) if isinstance(start, datetime) else start

    async def begin(self, *_: Any) -> NoReturn:
        raise SpineError("delivery.transaction() needs the engine: use running(), with TransactionTestCase.")


class _Blocking(sync.Delivery[Any]):
    def __init__(self, inner: Delivery[Any]) -> None:
        super().__init__(inner, None)  # type: ignore[arg-type]  # there is no loop to ask

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return now(coroutine)


class _BlockingRun(sync.BatchDelivery[Any]):
    def __init__(self, inner: BatchDelivery[Any]) -> None:
        super().__init__(inner, None)  # type: ignore[arg-type]  # there is no loop to ask

    def of(self, event: Any) -> sync.Delivery[Any]:
        return _Blocking(self._inner.of(event))

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return now(self._inner.query(sql, **parameters))
