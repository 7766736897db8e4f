"""Tests that Django's runner is given by `test_kit.py`: with the engine at work."""

import time

from django.contrib.auth.models import Permission
from django.test import TestCase, TransactionTestCase

from eventspine.integrations.django import publish, view
from eventspine.integrations.django.testing import Captured, SpineTests, running
from shop.events import OrderPlaced
from shop.models import Parcel, Stock

from .material import PLACED, UnitsOf, reports


class Views(SpineTests, TransactionTestCase):
    def counts_one(self):
        receipt = publish(PLACED)
        with running(reports):
            view(UnitsOf).wait(receipt, timeout_s=60)
        assert view(UnitsOf).get("pot").units == 1

    def test_a_view_is_kept(self):
        self.counts_one()

    def test_and_begins_anew_in_the_next(self):
        self.counts_one()

    def test_what_was_handled_by_hand_the_engine_does_not_count_again(self):
        publish(PLACED)
        assert self.handle(reports) == 1
        receipt = publish(PLACED)
        with running(reports):
            view(UnitsOf).wait(receipt, timeout_s=60)
        assert view(UnitsOf).get("pot").units == 2


class Flushed(TransactionTestCase):
    """Without SpineTests: what Django's flush ends, it ends with the journal."""

    def test_one_publishes(self):
        assert Captured(since=0).published(OrderPlaced) == []
        publish(PLACED)

    def test_another_does_not_see_it(self):
        assert Captured(since=0).published(OrderPlaced) == []
        publish(PLACED)


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
