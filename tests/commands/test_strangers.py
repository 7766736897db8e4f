"""A field that a client sent and the class doesn't have is found, wherever it stands; and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from eventspine import Command
from eventspine.commands.declare import describe_command
from eventspine.errors import CommandRefused


@dataclass
class Place:
    row: int = 0


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag="dog", tag_field="type"):
    barks: bool = True


class Pair(msgspec.Struct, array_like=True):
    a: int = 0
    b: int = 0


class Typed(TypedDict, total=False):
    n: int
    place: Place


class Named(NamedTuple):
    place: Place
    n: int = 0


class Model(BaseModel):
    n: int = 0


class Everything(Command[None], context="zoo", rename="camel"):
    at_place: Place | None = None
    cat: Cat | None = None
    dog: Dog | None = None
    pair: Pair | None = None
    pairs: tuple[Place, int] | None = None
    model: Model | None = None
    any: Any = None
    typed: Typed | None = None
    named: Named | None = None
    numbers: dict[int, Place] = msgspec.field(default_factory=dict)
    names: dict[str, Place] = msgspec.field(default_factory=dict)
    days: set[date] = msgspec.field(default_factory=set)


asked = describe_command(Everything).asked


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"atPlace": {"row": 1}, "cat": {"type": "cat", "lives": 1}, "dog": {"type": "dog"}, "pair": [1, 2]},
        {"pairs": [{"row": 1}, 2], "model": {"n": 1, "more": 2}, "any": {"x": [{"y": 1}]}},
        {"typed": {"place": {"row": 1}}, "named": [{"row": 1}]},
        {"numbers": {"1": {"row": 1}}, "names": {"row": {"row": 1}}, "days": ["2026-01-01"]},
        {"atPlace": None, "cat": None},
    ],
)
def test_what_the_class_knows_is_taken(body: Any) -> None:
    assert isinstance(asked(msgspec.json.encode(body)), Everything)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"x": 1}, "x"),
        ({"at_place": None}, "at_place"),
        ({"atPlace": {"rows": 1}}, "atPlace.rows"),
        ({"cat": {"type": "cat", "kind": 1}}, "cat.kind"),
        ({"pairs": [{"x": 1}, 2]}, "pairs[0].x"),
        ({"typed": {"n": 1, "x": 2}}, "typed.x"),
        ({"typed": {"x": 2}}, "typed.x"),
        ({"typed": {"place": {"x": 1}}}, "typed.place.x"),
        ({"named": [{"x": 1}]}, "named[0].x"),
        ({"names": {"a b": {"x": 1}}}, "names.a b.x"),
    ],
)
def test_what_it_does_not_know_is_refused_by_its_place(body: Any, where: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        asked(msgspec.json.encode(body))
    assert f"zoo.Everything: {where}: there is no such field. Nothing was done." == str(refused.value)
