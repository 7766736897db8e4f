"""Tests of Django projects that publish and handle events.

    class Checkout(SpineTests, TestCase):
        def test_an_order_takes_from_the_stock(self):
            self.client.post("/orders/", {"sku": "teapot"})
            self.assertEqual(self.published(OrderPlaced), [OrderPlaced(sku="teapot")])
            self.handle()                                   # whoever handles it, and what comes of that
            self.assertEqual(Stock.objects.get(sku="teapot").free, 2)

`publish()` is the real one, on Django's connection: inside the transaction that `TestCase` never commits, on a database
in memory too, and an `atomic()` that is rolled back takes its events with it. `handle()` calls handlers and projections in
that same transaction (handling.py); leases, retries and processes are no part of that. For these there is `running()`, with
`TransactionTestCase`, and on SQLite a test database in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from django.test import TransactionTestCase

from ... import sync
from ...errors import SpineError
from ...events import describe
from ...journal import _sql_read as read
from ...journal.port import Record
from ...service import Service
from . import discovery, journals
from .deliveries import prepared
from .handling import Handling, Views

E = TypeVar("E")
T = TypeVar("T")
PAGE = 100_000
_RECORDS = f"""/*spine*/ select {", ".join(Record._fields)} from spine_events where position > ?
    order by position limit ?"""  # noqa: S608 -- names of ours
ROUNDS_MAX = 1_000  # of handle(): services that answer one another for ever


class Captured:
    """What has been published since this was made, or since a position of the feed, on Django's connection."""

    def __init__(self, *, since: int | None = None) -> None:
        self._since = self._head() if since is None else since
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
        that it has not handled yet, until there are none; how many deliveries that were. A handler of runs (`batch=`), and a
        projection, is called with all of them at once. What a handler raises is raised here, and so is the first error that a
        handler of runs names; it is called again the next time. `resources` stands in for what the services' lifespans would
        yield."""
        chosen = services or discovery.to_run()
        handlings = [
            Handling(service, handler, resources)
            for service in chosen
            for handler in service.handlers.values()
            if handler.schedule is None  # nothing is published to them: their time is not the test's
        ]
        views = [Views(service) for service in chosen]
        for one in views:
            one.prepare()
        count = self._handle(handlings)
        for one in views:
            one.read_on()
        return count

    def _handle(self, handlings: Sequence[Handling]) -> int:
        count = 0
        for _ in range(ROUNDS_MAX):
            waiting = self._waiting(handlings)
            if not waiting:
                return count
            for handling, records in waiting:
                count += self._deliver(handling, records)
        raise SpineError(f"After {ROUNDS_MAX} rounds there are still new events: these services answer one another.")

    def _waiting(self, handlings: Sequence[Handling]) -> list[tuple[Handling, list[Record]]]:
        """What is to be called, with what: events one by one, in their order, and behind them the runs."""
        records = self.records()
        singly = [one for one in handlings if one.run_max is None]
        waiting = [(one, [record]) for record in records for one in singly if self._wants(one, record)]
        for one in handlings:
            if one.run_max is not None:
                wanted = [record for record in records if self._wants(one, record)]
                waiting += [(one, wanted[at : at + one.run_max]) for at in range(0, len(wanted), one.run_max)]
        return waiting

    def _wants(self, handling: Handling, record: Record) -> bool:
        return record.type in handling.types and (handling.name, record.id) not in self._handled

    def _deliver(self, handling: Handling, records: Sequence[Record]) -> int:
        done, failed = handling.deliver(records)
        self._handled.update((handling.name, record.id) for record in done)
        if failed is not None:
            raise failed
        return len(done)


class SpineTests:
    """Beside TestCase or TransactionTestCase. See the module."""

    spine: Captured
    _since: int | None = None  # with TestCase, where the feed ended before setUpTestData

    @classmethod
    def setUpClass(cls) -> None:
        if issubclass(cls, TransactionTestCase) and cls._transactional():
            cls._since = Captured()._since
        super().setUpClass()  # type: ignore[misc]  # of the test case beside it

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        if isinstance(self, TransactionTestCase) and not self._transactional():
            clear()
        self.spine = Captured(since=self._since)

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
            "TransactionTestCase; or call self.handle() in the transaction of TestCase, which calls handlers and projections there."
        )
    chosen = [prepared(service) for service in services or discovery.to_run()]
    with sync.Spine(url) as spine, spine.running(*chosen):
        yield spine
