"""Tests of Django projects that publish and handle events.

    class Checkout(SpineTests, TestCase):
        def test_an_order_takes_from_the_stock(self):
            self.client.post("/orders/", {"sku": "teapot"})
            self.assertEqual(self.published(OrderPlaced), [OrderPlaced(sku="teapot")])
            self.handle()                                   # whoever handles it, and what comes of that
            self.assertEqual(Stock.objects.get(sku="teapot").free, 2)

`publish()` is the real one, on Django's connection: inside the transaction that `TestCase` never commits, on a database
in memory too, and an `atomic()` that is rolled back takes its events with it. `handle()` calls the handlers in that same
transaction, one event after the other; leases, retries and processes are no part of that. For these there is
`running()`, with `TransactionTestCase`, and on SQLite a test database in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, TypeVar

from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import TransactionTestCase

from ... import sync
from ...clock import SystemClock
from ...delivery import Delivery, publish_returned
from ...errors import SpineError
from ...events import describe
from ...ids import IdSource
from ...journal import _sql_read as read
from ...journal.port import Record, Unit, Verdict
from ...observe.correlation import current
from ...publishing import Publisher, through
from ...service import Handler, Service
from . import discovery, journals
from .deliveries import prepared

E = TypeVar("E")
T = TypeVar("T")
PAGE = 100_000
_RECORDS = f"""/*spine*/ select {", ".join(Record._fields)} from spine_events where position > ?
    order by position limit ?"""  # noqa: S608 -- names of ours
ROUNDS_MAX = 1_000  # of handle(): services that answer one another for ever


class Captured:
    """What has been published since this was made, on Django's connection."""

    def __init__(self) -> None:
        self._since = self._head()
        self._handled: set[tuple[str, bytes]] = (
            set()
        )  # by subscription and event: a position that is rolled back comes again

    def _head(self) -> int:
        return self._read(read.head)

    def records(self) -> list[Record]:
        """Their records, with key, correlation and causation."""
        rows = self._read(lambda cursor: cursor.execute(_RECORDS, (self._since, PAGE)).fetchall())
        return [Record(*row) for row in rows]

    def published(self, kind: type[E]) -> list[E]:
        """The events of this class, in the order in which they were published."""
        event_type = describe(kind)
        found: list[E] = [
            event_type.read(row.data, row.version) for row in self.records() if row.type in event_type.names
        ]
        return found

    def scheduled(self, kind: type[E]) -> list[E]:
        """Those that are not due yet, the next one first."""
        event_type = describe(kind)
        timers = self._read(lambda cursor: read.timers(cursor, PAGE))
        due = [one.record for one in timers if one.record.type in event_type.names]
        return [event_type.read(record.data, record.version) for record in due]

    def _read(self, function: Callable[[Any], T]) -> T:
        wrapper = journals.wrapper()
        with journals.journal_of(wrapper).reading(wrapper) as cursor:
            return function(cursor)

    def handle(self, *services: Service[Any], resources: Any = None) -> int:
        """Call every handler of these services (else of all that the project runs) for every event that is published and
        that it has not handled yet, until there are none; how many deliveries that were. What a handler raises is raised
        here, and it is called again the next time. `resources` stands in for what the services' lifespans would yield."""
        subscriptions = [
            _Subscription(service, handler, resources)
            for service in services or discovery.to_run()
            for handler in service.handlers.values()
            if handler.schedule is None  # nothing is published to them: their time is not the test's
        ]
        count = 0
        for _ in range(ROUNDS_MAX):
            waiting = [(one, record) for record in self.records() for one in subscriptions if self._wants(one, record)]
            if not waiting:
                return count
            for subscription, record in waiting:
                subscription.deliver(record)
                self._handled.add((subscription.name, record.id))
                count += 1
        raise SpineError(f"After {ROUNDS_MAX} rounds there are still new events: these services answer one another.")

    def _wants(self, subscription: _Subscription, record: Record) -> bool:
        return record.type in subscription.types and (subscription.name, record.id) not in self._handled


class SpineTests:
    """Beside TestCase or TransactionTestCase. See the module."""

    spine: Captured

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]  # of the test case beside it
        if isinstance(self, TransactionTestCase) and not self._transactional():
            clear()
        self.spine = Captured()

    @classmethod
    def _transactional(cls) -> bool:
        return bool(getattr(cls, "_databases_support_transactions", bool)())

    def published(self, kind: type[E]) -> list[E]:
        return self.spine.published(kind)

    def scheduled(self, kind: type[E]) -> list[E]:
        return self.spine.scheduled(kind)

    def handle(self, *services: Service[Any], resources: Any = None) -> int:
        return self.spine.handle(*services, resources=resources)


def clear() -> None:
    """Empty the journal of a test: Django's flush empties the tables of models, and these are none."""
    wrapper = journals.wrapper()
    journals.journal_of(wrapper).clear(wrapper)


@contextmanager
def running(*services: Service[Any]) -> Iterator[sync.Spine]:
    """The real engine beside a TransactionTestCase, in this process: these services, else all that the project runs. A
    test database of SQLite has to be in a file: DATABASES[...]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}."""
    wrapper = journals.wrapper()
    url = journals.url_of(wrapper)
    if wrapper.in_atomic_block:
        raise SpineError(
            "The engine works with connections of its own, and sees nothing of a transaction that is never committed. Use "
            "TransactionTestCase, or call self.handle() in the transaction of TestCase."
        )
    chosen = [prepared(service) for service in services or discovery.to_run()]
    with sync.Spine(url) as spine, spine.running(*chosen):
        yield spine


# --- one handler, in the test's own transaction -----------------------------------------------------------------------


class _Subscription:
    """What a delivery asks of its subscription, without an engine."""

    def __init__(self, service: Service[Any], handler: Handler, resources: Any) -> None:
        self.name = f"{service.name}.{handler.name}"
        self.uid = blake2b(self.name.encode(), digest_size=16).digest()
        self.republish = ""
        self.clock = SystemClock()
        self.resources = resources
        self.journal = _InTest()
        self._handler = handler
        self._middleware = service.middleware
        self._publisher = Publisher(service.name, service.publishes, self.clock, IdSource(self.clock))
        self.types = {name: kind for kind in handler.types for name in kind.names}

    def record_of(self, event: Any, id: bytes, time: Any, cause: Any) -> Record:
        return through(self._middleware, self._publisher, event, id=id, time=time, cause=cause)

    def complete(self, item: Any, unit: Unit) -> None:
        """Nothing: who handled what is the test's to know."""

    def deliver(self, record: Record) -> None:
        if self._handler.batch is not None:
            raise SpineError(
                f"{self.name} handles runs of events; handle() calls handlers of one event. Use running()."
            )
        item = SimpleNamespace(attempts=0, late=False, timed_out=False, started=0.0, turn=0)
        delivery: Delivery[Any] = Delivery(self, item, record)  # type: ignore[arg-type]  # all that it asks for is here
        with transaction.atomic(using=self.journal.wrapper.alias):
            result = self._call(self.types[record.type].read(record.data, record.version), delivery)
            if result is not None:
                publish_returned(delivery, result)
            unit = delivery._close()
            if unit is not None and not delivery._joined:
                self.journal.write(unit)

    def _call(self, event: Any, delivery: Delivery[Any]) -> Any:
        function = self._handler.function
        token = current.set(delivery)
        try:
            if not self._handler.wants_delivery:
                return async_to_sync(function)(event) if self._handler.is_async else function(event)
            if self._handler.is_async:
                return async_to_sync(function)(event, delivery)
            return function(event, _Blocking(delivery))
        finally:
            current.reset(token)


class _InTest:
    """The journal, as far as a delivery in a test needs it: Django's own connection, of the test's thread."""

    url = "of this test"

    def __init__(self) -> None:
        self.wrapper = journals.wrapper()
        self._journal = store = journals.journal_of(self.wrapper)
        self.id, self.path = store.id, store.path

    def write(self, unit: Unit) -> None:
        self.write_within(self.wrapper.connection, unit)

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        """For `delivery.join(...)`."""
        return self._journal.write_within(connection, unit)

    async def query(self, sql: str, parameters: Any) -> list[dict[str, Any]]:
        return self._journal.query(self.wrapper, sql, parameters)


class _Blocking(sync.Delivery[Any]):
    def __init__(self, inner: Delivery[Any]) -> None:
        super().__init__(inner, None)  # type: ignore[arg-type]  # there is no loop to ask

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            coroutine.send(None)
        except StopIteration as answer:
            value: T = answer.value
            return value
        raise SpineError("delivery.transaction() needs the engine: use running(), with TransactionTestCase.")
