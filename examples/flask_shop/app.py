"""A shop with Flask and SQLAlchemy: an order's row and its event are one commit.

flask --app examples.flask_shop.app run
spine run examples.flask_shop.inventory --journal sqlite:///shop.db
curl localhost:5000/orders -H 'content-type: application/json' -d '{"sku": "teapot", "units": 2}'
"""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from eventspine import Service
from eventspine.integrations.flask import Events
from eventspine.integrations.sqlalchemy import refuse_dual_writes

from .shop import DATABASE, Base, Order, OrderPlaced, engine, sessions

storefront: Service[Any] = Service("storefront", publishes="orders")
events = Events(service=storefront)
refuse_dual_writes(sessions)  # a forgotten within= is an error


def place() -> tuple[dict[str, int], int]:
    wanted = request.get_json()
    with sessions() as session:
        order = Order(sku=wanted["sku"], units=wanted["units"])
        session.add(order)
        session.flush()  # gives the order its id
        placed = OrderPlaced(order_id=order.id, sku=order.sku, units=order.units)
        events.spine.publish(placed, within=session)
        session.commit()
    return {"id": placed.order_id}, 201


def create_app(url: str = f"sqlite:///{DATABASE}") -> Flask:
    Base.metadata.create_all(engine)
    app = Flask(__name__)
    app.config["EVENTSPINE_URL"] = url
    events.init_app(app)
    app.add_url_rule("/orders", view_func=place, methods=["POST"])
    app.add_url_rule("/health", view_func=events.health)
    return app
