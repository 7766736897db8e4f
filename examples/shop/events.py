"""The facts of the shop. A customer's events stay in order, whatever happens to the services."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from eventspine import Event


class OrderPlaced(Event, context="orders", key="customer_id"):
    order_id: int
    customer_id: str
    day: date
    units: int
    amount: Decimal


class StockReserved(Event, context="inventory", key="customer_id"):
    order_id: int
    customer_id: str
    day: date


class StockRefused(Event, context="inventory", key="customer_id"):
    order_id: int
    customer_id: str
    day: date
