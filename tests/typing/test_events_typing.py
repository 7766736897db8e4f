"""Events as a user types them. Checked by mypy --strict and pyright: an unneeded ignore is an error to both."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedClass=false

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import assert_type

import msgspec
import pytest

from eventspine.errors import DeclarationError
from eventspine.events import Event, EventType, OpenEnum, describe, event


class OrderPlaced(Event, context="orders", key="customer_id", version=2):
    order_id: str
    customer_id: str
    amount: Decimal
    lines: list[str] = msgspec.field(default_factory=list[str])
    note: str = ""


class Carrier(OpenEnum):
    DHL = "dhl"


class Shipped(Event, context="shipping", key="carrier", tenant="shop", type="shipping.Sent"):
    shop: str
    carrier: Carrier


@event(context="orders", key="order_id")
@dataclass(frozen=True)
class Cancelled:
    order_id: str


def test_fields_are_typed_and_keyword_only() -> None:
    placed = OrderPlaced(order_id="1", customer_id="c7", amount=Decimal(1))
    assert_type(placed.amount, Decimal)
    assert_type(placed.lines, list[str])
    with pytest.raises(TypeError):
        OrderPlaced("1", "c7", Decimal(1))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        OrderPlaced(order_id="1")  # type: ignore[call-arg]
    OrderPlaced(order_id=1, customer_id="c7", amount=Decimal(1))  # type: ignore[arg-type]


def test_events_are_frozen() -> None:
    placed = OrderPlaced(order_id="1", customer_id="c7", amount=Decimal(1))
    with pytest.raises(AttributeError):
        placed.order_id = "2"  # type: ignore[misc]


def test_the_class_keywords_are_known() -> None:
    with pytest.raises(DeclarationError):

        class Wrong(Event, context="orders", unheard_of=True):  # type: ignore[call-arg]
            pass


def test_the_decorator_gives_the_class_back() -> None:
    assert_type(Cancelled("1").order_id, str)
    with pytest.raises(TypeError):
        Cancelled()  # type: ignore[call-arg]


def test_descriptions_are_typed() -> None:
    known = describe(OrderPlaced)
    assert_type(known, EventType)
    assert_type(known.version, int)
    assert_type(known.encode(OrderPlaced(order_id="1", customer_id="c", amount=Decimal(1))), bytes)


def test_an_open_enum_is_an_enum_of_text() -> None:
    shipped = Shipped(shop="s", carrier=Carrier("drone"))
    assert_type(shipped.carrier, Carrier)
    assert_type(shipped.carrier.known, bool)
    text: str = shipped.carrier
    assert text == "drone"
