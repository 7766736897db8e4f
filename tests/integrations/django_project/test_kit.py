"""`eventspine.integrations.django.testing`, in Django's own test runner: in memory and in a file, alone and in parallel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventspine.testing.servers import Server

PROJECT = Path(__file__).parents[3] / "examples" / "django_shop"

SETTINGS = """
from project.settings import *
DATABASES["default"]["TEST"] = {"NAME": %s}
%s
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.contenttypes", "django.contrib.auth"]
"""

IN_A_TRANSACTION = """
from datetime import timedelta

from asgiref.sync import sync_to_async
from django.db import transaction
from django.test import TestCase

from eventspine import Delivery, Reject, Service
from eventspine.errors import DeclarationError
from eventspine.integrations.django import apublish, atomic_delivery, cancel, publish
from eventspine.integrations.django.testing import SpineTests, running
from eventspine.sync import Delivery as SyncDelivery
from shop.events import OrderPlaced, StockReserved
from shop.models import Parcel, Stock

PLACED = OrderPlaced(order="A", sku="pot", units=1)


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
        with self.assertRaisesMessage(Reject, "never"):
            self.handle(failing)
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
            with self.assertRaisesMessage(DeclarationError, f"talking{number}.talk returned 'done', and what a handler"):
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
        with self.assertRaisesMessage(Exception, REFUSED), running():
            pass
"""

REAL = '''
import time

from django.contrib.auth.models import Permission
from django.test import TestCase, TransactionTestCase

from eventspine.integrations.django import publish
from eventspine.integrations.django.testing import SpineTests, running
from shop.events import OrderPlaced
from shop.models import Parcel, Stock


class Real(SpineTests, TransactionTestCase):
    def goes_through(self, order):
        Stock.objects.create(sku="pot", free=1)
        assert publish(OrderPlaced(order=order, sku="pot", units=1)).durable
        with running():
            deadline = time.monotonic() + 60
            while not Parcel.objects.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert Parcel.objects.get().order == order
        assert len(self.published(OrderPlaced)) == 1

    def test_an_order_goes_through(self):
        self.goes_through("A")

    def test_and_nothing_is_left_of_it_for_the_next(self):
        self.goes_through("B")


class RealToo(Real):
    """For a second process to do, in parallel."""


class Rows(SpineTests, TestCase):
    def test_what_migrate_wrote_last_is_there_in_the_copies_too(self):
        assert Permission.objects.filter(content_type__app_label="auth").exists()


class RowsToo(Rows):
    pass
'''


def manage_test(
    tmp_path: Path, tests: str, *options: str, file: bool, code: int = 0, database: dict[str, object] | None = None
) -> str:
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "test_kit.py").write_text(tests)
    instead = f"DATABASES['default'] = {database!r}" if database else ""
    (tmp_path / "kit_settings.py").write_text(
        SETTINGS % (repr(str(tmp_path / "test.sqlite3")) if file else None, instead)
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "manage.py", "test", "kit", "--settings=kit_settings", *options],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "SHOP_FOLDER": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.mark.parametrize("file", [False, True], ids=["in memory", "in a file"])
def test_inside_the_transaction_of_a_test_case(tmp_path, file):
    refused = "never committed" if file else "in memory"
    manage_test(tmp_path, IN_A_TRANSACTION + f"\n\nREFUSED = {refused!r}\n", file=file)


def test_with_the_real_engine_on_a_file(tmp_path):
    manage_test(tmp_path, REAL, file=True)


def test_with_the_real_engine_in_parallel_processes(tmp_path):
    manage_test(tmp_path, REAL, "--parallel", "2", file=True)


def test_without_a_file_the_real_engine_says_what_to_do(tmp_path):
    said = manage_test(tmp_path, REAL, "--failfast", file=False, code=1)
    assert "TEST = {'NAME'" in said
    assert "self.handle()" in said


def test_a_test_database_that_is_kept_is_used_again(tmp_path):
    manage_test(tmp_path, REAL, "--keepdb", file=True)
    (tmp_path / "again").mkdir()
    (tmp_path / "test.sqlite3").rename(tmp_path / "again" / "test.sqlite3")
    manage_test(tmp_path / "again", REAL, "--keepdb", file=True)


# --- on PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(postgres_server: Server) -> dict[str, object]:
    where = urlsplit(postgres_server.url)
    return {
        "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": where.hostname,
        "PORT": where.port, "TEST": {"NAME": "test_kit"},
    }  # fmt: skip


def test_on_postgres_inside_the_transaction_of_a_test_case(tmp_path, database):
    manage_test(tmp_path, IN_A_TRANSACTION + "\n\nREFUSED = 'never committed'\n", file=False, database=database)


@pytest.mark.parametrize("parallel", ["1", "2"])
def test_on_postgres_with_the_real_engine(tmp_path, database, parallel):
    manage_test(tmp_path, REAL, "--parallel", parallel, file=False, database=database)
