"""One event with every kind of field, and a way to make it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec

from eventspine.events import Event, OpenEnum


class Status(Enum):
    OPEN = "open"
    SHUT = "shut"


class Carrier(OpenEnum):
    DHL = "dhl"


class Line(msgspec.Struct, frozen=True):
    sku: str
    weight: float


class Card(msgspec.Struct, frozen=True, tag="card"):
    number: str


class Cash(msgspec.Struct, frozen=True, tag="cash"):
    amount: Decimal


@dataclass(frozen=True)
class Visit:
    at: datetime


class Point(NamedTuple):
    x: float
    y: float


class Price(TypedDict):
    net: Decimal


class Everything(Event, context="samples", key=("number", "uid", "day", "carrier")):
    number: int
    uid: UUID
    day: date
    carrier: Carrier
    text: str
    yes: bool
    fraction: float
    money: Decimal
    at: datetime
    hour: time
    span: timedelta
    raw: bytes
    status: Status
    word: Literal["a", "b"]
    line: Line
    visit: Visit
    paid: Card | Cash
    maybe: datetime | None
    lines: list[Line]
    pair: tuple[int, str]
    points: tuple[Point, ...]
    price: Price
    carriers: set[Carrier]
    fixed: frozenset[Line]
    prices: dict[str, Decimal]
    by_day: dict[date, list[Visit]]
    union: int | float | str | None
    either: list[float] | dict[str, Any]
    anything: Any
    thing: object
    later: datetime | msgspec.UnsetType = msgspec.UNSET


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
UID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")


def everything(**changes: Any) -> Everything:
    values: dict[str, Any] = {
        "number": -5,
        "uid": UID,
        "day": date(2026, 1, 2),
        "carrier": Carrier.DHL,
        "text": 'Zürich 漢 🦀 "\\\n\x00',
        "yes": True,
        "fraction": 0.1,
        "money": Decimal("1.10"),
        "at": NOON,
        "hour": time(9, 30, tzinfo=UTC),
        "span": timedelta(days=-1, seconds=1.5),
        "raw": b"\x00\xff",
        "status": Status.SHUT,
        "word": "b",
        "line": Line("a", 1.5),
        "visit": Visit(NOON),
        "paid": Cash(Decimal(3)),
        "maybe": None,
        "lines": [Line("a", 1.5), Line("b", 2.0)],
        "pair": (1, "a"),
        "points": (Point(1.0, 2.0),),
        "price": {"net": Decimal("0.50")},
        "carriers": {Carrier.DHL, Carrier("drone")},
        "fixed": frozenset([Line("a", 1.5)]),
        "prices": {"a:b": Decimal("1e-9")},
        "by_day": {date(2026, 1, 2): [Visit(NOON)]},
        "union": 2**63,
        "either": {"a": [1, {"b": None}]},
        "anything": {"deep": [1, 2.5, "x", None, True]},
        "thing": ["a"],
    }
    return Everything(**{**values, **changes})
