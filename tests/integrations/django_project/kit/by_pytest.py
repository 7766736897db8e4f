"""Tests that pytest-django is given by `test_kit.py`."""

import pytest

from eventspine.integrations.django import publish
from eventspine.integrations.django.testing import running
from shop.events import OrderPlaced
from shop.models import Parcel, Stock

PLACED = OrderPlaced(order="A", sku="pot", units=1)
real = pytest.mark.django_db(transaction=True)


def test_an_order_is_packed(django_spine):
    Stock.objects.create(sku="pot", free=1)
    publish(PLACED)
    assert django_spine.published(OrderPlaced) == [PLACED]
    assert django_spine.handle() == 2
    assert Parcel.objects.get().order == "A"


def test_another_does_not_see_it(django_spine):
    assert django_spine.published(OrderPlaced) == []


@real
def test_one_publishes():
    publish(PLACED)


@real
@pytest.mark.parametrize("order", ["B", "C"])
def test_the_engine_of_another_does_not_see_it(django_spine, order):
    Stock.objects.create(sku="pot", free=1)
    publish(OrderPlaced(order=order, sku="pot", units=1))
    with running():
        while not Parcel.objects.exists():
            pass
    assert Parcel.objects.get().order == order
    assert [event.order for event in django_spine.published(OrderPlaced)] == [order]
