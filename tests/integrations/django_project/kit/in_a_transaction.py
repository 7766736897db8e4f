"""Tests that Django's runner is given by `test_kit.py`: in the transaction of a `TestCase`."""

import os
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import transaction
from django.test import TestCase

from eventspine import Aggregate, Batch, BatchDelivery, Delivery, Event, Reject, Service, View, applies
from eventspine.errors import DeclarationError, SpineError, WouldDeadlock
from eventspine.integrations.django import apublish, atomic_delivery, cancel, publish, view
from eventspine.integrations.django.testing import SpineTests, running
from eventspine.sync import BatchDelivery as SyncBatchDelivery, Delivery as SyncDelivery
from shop.events import OrderPlaced, StockReserved
from shop.models import Parcel, Stock

from .material import PLACED, UnitsOf, reports


def placed(order, sku="pot"):
    return OrderPlaced(order=order, sku=sku, units=1)


class OrderSeen(Event, context="orders", key="sku"):
    sku: str


class Runs(SpineTests, TestCase):
    def test_a_view_is_read_where_its_projection_was_called(self):
        publish(placed("A"), placed("B"), placed("C", "pan"))
        assert self.handle(reports) == 3
        publish(placed("D"))
        assert self.handle(reports) == 1
        assert self.handle(reports) == 0
        assert [(row.sku, row.units) for row in view(UnitsOf).all()] == [("pan", 1), ("pot", 3)]

    def test_another_test_begins_with_an_empty_view(self):
        self.handle(reports)
        assert view(UnitsOf).all() == []

    def test_who_waits_for_what_was_handled_need_not_wait(self):
        receipt = publish(PLACED)
        other = publish(OrderSeen(sku="pot"))  # which the projection has no use for
        with self.assertRaisesMessage(WouldDeadlock, "In a test, call self.handle() first"):
            view(UnitsOf).wait(receipt)
        self.handle(reports)
        view(UnitsOf).wait(receipt)
        view(UnitsOf).wait(other)
        with self.assertRaises(WouldDeadlock):
            view(UnitsOf).wait(publish(PLACED))

    def test_what_a_projection_raises_is_raised_here_with_the_event(self):
        publish(placed("A"), OrderPlaced(order="B", sku="pot", units=13), placed("C"))
        for _ in range(2):
            with self.assertRaisesMessage(Reject, "thirteen") as caught:
                self.handle(reports)
            [note] = caught.exception.__notes__
            assert note.startswith("eventspine: raised by reports.count, handling orders.OrderPlaced key=pot ")
        assert view(UnitsOf).get("pot").units == 1  # it stands there, as in operation

    def test_what_is_handled_and_rolled_back_leaves_the_view_as_it_was(self):
        with self.assertRaises(ValueError), transaction.atomic():
            publish(PLACED)
            self.handle(reports)
            raise ValueError
        publish(placed("B"))
        assert self.handle(reports) == 1
        assert view(UnitsOf).get("pot").units == 1

    def test_the_newest_version_of_a_view_is_read(self):
        class Twice(View, key="sku", name="units_twice", version=2):
            sku: str
            units: int = 0

        class Once(View, key="sku", name="units_twice"):
            sku: str
            units: int = 0

        both = Service("both", publishes=())

        @both.projection(Once, OrderPlaced, name="kept")
        def once(rows: View[Once], event: OrderPlaced) -> None:
            rows.row(event.sku).units += 1

        @both.projection(Twice, OrderPlaced, name="kept")
        def twice(rows: View[Twice], event: OrderPlaced) -> None:
            rows.row(event.sku).units += 2

        publish(PLACED)
        assert self.handle(both) == 2
        assert view(Twice).get("pot").units == 2

    def test_a_handler_of_runs_gets_all_that_there_is_in_runs_of_its_size(self):
        seen = []
        batching = Service("batching", publishes="warehouse")

        @batching.on(OrderPlaced, batch=Batch(2))
        def store(events: list[OrderPlaced], delivery: SyncBatchDelivery[str]) -> None:
            seen.append([event.order for event in events])
            delivery.execute('insert into shop_parcel ("order") values (:order)', order=events[0].order)
            assert delivery.query("select count(*) as n from shop_stock") == [{"n": 1}]
            assert (delivery.of(events[0]).key, delivery.resources) == ("pot", "fake")
            delivery.publish(StockReserved(order=events[-1].order), cause=events[-1])

        @batching.on(OrderPlaced, batch=Batch(10))
        async def wait(events: list[OrderPlaced], delivery: BatchDelivery[str]) -> None:
            seen.append(len(events))
            assert await delivery.query("select count(*) as n from shop_stock") == [{"n": 1}]

        Stock.objects.create(sku="pot", free=1)
        publish(placed("A"), placed("B"), placed("C"))
        assert self.handle(batching, resources="fake") == 6
        assert seen == [["A", "B"], ["C"], 3]
        assert {parcel.order for parcel in Parcel.objects.all()} == {"A", "C"}
        assert self.published(StockReserved) == [StockReserved(order="B"), StockReserved(order="C")]
        caused = self.spine.records()[-1]
        assert caused.causation and caused.source == "batching"

    def test_what_a_run_names_as_failed_is_raised_and_the_rest_is_done(self):
        naming = Service("naming", publishes="warehouse")
        calls = []

        @naming.on(OrderPlaced, batch=Batch(10))
        def store(events: list[OrderPlaced], delivery: SyncBatchDelivery) -> None:
            calls.append([event.order for event in events])
            for event in events:
                if event.order == "B":
                    delivery.dead(event, "no B")
                delivery.execute('insert into shop_parcel ("order") values (:order)', order=event.order)

        publish(placed("A"), placed("B", "pan"), placed("C", "pan"), placed("D"))
        with self.assertRaisesMessage(Reject, "no B") as caught:
            self.handle(naming)
        assert "naming.store, handling orders.OrderPlaced key=pan" in caught.exception.__notes__[0]
        assert {parcel.order for parcel in Parcel.objects.all()} == {"A", "D"}
        assert calls == [["A", "B", "C", "D"], ["A", "D"]]
        with self.assertRaisesMessage(Reject, "no B"):
            self.handle(naming)
        assert calls[2] == ["B", "C"]

    def test_a_run_that_raises_leaves_nothing(self):
        failing = Service("failing")

        @failing.on(OrderPlaced, batch=Batch(10))
        def fail(events: list[OrderPlaced]) -> None:
            Parcel.objects.create(order="B")
            raise Reject("never")

        publish(placed("A"), placed("B"))
        with self.assertRaisesMessage(Reject, "never") as caught:
            self.handle(failing)
        assert "failing.fail, handling a run of 2, from orders.OrderPlaced key=pot" in caught.exception.__notes__[0]
        assert not Parcel.objects.exists()


class SetUpOnce(SpineTests, TestCase):
    @classmethod
    def setUpTestData(cls):
        publish(PLACED)
        Stock.objects.create(sku="pot", free=1)

    def test_what_was_published_for_all_tests_is_seen_and_handled(self):
        assert self.published(OrderPlaced) == [PLACED]
        assert self.handle() == 2

    def test_in_each_of_them(self):
        publish(placed("B"))
        assert self.published(OrderPlaced) == [PLACED, placed("B")]
        assert Stock.objects.get().free == 1


class Kit(SpineTests, TestCase):
    def test_one_publishes(self):
        publish(PLACED)
        assert self.published(OrderPlaced) == [PLACED]
        assert self.spine.records()[0].key == "pot"

    def test_another_does_not_see_it(self):
        assert self.published(OrderPlaced) == []

    def test_what_is_rolled_back_was_not_published(self):
        publish(PLACED)
        with self.assertRaises(ValueError), transaction.atomic():
            publish(PLACED, PLACED)
            raise ValueError
        assert self.published(OrderPlaced) == [PLACED]

    def test_scheduled_ones_are_not_published_yet(self):
        receipt = publish(PLACED, after=timedelta(hours=1))
        assert (self.published(OrderPlaced), self.scheduled(OrderPlaced)) == ([], [PLACED])
        assert cancel(receipt) == 1
        assert self.scheduled(OrderPlaced) == []

    def test_the_callbacks_of_on_commit_are_the_projects_own(self):
        with self.captureOnCommitCallbacks() as callbacks:
            publish(PLACED)
            transaction.on_commit(lambda: None)
        assert len(callbacks) == 1

    async def test_in_async_tests_too(self):
        await apublish(PLACED)
        assert await sync_to_async(self.published)(OrderPlaced) == [PLACED]

    def test_each_event_is_handled_once_and_what_comes_of_it_too(self):
        Stock.objects.create(sku="pot", free=1)
        publish(PLACED)
        assert self.handle() == 2  # reserve, and pack what it published
        assert self.handle() == 0
        assert Parcel.objects.get().order == "A"
        caused = self.spine.records()[1]
        assert caused.causation and caused.source == "warehouse"

    def test_what_a_handler_raises_is_raised_here_and_it_leaves_nothing(self):
        failing = Service("failing")

        @failing.on(OrderPlaced)
        @atomic_delivery
        def fail(event: OrderPlaced) -> None:
            Parcel.objects.create(order="B")
            raise Reject("never")

        publish(PLACED)
        with self.assertRaisesMessage(Reject, "never") as caught:
            self.handle(failing)
        [note] = caught.exception.__notes__
        assert note.startswith("eventspine: raised by failing.fail, handling orders.OrderPlaced key=pot ")
        assert not Parcel.objects.exists()
        with self.assertRaisesMessage(Reject, "never"):
            self.handle(failing)

    def test_what_a_handler_returns_and_is_no_event_is_named_with_and_without_the_decorator(self):
        for number, decorator in enumerate((atomic_delivery, lambda function: function)):
            talking = Service(f"talking{number}")

            @talking.on(OrderPlaced)
            @decorator
            def talk(event: OrderPlaced) -> str:
                return "done"

            publish(PLACED)
            with self.assertRaisesMessage(
                DeclarationError, f"talking{number}.talk returned 'done', and what a handler"
            ):
                self.handle(talking)

    def test_what_is_handled_in_a_transaction_that_is_rolled_back_is_nothing_to_later_events(self):
        Stock.objects.create(sku="pot", free=5)
        with self.assertRaises(ValueError), transaction.atomic():
            publish(PLACED)
            self.handle()
            raise ValueError
        publish(PLACED)
        assert self.handle() == 2
        assert Stock.objects.get().free == 4

    def test_deliveries_are_as_of_the_engine(self):
        seen = []
        asking = Service("asking", publishes="warehouse")

        @asking.on(OrderPlaced)
        def ask(event: OrderPlaced, delivery: SyncDelivery[str]) -> StockReserved:
            delivery.execute('insert into shop_parcel ("order") values (:order)', order="C", expect_rows=1)
            seen.append((delivery.query("select sku from shop_stock"), delivery.attempt, delivery.resources))
            assert not publish(StockReserved(order="published")).durable
            return StockReserved(order="returned")

        @asking.on(OrderPlaced)
        async def wait(event: OrderPlaced, delivery: Delivery[str]) -> None:
            seen.append((await delivery.query("select sku from shop_stock"), delivery.key, delivery.handler))
            delivery.publish(StockReserved(order="awaited"))

        Stock.objects.create(sku="pot", free=1)
        publish(PLACED)
        assert self.handle(asking, resources="fake") == 2
        assert seen == [([{"sku": "pot"}], 1, "fake"), ([{"sku": "pot"}], "pot", "asking.wait")]
        assert {event.order for event in self.published(StockReserved)} == {"published", "returned", "awaited"}
        assert Parcel.objects.get().order == "C"

    def test_a_handler_may_load_and_save_aggregates(self):
        class Counted(Event, context="counters", key="sku"):
            sku: str

        class Counter(Aggregate):
            n: int = 0

            def count(self) -> None:
                self.record(Counted(sku=self.id))

            @applies(Counted)
            def _counted(self, event: Counted) -> None:
                self.n += 1

        counting, found = Service("counting", publishes="counters"), []

        @counting.on(OrderPlaced)
        def count(event: OrderPlaced, delivery: SyncDelivery) -> None:
            counter = delivery.load_or_new(Counter, event.sku)
            found.append(counter.n)
            counter.count()
            if event.order != "forgotten":
                delivery.save(counter)

        publish(placed("A"), placed("B"))
        assert self.handle(counting) == 2
        assert found == [0, 1]
        publish(placed("forgotten"))
        with self.assertRaisesMessage(SpineError, "counting.count returned with Counted"):
            self.handle(counting)

    def test_a_handler_may_join_djangos_transaction_by_hand(self):
        joining = Service("joining", publishes="warehouse")

        @joining.on(OrderPlaced)
        def join(event: OrderPlaced, delivery: SyncDelivery) -> None:
            with transaction.atomic():
                Parcel.objects.create(order=event.order)
                delivery.publish(StockReserved(order="joined"))
                delivery.join("default")

        publish(PLACED)
        assert self.handle(joining) == 1
        assert Parcel.objects.get().order == "A"
        assert self.published(StockReserved) == [StockReserved(order="joined")]

    def test_the_engine_itself_sees_nothing_of_this_transaction_and_is_refused(self):
        with self.assertRaisesMessage(Exception, os.environ["REFUSED"]), running():
            pass
