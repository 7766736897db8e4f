"""Pydantic models as events, and inside events."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

from eventspine.envelope import make_record
from eventspine.errors import DeclarationError, EventRefused, Undecodable
from eventspine.events import Event, OpenEnum, describe, event

pydantic = pytest.importorskip("pydantic")
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, computed_field  # noqa: E402

UID = UUID("0190163d-8694-739b-aea5-966c26f8ad91")
NAN = float("nan")
NAIVE_AT = b'{"shop":"s","uid":"%b","at":"2026-01-02T00:00:00"}' % str(UID).encode()


class Carrier(OpenEnum):
    DHL = "dhl"


class Line(BaseModel):
    model_config = ConfigDict(frozen=True)
    sku: str
    weight: float = 0.0
    parts: list[Line] = []


@event(context="orders", key=("shop", "uid"), version=2)
class Placed(BaseModel):
    model_config = ConfigDict(frozen=True)
    shop: str
    uid: UUID
    amount: Decimal = Decimal("1.10")
    at: datetime | None = None
    lines: list[Line] = []
    carrier: Carrier = Carrier.DHL
    site: AnyUrl = AnyUrl("https://example.org/")
    number: int = Field(default=1, alias="orderNumber")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> Decimal:
        return self.amount * 2


KNOWN = describe(Placed)


def placed(**changes: Any) -> Placed:
    return Placed(**{"shop": "s", "uid": UID, "orderNumber": 7, **changes})


def test_a_model_comes_back_as_it_went() -> None:
    before = placed(lines=[Line(sku="a", parts=[Line(sku="b", weight=1.5)])], carrier="drone")
    assert KNOWN.decode(KNOWN.encode(before)) == before
    assert b'"orderNumber":7' in KNOWN.encode(before)
    assert b"double" not in KNOWN.encode(before)
    assert (KNOWN.version, KNOWN.key_of(before)) == (2, f"s:{UID}")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"at": "2026-01-02T00:00:00"}, "at"),
        ({"lines": [Line(sku="a", parts=[Line(sku="b", weight=NAN)])]}, "lines[0].parts[0].weight"),
    ],
)
def test_what_json_can_not_carry_is_refused_with_its_path(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(EventRefused) as refused:
        KNOWN.encode(placed(**changes))
    assert refused.value.details["path"] == path


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"shop":1}', b'{"shop":"s","uid":"no"}', b"[" * 100_000, b"\xff", NAIVE_AT],
    ids=range(8),
)
def test_what_is_no_model_is_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable):
        KNOWN.decode(data)


def test_unknown_fields_are_ignored() -> None:
    data = KNOWN.encode(placed())
    assert KNOWN.decode(b'{"new":1,' + data[1:]) == placed()


class Visit(Event, context="shops"):
    line: Line
    maybe: Line | None = None
    lines: dict[str, Line] = msgspec.field(default_factory=dict)


def test_a_model_inside_an_event() -> None:
    known = describe(Visit)
    visit = Visit(line=Line(sku="a"), lines={"x": Line(sku="b", parts=[Line(sku="c")])})
    assert known.decode(known.encode(visit)) == visit
    with pytest.raises(EventRefused) as refused:
        known.encode(Visit(line=Line(sku="a"), maybe=Line(sku="b", weight=NAN)))
    assert refused.value.details["path"] == "maybe.weight"
    with pytest.raises(Undecodable):
        known.decode(b'{"line":{"weight":1}}')


def test_what_a_model_keeps_beside_its_fields_is_checked_too() -> None:
    @event(context="orders")
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int

    known = describe(Open)
    assert known.decode(b'{"a":1,"b":[2]}').model_extra == {"b": [2]}
    with pytest.raises(EventRefused, match=r"b\[0\] is nan"):
        known.encode(Open(a=1, b=[NAN]))  # type: ignore[call-arg]


class Opaque:
    pass


def test_what_would_be_lost_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(DeclarationError, match=r"Login\.word is a SecretStr, which would be published as asterisks"):

        @event(context="users")
        class Login(BaseModel):
            word: SecretStr | None

    with pytest.raises(DeclarationError, match=r"Held\.thing is a Opaque, which can't be encoded"):

        @event(context="users")
        class Held(BaseModel):
            model_config = ConfigDict(arbitrary_types_allowed=True)
            thing: Opaque


def test_what_a_model_knows_how_to_write_is_its_own_business() -> None:
    @event(context="users")
    class Shown(BaseModel):
        word: Annotated[SecretStr, PlainSerializer(lambda word: word.get_secret_value(), return_type=str)]

    assert describe(Shown).encode(Shown(word=SecretStr("x"))) == b'{"word":"x"}'


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(DeclarationError, match="never optional"):

        @event(context="users", key="name")
        class Named(BaseModel):
            name: str | None

    with pytest.raises(DeclarationError, match="no such field"):

        @event(context="users", key="nowhere")
        class Unnamed(BaseModel):
            name: str


def test_a_pydantic_dataclass_is_an_event_too() -> None:
    @event(context="users", key="name")
    @pydantic.dataclasses.dataclass(frozen=True)
    class Named:
        name: str
        age: int

    known = describe(Named)
    assert known.decode(known.encode(Named("a", 5))) == Named("a", 5)
    with pytest.raises(Undecodable):
        known.decode(b'{"name":"a","age":"old"}')


def test_a_model_makes_a_record() -> None:
    made = make_record(event_type=KNOWN, event=placed(), id=b"\x01" * 16, source="storefront", now_us=1)
    assert (made.type, made.version, made.key) == ("orders.Placed", 2, f"s:{UID}")


def test_pydantic_is_not_imported_for_those_who_do_without() -> None:
    code = "import sys, eventspine.events, eventspine.envelope; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@event(context="orders", key="number")
class Ordered(BaseModel):
    number: int
    paid: Paid | Free
    later: Later | None = None


class Paid(BaseModel):
    amount: float


class Free(BaseModel):
    why: str


class Later(BaseModel):
    at: datetime


def test_types_defined_later_and_unions_that_only_pydantic_tells_apart() -> None:
    known = describe(Ordered)
    for ordered in (Ordered(number=1, paid=Paid(amount=2.5)), Ordered(number=2, paid=Free(why="gift"))):
        assert known.decode(known.encode(ordered)) == ordered
    with pytest.raises(EventRefused) as refused:
        known.encode(Ordered(number=1, paid=Paid(amount=NAN)))
    assert refused.value.details["path"] == "paid.amount"
    with pytest.raises(Undecodable):
        known.decode(b'{"number":1,"paid":{"why":"gift"},"later":{"at":"2026-01-02T00:00:00"}}')


def test_what_only_pydantic_can_write_is_left_to_it() -> None:
    @event(context="users")
    class Visited(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        site: AnyUrl | None
        ratio: complex = 1j

    known = describe(Visited)
    assert known.decode(known.encode(Visited(site=None))) == Visited(site=None)


@dataclass(frozen=True)
class Holder:
    line: Line


def test_a_model_inside_a_dataclass_event() -> None:
    known = describe(event(context="orders")(Holder))
    assert known.decode(known.encode(Holder(Line(sku="a")))) == Holder(Line(sku="a"))
