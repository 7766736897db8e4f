"""Inventory: reserves stock for an order, unless its customer would then hold more than 20 units of the last 30 days.

spine run examples.shop.inventory
"""

from __future__ import annotations

from datetime import timedelta

from eventspine import Delivery, Service

from .events import OrderPlaced, StockRefused, StockReserved

WINDOW = timedelta(days=30)
UNITS_MAX = 20

inventory = Service("inventory", tables="inventory.sql")

RESERVED = """
    select coalesce(sum(units), 0) as units from inventory_answers
    where customer_id = :customer_id and reserved and day > :window_start and day <= :day
"""
REMEMBER = """
    insert into inventory_answers (number, order_id, customer_id, day, units, reserved)
    select coalesce(max(number), 0) + 1, :order_id, :customer_id, :day, :units, :reserved from inventory_answers
"""


@inventory.on(OrderPlaced)
async def answer_order(order: OrderPlaced, delivery: Delivery) -> StockReserved | StockRefused:
    """The answer commits with its row, or not at all; the query sees all earlier orders of this customer."""
    customer_id, day = order.customer_id, order.day
    [recent] = await delivery.query(RESERVED, customer_id=customer_id, window_start=day - WINDOW, day=day)
    reserved = recent["units"] + order.units <= UNITS_MAX
    delivery.execute(
        REMEMBER, order_id=order.order_id, customer_id=customer_id, day=day, units=order.units, reserved=reserved
    )
    answer = StockReserved if reserved else StockRefused
    return answer(order_id=order.order_id, customer_id=customer_id, day=day)
