"""Who reacts, in processes of their own: `python manage.py spine run`."""

from django.db.models import F

from eventspine import Service
from eventspine.integrations.django import atomic_delivery
from shop.events import OrderPlaced, StockReserved, StockShort
from shop.models import Parcel, Reservation, Stock

warehouse = Service("warehouse")


@warehouse.on(OrderPlaced)
@atomic_delivery
def reserve(event: OrderPlaced) -> StockReserved | StockShort:
    taken = Stock.objects.filter(sku=event.sku, free__gte=event.units).update(free=F("free") - event.units)
    if not taken:
        return StockShort(order=event.order, missing=event.units)
    Reservation.objects.create(order=event.order, sku=event.sku, units=event.units)
    return StockReserved(order=event.order)


@warehouse.on(StockReserved)
@atomic_delivery
def pack(event: StockReserved) -> None:
    Parcel.objects.create(order=event.order)
