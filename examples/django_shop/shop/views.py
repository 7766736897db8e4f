from asgiref.sync import sync_to_async
from django.db import transaction
from django.db.models import Sum
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_POST

from eventspine.integrations.django import publish
from shop.events import OrderPlaced
from shop.models import Order, Parcel, Reservation, Stock


@transaction.atomic
def place(number: str, sku: str, units: int) -> bool:
    """The order and the event about it: both are stored, or neither."""
    order, new = Order.objects.get_or_create(number=number, defaults={"sku": sku, "units": units})
    if new:
        publish(OrderPlaced(order=order.number, sku=order.sku, units=order.units))
    return new


@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    new = place(request.POST["number"], request.POST["sku"], int(request.POST["units"]))
    return JsonResponse({"new": new}, status=201 if new else 200)


async def place_order_async(request: HttpRequest) -> JsonResponse:
    """Django has no transactions in `async def`: what belongs together stands in a function of its own."""
    new = await sync_to_async(place)(request.POST["number"], request.POST["sku"], int(request.POST["units"]))
    return JsonResponse({"new": new}, status=201 if new else 200)


def books(_: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "orders": Order.objects.count(),
            "reservations": Reservation.objects.count(),
            "reserved": Reservation.objects.aggregate(units=Sum("units", default=0))["units"],
            "parcels": Parcel.objects.count(),
            "free": Stock.objects.aggregate(units=Sum("free", default=0))["units"],
        }
    )
