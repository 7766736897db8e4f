"""Declaring events: what is known about a class, and what is refused when it is made."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

from eventspine.errors import DeclarationError
from eventspine.events import Event, OpenEnum, describe, event


class OrderPlaced(Event, context="orders", key="customer_id"):
    order_id: str
    customer_id: str


class Tree(Event, context="shapes"):
    name: str
    left: Tree | None = None
    right: Tree | None = None


class Announced(Event, context="shapes"):
    what: Later


@dataclass(frozen=True)
class Later:
    when: date


def test_a_class_says_its_context_name_version_and_key() -> None:
    known = describe(OrderPlaced)
    placed = OrderPlaced(order_id="1", customer_id="c7")

    assert (known.cls, known.context, known.name) == (OrderPlaced, "orders", "orders.OrderPlaced")
    assert (known.version, known.version_declared, known.tenant) == (1, False, None)
    assert known.key_of(placed) == "c7"
    assert repr(known) == "<EventType orders.OrderPlaced version 1>"


def test_a_name_and_a_version_can_be_stated() -> None:
    class Renamed(Event, context="orders", type="com.shop.order-placed", version=3):
        order_id: str

    assert describe(Renamed).name == "com.shop.order-placed"
    assert (describe(Renamed).version, describe(Renamed).version_declared) == (3, True)


def test_events_are_frozen_and_keyword_only() -> None:
    placed = OrderPlaced(order_id="1", customer_id="c7")
    with pytest.raises(AttributeError):
        placed.order_id = "2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        OrderPlaced("1", "c7")  # type: ignore[misc]


def test_two_classes_of_one_type_live_in_one_process() -> None:
    class Narrow(Event, context="orders", key="customer_id", type="orders.OrderPlaced"):
        customer_id: str

    data = describe(OrderPlaced).encode(OrderPlaced(order_id="1", customer_id="c7"))

    assert describe(Narrow).decode(data) == Narrow(customer_id="c7")
    assert describe(OrderPlaced).decode(data) == OrderPlaced(order_id="1", customer_id="c7")


def test_the_field_whose_type_is_refused_is_named() -> None:
    with pytest.raises(DeclarationError, match=r"Moved has a field 'when' that can't be encoded: Type unions may not"):

        class Moved(Event, context="orders"):
            order_id: str
            when: datetime | str

    with pytest.raises(DeclarationError, match=r"Kept has a field 'when' that can't be encoded: Type unions may not"):

        @event(context="orders")
        @dataclass(frozen=True)
        class Kept:
            order_id: str
            when: list[datetime | str]


def test_a_base_without_a_context_is_no_event() -> None:
    class Base(Event):
        customer_id: str

    class Placed(Base, context="orders", key="customer_id"):
        order_id: str

    assert describe(Placed).key_of(Placed(order_id="1", customer_id="c7")) == "c7"
    with pytest.raises(DeclarationError, match="only a base"):
        describe(Base)


def test_context_key_and_tenant_are_inherited_and_name_and_version_are_not() -> None:
    class OrderEvent(Event, context="orders", key="customer_id", tenant="shop", version=4, type="x"):
        customer_id: str
        shop: str

    class Placed(OrderEvent):
        order_id: str

    class Unordered(OrderEvent, key=None):
        pass

    placed = Placed(order_id="1", customer_id="c7", shop="s")
    assert (describe(Placed).name, describe(Placed).version) == ("orders.Placed", 1)
    assert describe(Placed).key_of(placed) == "s:c7"
    assert describe(Unordered).key_of(Unordered(customer_id="c7", shop="s")) is None


def test_a_subclass_of_a_dataclass_event_does_not_pass_for_it() -> None:
    @event(context="orders")
    @dataclass(frozen=True)
    class Placed:
        order_id: str

    @dataclass(frozen=True)
    class More(Placed):
        note: str

    assert describe(Placed).name == "orders.Placed"
    with pytest.raises(DeclarationError, match="More is not an event"):
        describe(More)


def test_a_dataclass_is_given_back_as_it_is() -> None:
    @dataclass(frozen=True, slots=True)
    class Placed:
        order_id: str
        customer_id: int

    same = event(context="orders", key="customer_id", version=2)(Placed)
    known = describe(Placed)

    assert same is Placed
    assert known.version == 2
    assert known.decode(known.encode(Placed("1", 7))) == Placed("1", 7)
    assert known.key_of(Placed("1", 7)) == "7"


def test_types_may_be_defined_after_the_event_that_names_them() -> None:
    known = describe(Announced)
    announced = Announced(what=Later(date(2026, 1, 2)))
    assert known.decode(known.encode(announced)) == announced


def test_an_event_may_contain_itself() -> None:
    known = describe(Tree)
    tree = Tree(name="a", left=Tree(name="b"))
    assert known.decode(known.encode(tree)) == tree


def test_types_defined_inside_a_function_are_found() -> None:
    class Line(msgspec.Struct, frozen=True):
        sku: str

    class Placed(Event, context="orders"):
        lines: list[Line]

    known = describe(Placed)
    assert known.decode(b'{"lines":[{"sku":"a"}]}') == Placed(lines=[Line("a")])


def test_a_type_that_is_nowhere_is_named_when_the_event_is_first_used() -> None:
    class Placed(Event, context="orders"):
        line: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match="'Nowhere' is not defined"):
        describe(Placed)


def test_fields_can_have_other_names_on_the_wire() -> None:
    class Placed(Event, context="orders", key="customer_id", rename="camel"):
        customer_id: str
        order: str = msgspec.field(name="order-number")

    known = describe(Placed)
    placed = known.decode(b'{"customerId":"c7","order-number":"1"}')
    assert placed == Placed(customer_id="c7", order="1")
    assert known.key_of(placed) == "c7"


class Mixed(Enum):
    A = 1
    B = "1"


KEY_TYPES_REFUSED: list[Any] = [
    int | None,
    str | int,
    bool,
    float,
    datetime,
    list[str],
    Any,
    Literal["a"],
    dict[str, str],
    bytes,
]


@pytest.mark.parametrize("declared", KEY_TYPES_REFUSED)
@pytest.mark.parametrize("word", ["key", "tenant"])
def test_a_key_of_another_type_is_refused_when_the_class_is_made(declared: Any, word: str) -> None:
    with pytest.raises(DeclarationError, match="str, int, UUID, date and enum"):
        make({"place": declared, "plain": str}, **{"key": "plain", word: "place"})


def test_an_enum_of_mixed_values_is_no_key() -> None:
    with pytest.raises(DeclarationError):
        make({"place": Mixed}, key="place")


class Colour(OpenEnum):
    RED = "red"


@pytest.mark.parametrize("declared", [str, int, UUID, date, Colour, "Annotated"])
def test_a_key_of_a_fitting_type_is_accepted(declared: Any) -> None:
    from typing import Annotated

    declared = Annotated[str, msgspec.Meta(max_length=5)] if declared == "Annotated" else declared
    assert describe(make({"place": declared}, key="place")).key == ("place",)


def make(fields: dict[str, Any], **keywords: Any) -> type:
    """An event class made from its fields, as a `class` statement would."""
    return type(Event)("Made", (Event,), {"__annotations__": fields, "__module__": __name__}, context="c", **keywords)


@pytest.mark.parametrize("context", ["Orders", "", "1a", "a b", "a..b", ".a", "a.", "ä", "a" * 101, 5, None, "a\n"])
def test_a_context_outside_the_grammar_is_refused(context: Any) -> None:
    with pytest.raises(DeclarationError, match="context is lower-case words"):
        type(Event)("Made", (Event,), {"__module__": __name__}, context=context)


@pytest.mark.parametrize("context", ["orders", "shop.orders", "a-b_c.d1", "a" * 100])
def test_a_context_inside_the_grammar_is_accepted(context: str) -> None:
    assert describe(type(Event)("Made", (Event,), {"__module__": __name__}, context=context)).context == context


@pytest.mark.parametrize("name", ["", "9a", "a b", "a/b", "a:b", "ä", "a" * 201, 5, "a\n"])
def test_a_type_outside_the_grammar_is_refused(name: Any) -> None:
    with pytest.raises(DeclarationError, match="type is a name"):
        make({}, type=name)


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.0])
def test_a_version_is_a_whole_number_from_one_on(version: Any) -> None:
    with pytest.raises(DeclarationError, match="version"):
        make({"a": str}, version=version)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"key": "nowhere"}, "no such field; its fields are a, b"),
        ({"key": ("a", "nowhere")}, "no such field"),
        ({"tenant": "nowhere"}, "no such field"),
        ({"key": ("a", "a")}, "twice"),
        ({"key": "a", "tenant": "a"}, "twice"),
        ({"key": 5}, "neither the name of a field"),
    ],
)
def test_a_key_that_names_no_field_is_refused(keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        make({"a": str, "b": str}, **keywords)


NOT_ENCODABLE: list[Any] = [
    socket.socket,
    complex,
    type,
    Callable[[], int],
    msgspec.Raw,
    list[complex],
    dict[str, socket.socket],
    complex | None,
    set[dict[str, int]],
    set[list[int]],
    frozenset[bytearray],
    set[tuple[int, list[int]]],
    set[tuple[dict[str, int], ...]],
    set[str | list[int]],
    dict[tuple[int, int], str],
    dict[bool, str],
    str | UUID,
    datetime | date,
    Mixed,
]


@pytest.mark.parametrize("declared", NOT_ENCODABLE, ids=str)
def test_a_field_that_can_not_be_encoded_is_refused_when_the_class_is_made(declared: Any) -> None:
    with pytest.raises(DeclarationError, match="Made"):
        make({"field": declared})


def test_the_refusal_names_the_place_inside_nested_types() -> None:
    class Inner(msgspec.Struct):
        handle: list[complex]

    with pytest.raises(DeclarationError, match=r"Made\.inner\.handle\[\.\.\.\] is a complex"):
        make({"inner": Inner | None})


def test_a_set_of_what_can_change_is_refused() -> None:
    class Changing(msgspec.Struct):
        a: int

    class Fixed(msgspec.Struct, frozen=True):
        a: int

    @dataclass
    class Written:
        a: int

    assert describe(make({"field": set[Fixed]}))
    assert describe(make({"field": set[Later | None]}))
    for changing in (Changing, Written):
        with pytest.raises(DeclarationError, match="frozen"):
            make({"field": set[changing]})  # type: ignore[valid-type]


def test_an_unknown_option_of_the_class_line_is_told_with_the_known_ones() -> None:
    known = (
        "no such option in its class line: verison. Known: context, key, type, version, tenant, rename, renamed_from"
    )
    with pytest.raises(DeclarationError, match=f"class Made: {known}"):
        type(Event)("Made", (Event,), {"__module__": __name__}, context="orders", verison=2)


def test_other_mistakes_are_told() -> None:
    with pytest.raises(DeclarationError, match="not whose: add context="):
        type(Event)("Made", (Event,), {"__annotations__": {"a": str}, "__module__": __name__}, key="a")
    with pytest.raises(DeclarationError, match="neither a dataclass nor a pydantic model"):
        event(context="orders")(int)
    with pytest.raises(DeclarationError, match="is an Event; say context="):
        event(context="orders")(OrderPlaced)
    with pytest.raises(DeclarationError, match=r"int is not an event\. Derive it from Event"):
        describe(int)
    for several in (list, tuple, type(_ for _ in ())):
        with pytest.raises(DeclarationError, match=r"one by one, as in publish\(\*events\)"):
            describe(several)
    with pytest.raises(DeclarationError, match="not a class"):
        describe(OrderPlaced(order_id="1", customer_id="c"))  # type: ignore[arg-type]
