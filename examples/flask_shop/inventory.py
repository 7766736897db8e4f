"""The stock, kept with SQLAlchemy's ORM: exactly once, since the session carries "this order is done" too."""

from __future__ import annotations

from eventspine import Service
from eventspine.sync import Delivery

from .shop import OrderPlaced, Stock, sessions

inventory = Service("inventory")


@inventory.on(OrderPlaced)
def reserve(order: OrderPlaced, delivery: Delivery) -> None:
    with sessions() as session:
        stock = session.get(Stock, order.sku) or Stock(sku=order.sku, taken=0)
        stock.taken += order.units
        session.add(stock)
        delivery.join(session)
        session.commit()
