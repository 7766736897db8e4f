"""Encoding: what goes in comes out, and what no reader could read is refused, naming the place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from eventspine.errors import EventRefused, Undecodable
from eventspine.events import Event, describe
from eventspine.events.checks import Walk
from eventspine.events.codec import DEPTH_MAX, encoder, raw_codec

from .everything import NOON, Card, Carrier, Cash, Everything, Line, Point, Visit, everything

KNOWN = describe(Everything)
NAN, INFINITY = float("nan"), float("inf")
NAIVE = datetime(2026, 1, 2)  # noqa: DTZ001


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"maybe": NOON, "later": NOON},
        {"either": [1.5]},
        {"at": NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))},
        {"at": NOON.astimezone(ZoneInfo("Europe/Berlin"))},
        {"paid": Card("4"), "carrier": Carrier("drone"), "union": None},
        {"union": -(2**63)},
        {"lines": [], "points": (), "prices": {}, "carriers": set(), "text": ""},
        {"money": Decimal("-0.00"), "fraction": 5e-324, "anything": None},
        {"number": 10**60},
    ],
)
def test_an_event_comes_back_as_it_went(changes: dict[str, Any]) -> None:
    before = everything(**changes)
    after = KNOWN.decode(KNOWN.encode(before))
    assert after == before


def test_a_decimal_is_text_on_the_wire_and_keeps_its_digits() -> None:
    assert b'"money":"1.10"' in KNOWN.encode(everything())


def test_a_whole_number_in_its_place_is_one() -> None:
    money = KNOWN.decode(KNOWN.encode(everything(money=3))).money
    assert (money, type(money)) == (Decimal(3), Decimal)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"fraction": NAN}, "fraction", "JSON can't carry"),
    ({"fraction": -INFINITY}, "fraction", "JSON can't carry"),
    ({"money": Decimal("NaN")}, "money", "no number"),
    ({"money": Decimal("sNaN")}, "money", "no number"),
    ({"money": Decimal("-Infinity")}, "money", "no number"),
    ({"money": NAN}, "money", "JSON can't carry"),
    ({"money": 0.1 + 0.2}, "money", "a float is not exact. Make a Decimal of text, such as Decimal('0.3')"),
    ({"at": NAIVE}, "at", "without a time zone"),
    ({"maybe": NAIVE}, "maybe", "without a time zone"),
    ({"later": NAIVE}, "later", "without a time zone"),
    ({"hour": time(9)}, "hour", "without a UTC offset"),
    ({"hour": time(9, tzinfo=ZoneInfo("Europe/Berlin"))}, "hour", "without a UTC offset"),
    ({"line": Line("a", NAN)}, "line.weight", "JSON can't carry"),
    ({"lines": [Line("a", 1.0), Line("b", INFINITY)]}, "lines[1].weight", "JSON can't carry"),
    ({"visit": Visit(NAIVE)}, "visit.at", "without a time zone"),
    ({"paid": Cash(Decimal("NaN"))}, "paid.amount", "no number"),
    ({"points": (Point(1.0, 2.0), Point(1.0, NAN))}, "points[1][1]", "JSON can't carry"),
    ({"price": {"net": Decimal("NaN")}}, "price['net']", "no number"),
    ({"fixed": frozenset([Line("a", NAN)])}, "fixed[0].weight", "JSON can't carry"),
    ({"prices": {"a": Decimal(1), "b": Decimal("NaN")}}, "prices['b']", "no number"),
    ({"by_day": {date(2026, 1, 2): [Visit(NAIVE)]}}, "by_day[datetime.date(2026, 1, 2)][0].at", "time zone"),
    ({"union": NAN}, "union", "JSON can't carry"),
    ({"either": [1.0, NAN]}, "either[1]", "JSON can't carry"),
    ({"either": {"a": {"b": (NAIVE,)}}}, "either['a']['b'][0]", "time zone"),
    ({"anything": [{"k": Line("a", NAN)}]}, "anything[0]['k'].weight", "JSON can't carry"),
    ({"anything": {NAN: 1}}, "anything[a key]", "JSON can't carry"),
    ({"thing": [NAN]}, "thing[0]", "JSON can't carry"),
    ({"text": "a\ud800"}, "text", "lone surrogate"),
    ({"anything": {"a": "\udfff"}}, "anything['a']", "lone surrogate"),
    ({"anything": {"\udfff": 1}}, "anything[a key]", "lone surrogate"),
    ({"number": 10**5000}, "number", "bits"),
    ({"anything": [object()]}, "anything[0]", "of type object"),
    ({"money": "abc"}, "money", "of type str, where the class says a number"),
    ({"fraction": "abc"}, "fraction", "of type str, where the class says a number"),
    ({"fraction": 10**400}, "fraction", "where the class says a number"),
    ({"at": 5}, "at", "where the class says a datetime or time"),
]


@pytest.mark.parametrize(("changes", "path", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_what_json_can_not_carry_is_refused_with_its_path(changes: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(EventRefused) as refused:
        KNOWN.encode(everything(**changes))
    assert refused.value.details["path"] == path
    assert f"samples.Everything: {path} " in str(refused.value)
    assert reason in str(refused.value)


@pytest.mark.parametrize("changes", [{"anything": {(1, 2): 3}}, {"line": "no line"}, {"anything": {True: 1}}])
def test_whatever_else_fails_is_refused_too(changes: dict[str, Any]) -> None:
    with pytest.raises(EventRefused, match=r"samples\.Everything"):
        KNOWN.encode(everything(**changes))


def test_fields_that_are_not_set_are_left_out() -> None:
    class Partial(Event, context="samples"):
        weights: list[float] | msgspec.UnsetType = msgspec.UNSET
        prices: dict[str, Decimal] | msgspec.UnsetType = msgspec.UNSET
        line: Line | msgspec.UnsetType = msgspec.UNSET
        at: datetime | msgspec.UnsetType = msgspec.UNSET
        weight: float | msgspec.UnsetType = msgspec.UNSET
        money: Decimal | msgspec.UnsetType = msgspec.UNSET

    assert describe(Partial).encode(Partial()) == b"{}"
    assert describe(Partial).decode(b"{}") == Partial()


def test_none_where_a_value_belongs_is_found_before_it_is_published() -> None:
    for field in ("money", "at", "lines", "prices", "line"):
        with pytest.raises(EventRefused, match=rf"{field}: Expected `.*`, got `null`"):
            KNOWN.prove(KNOWN.encode(everything(**{field: None})))


def test_without_the_check_a_nan_would_become_null() -> None:
    raw_encode, _ = raw_codec(Everything)
    unchecked = encoder("samples.Everything", raw_encode, None, bounded=False)
    assert b'"fraction":null' in unchecked(everything(fraction=NAN))
    assert b'"at":"2026-01-02T00:00:00"' in unchecked(everything(at=NAIVE))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_is_limited_to_what_readers_accept() -> None:
    deepest = everything(anything=nested(DEPTH_MAX - 1))  # the event itself is a level
    assert KNOWN.decode(KNOWN.encode(deepest)) == deepest
    with pytest.raises(EventRefused, match="deeper than 64"):
        KNOWN.encode(everything(anything=nested(DEPTH_MAX)))
    with pytest.raises(EventRefused, match="nested"):
        KNOWN.encode(everything(anything=nested(100_000)))


def test_what_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EventRefused, match="contains itself"):
        KNOWN.encode(everything(anything=loop))


class Plain(Event, context="samples"):
    order_id: str
    units: int
    day: date
    lines: list[tuple[str, int]]
    note: str | None = None


def test_a_class_without_such_fields_is_not_checked_at_all() -> None:
    types = {field.name: field.type for field in msgspec.inspect.type_info(Plain).fields}  # type: ignore[attr-defined]
    walk = Walk("Plain")
    assert walk.fields(Plain, types) is None
    assert walk.bounded


def test_bytes_that_the_class_could_not_read_back_are_found_before_they_are_published() -> None:
    known = describe(Plain)
    wrong = Plain(order_id=5, units=1, day=date(2026, 1, 2), lines=[])  # type: ignore[arg-type]
    with pytest.raises(EventRefused, match="order_id: Expected `str`, got `int`"):
        known.prove(known.encode(wrong))
    with pytest.raises(Undecodable):  # as every reader would find, were it not for prove
        known.decode(known.encode(wrong))
    known.prove(known.encode(Plain(order_id="5", units=1, day=date(2026, 1, 2), lines=[("a", 1)])))


@dataclass
class Chain:
    weight: float
    next: Chain | None = None


class Chained(Event, context="samples"):
    first: Chain


def test_types_that_contain_themselves_are_checked_to_the_end() -> None:
    known = describe(Chained)
    assert known.decode(known.encode(Chained(first=Chain(1.0, Chain(2.0))))) == Chained(first=Chain(1.0, Chain(2.0)))
    with pytest.raises(EventRefused) as refused:
        known.encode(Chained(first=Chain(1.0, Chain(2.0, Chain(NAN)))))
    assert refused.value.details["path"] == "first.next.next.weight"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text() | st.decimals() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


class Anything(Event, context="samples"):
    value: Any


@given(json_values)
def test_any_value_is_either_refused_or_readable(value: Any) -> None:
    known = describe(Anything)
    try:
        data = known.encode(Anything(value=value))
    except EventRefused:
        return
    assert known.encode(known.decode(data)) == data


@given(st.floats(), st.decimals(), st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=False))
@example(0.0, Decimal(0), datetime(2013, 4, 7, 2, tzinfo=ZoneInfo("Australia/ACT")))  # it comes again an hour later
def test_checked_fields_are_either_refused_or_come_back(number: float, money: Decimal, at: datetime) -> None:
    class Checked(Event, context="samples"):
        number: float
        money: Decimal
        at: datetime

    known, before = describe(Checked), Checked(number=number, money=money, at=at)
    offset = at.utcoffset()
    whole = offset is not None and offset % timedelta(minutes=1) == timedelta(0)
    fit = number - number == 0 and money.is_finite() and whole  # offsets on the wire have no seconds
    try:
        after = known.decode(known.encode(before))
    except EventRefused:
        assert not fit
    else:
        assert fit
        assert (after.number, after.money) == (number, money)
        # Not `after.at == at`: an hour that comes twice equals nothing of another zone (PEP 495).
        assert (after.at.astimezone(UTC), after.at.utcoffset()) == (at.astimezone(UTC), offset)
