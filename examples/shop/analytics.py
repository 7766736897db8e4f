"""Analytics: revenue per day and per customer, in whole cents, in two tables that anyone may query.

spine run examples.shop.analytics
"""

from __future__ import annotations

from eventspine import Delivery, Service

from .events import OrderPlaced

analytics = Service("analytics", tables="analytics.sql")

ADD_TO_DAY = """
    insert into analytics_days as days (day, orders, units, cents) values (:day, 1, :units, :cents)
    on conflict (day) do update
    set orders = days.orders + 1, units = days.units + excluded.units, cents = days.cents + excluded.cents
"""
ADD_TO_CUSTOMER = """
    insert into analytics_customers as customers (customer_id, orders, units, cents) values (:customer_id, 1, :units, :cents)
    on conflict (customer_id) do update
    set orders = customers.orders + 1, units = customers.units + excluded.units, cents = customers.cents + excluded.cents
"""


@analytics.on(OrderPlaced)
async def add_up(order: OrderPlaced, delivery: Delivery) -> None:
    cents = int(order.amount * 100)
    delivery.execute(ADD_TO_DAY, day=order.day, units=order.units, cents=cents)
    delivery.execute(ADD_TO_CUSTOMER, customer_id=order.customer_id, units=order.units, cents=cents)
