"""`python manage.py test`, on Django's own test database in memory."""

from django.test import TestCase

from eventspine.integrations.django.testing import SpineTests
from shop.events import OrderPlaced, StockReserved, StockShort
from shop.models import Parcel, Reservation, Stock


class Checkout(SpineTests, TestCase):
    def setUp(self) -> None:
        super().setUp()
        Stock.objects.create(sku="teapot", free=3)

    def place(self, number: str, units: int) -> int:
        order = {"number": number, "sku": "teapot", "units": units}
        return self.client.post("/orders/", order).status_code

    def test_an_order_is_published_once(self) -> None:
        self.assertEqual(self.place("A-1", 2), 201)
        self.assertEqual(self.place("A-1", 2), 200)
        self.assertEqual(self.published(OrderPlaced), [OrderPlaced(order="A-1", sku="teapot", units=2)])

    def test_it_is_reserved_and_packed(self) -> None:
        self.place("A-1", 2)
        self.handle()
        self.assertEqual(Stock.objects.get().free, 1)
        self.assertEqual(Reservation.objects.get().order, "A-1")
        self.assertEqual(self.published(StockReserved), [StockReserved(order="A-1")])
        self.assertEqual(Parcel.objects.get().order, "A-1")

    def test_what_is_not_there_is_not_reserved(self) -> None:
        self.place("A-1", 4)
        self.handle()
        self.assertEqual(self.published(StockShort), [StockShort(order="A-1", missing=4)])
        self.assertEqual(Stock.objects.get().free, 3)
        self.assertFalse(Parcel.objects.exists())
