"""Commands and their handlers are refused where they are written, with a word on what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import new_class
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from eventspine import Command, Event, Service, Spine
from eventspine.commands.declare import describe_command
from eventspine.errors import CommandRefused, DeclarationError, SettingsError

from .shop import Cancel, PlaceOrder, Shop


class Line(msgspec.Struct):
    sku: str
    units: Annotated[int, msgspec.Meta(gt=0)]


class Priced(Command[dict[str, Decimal]], context="orders", key=("shop", "customer"), tenant="tenant", version=3):
    tenant: str
    shop: int
    customer: str
    lines: list[Line]
    tags: set[str] = msgspec.field(default_factory=set)


def made(base: Any, name: str, namespace: dict[str, Any]) -> Any:
    return new_class(name, (base,), {"context": "orders"}, lambda ours: ours.update(namespace))


def priced(**given: Any) -> Priced:
    return Priced(**{"tenant": "nl", "shop": 7, "customer": "ann", "lines": [Line("teapot", 1)], **given})


def test_a_command_says_who_owns_it_what_it_is_about_and_what_it_is_answered_with() -> None:
    kind = describe_command(Priced)
    assert (kind.name, kind.context, kind.version) == ("orders.Priced", "orders", 3)
    assert kind.result == dict[str, Decimal]
    assert kind.key_of(priced()) == "nl:7:ann"


def test_a_command_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        PlaceOrder().units = 3  # type: ignore[misc]


def test_a_base_says_the_context_and_the_result_for_those_below() -> None:
    class Ours(Command[int], context="orders", key="id"):
        id: str

    class Count(Ours):
        all: bool = False

    kind = describe_command(Count)
    assert (kind.name, kind.key, kind.result) == ("orders.Count", ("id",), int)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"customer": 3}, "customer: Expected `str`, got `int`"),
        ({"lines": [Line("teapot", 0)]}, r"lines\[0\].units: Expected `int` >= 1"),
        ({"lines": "many"}, "lines: Expected `array`"),
        ({"customer": "\ud800"}, "customer"),
        ({"tags": {"x" * 1_000_001}}, "1,000,0.. bytes; a command has at most 1,000,000"),
    ],
)
def test_a_command_that_is_none_is_refused_and_says_where(bad: dict[str, Any], told: str) -> None:
    with pytest.raises(CommandRefused, match=told) as caught:
        describe_command(Priced).admit(priced(**bad))
    assert str(caught.value).startswith("orders.Priced")
    assert str(caught.value).endswith("Nothing was done.")


@pytest.mark.parametrize("bytes", [b"", b"{", b"[]", b"null", b'{"customer":1}', b"\xff", b"[" * 100_000])
def test_whatever_the_bytes_are_they_are_a_command_or_refused(bytes: bytes) -> None:
    with pytest.raises(CommandRefused):
        describe_command(Cancel).admitted(bytes)


def test_equal_commands_are_the_same_whatever_order_their_sets_have() -> None:
    kind = describe_command(Priced)
    tags = [f"tag {n}" for n in range(40)]
    backwards = tags[::-1]
    one, other = priced(tags=set(tags)), priced(tags=set(backwards))
    assert kind.same(one) == kind.same(other) != kind.same(priced(tags=set(tags[1:])))


def test_a_field_that_a_release_adds_with_a_default_leaves_the_command_the_same() -> None:
    def of(namespace: dict[str, Any], **fields: Any) -> Any:
        annotations = {name: type(value) for name, value in fields.items()}
        return made(Command[None], "Move", {"__annotations__": annotations, **namespace})

    older, newer = of({}, to="x"), of({"fast": False}, to="x", fast=False)
    assert describe_command(older).same(older(to="a")) == describe_command(newer).same(newer(to="a"))


# --- what can't be declared --------------------------------------------------------------------------------------------


def test_a_command_has_to_say_its_result() -> None:
    with pytest.raises(DeclarationError, match=re.escape("Command[OrderId]")):

        class Bare(Command, context="orders"):  # type: ignore[type-arg]
            pass

    with pytest.raises(DeclarationError, match="no type"):

        class Text(Command["UUID"], context="orders"):
            pass


def test_an_unknown_option_of_the_class_line_is_told_with_the_known_ones() -> None:
    known = "context, key, type, version, tenant, rename"
    with pytest.raises(DeclarationError, match=f"class Wrong: no such option in its class line: keys. Known: {known}."):

        class Wrong(Command[None], context="orders", keys="id"):  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            id: str


def test_a_command_has_to_say_whose_it_is() -> None:
    with pytest.raises(DeclarationError, match="add context="):

        class Nobodys(Command[None], key="id"):
            id: str

    class Base(Command[None]):
        id: str

    with pytest.raises(DeclarationError, match="only a base"):
        describe_command(Base)


def test_a_result_has_to_be_json() -> None:
    class Socket:
        pass

    with pytest.raises(DeclarationError, match=r"answered with Socket, which is no JSON"):

        class Open(Command[Socket], context="orders"):
            pass


class Model(pydantic.BaseModel):
    id: int


@dataclass
class Data:
    id: int


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (Model, Model(id=1)),
        (Data, Data(1)),
        (list[Model], [Model(id=1)]),
        (UUID | None, None),
        (None, None),
        (Line, Line("a", 1)),
    ],
)
def test_results_are_what_json_can_say(result: Any, value: Any) -> None:
    kind = describe_command(made(Command[result], "Ask", {}))
    assert kind.read_result(kind.write_result(value, "orders.ask")) == value


def test_facts_and_commands_are_not_taken_for_one_another() -> None:
    class Placed(Event, context="orders"):
        pass

    shop = Service("orders")
    with pytest.raises(DeclarationError, match=r"is a command.*send it"):
        shop.on(PlaceOrder)(place)
    with pytest.raises(DeclarationError, match="is an event"):
        shop.command(Placed)  # type: ignore[type-var, unused-ignore]
    with pytest.raises(DeclarationError, match="is not a command"):
        shop.command(int)  # type: ignore[type-var, unused-ignore]


# --- handlers -----------------------------------------------------------------------------------------------------------


async def place(command: PlaceOrder) -> UUID:
    return UUID(int=0)


def test_the_decorator_gives_the_function_back() -> None:
    assert Service("orders").command(PlaceOrder)(place) is place


def test_a_command_has_one_handler() -> None:
    shop = Service("orders")
    shop.command(PlaceOrder, name="first")(place)
    with pytest.raises(
        DeclarationError, match=r"orders\.place is to handle orders\.PlaceOrder, and orders\.first handles it already"
    ):
        shop.command(PlaceOrder)(place)


def test_two_services_of_one_process_do_not_handle_one_command() -> None:
    first, second = Service("orders"), Service("shop", publishes="orders")
    first.command(PlaceOrder)(place)
    second.command(PlaceOrder)(place)
    with pytest.raises(SettingsError, match=r"orders\.PlaceOrder is handled by orders\.place and by shop\.place"):
        Spine("memory://", service=first, commands=[second])


async def test_nor_does_one_that_is_started_later() -> None:
    first, second = Service("orders"), Service("shop", publishes="orders")
    first.command(PlaceOrder)(place)
    second.command(PlaceOrder)(place)
    async with Spine("memory://", service=first) as spine:
        with pytest.raises(SettingsError, match="is handled by orders.place and by shop.place"):
            async with spine.running(second):
                pass


def test_only_who_owns_the_context_handles_its_commands() -> None:
    with pytest.raises(DeclarationError, match=r"owned by the context 'orders', and the service 'web' publishes 'web'"):
        Service("web").command(PlaceOrder)(place)


def test_commands_of_another_module_are_included() -> None:
    shop, part = Service("orders"), Service("orders")
    part.command(PlaceOrder)(place)
    shop.include(part)
    assert list(shop.commands) == ["orders.PlaceOrder"]
    with pytest.raises(DeclarationError, match="handles it already"):
        shop.include(part)


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda shop: shop.command(place), r"in parentheses: @orders\.command\(PlaceOrder\)"),
        (lambda shop: shop.command(PlaceOrder)(lambda: None), "can't name a handler"),
        (lambda shop: shop.command(PlaceOrder, name="place")(lambda: None), "takes 0 arguments"),
        (
            lambda shop: shop.command(Cancel, name="cancel")(place),
            r"orders\.cancel handles Cancel, and is to take PlaceOrder",
        ),
        (lambda shop: shop.command(PlaceOrder, timeout_s=0)(place), "timeout_s=0"),
        (lambda shop: shop.command(PlaceOrder, timeout_s="5")(place), "timeout_s='5'"),
        (lambda shop: shop.command(PlaceOrder, conflict_tries=0)(place), "conflict_tries=0"),
        (lambda shop: shop.command(PlaceOrder, retries=3)(place), "no such option: retries. Known: name, timeout_s"),
        (lambda shop: shop.command(PlaceOrder)(3), "stands above a function"),
    ],
)
def test_what_stands_wrong_is_said(declare: Callable[[Any], Any], told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        declare(Service("orders"))


def test_a_handler_has_no_yield_in_it() -> None:
    with pytest.raises(DeclarationError, match="yield"):

        @Service("orders").command(PlaceOrder)  # type: ignore[arg-type, misc, unused-ignore]
        async def parts(command: PlaceOrder) -> Any:
            yield 1


def test_services_are_given_as_a_list() -> None:
    with pytest.raises(SettingsError, match=r"commands=\[orders\]"):
        Spine("memory://", commands=Shop().service)  # type: ignore[arg-type]
