"""Open enums: a value that a producer has added is kept, and written back (R23)."""

from __future__ import annotations

import copy
import pickle
from enum import Enum

import msgspec
import pytest
from hypothesis import given, strategies as st

from eventspine.errors import Undecodable
from eventspine.events import Event, OpenEnum, describe


class Carrier(OpenEnum):
    DHL = "dhl"
    UPS = "ups"


class Closed(Enum):
    DHL = "dhl"


class Shipped(Event, context="orders", key="carrier"):
    carrier: Carrier
    others: list[Carrier] = msgspec.field(default_factory=list)
    counts: dict[Carrier, int] = msgspec.field(default_factory=dict)


KNOWN = describe(Shipped)


def test_a_known_value_is_the_member_itself() -> None:
    shipped = KNOWN.decode(b'{"carrier":"dhl"}')
    assert shipped.carrier is Carrier.DHL
    assert shipped.carrier.known


def test_an_unknown_value_is_kept_and_written_back() -> None:
    data = b'{"carrier":"drone","others":["dhl","pigeon"],"counts":{"drone":1}}'
    shipped = KNOWN.decode(data)

    assert shipped.carrier == "drone"
    assert not shipped.carrier.known
    assert isinstance(shipped.carrier, Carrier)
    assert KNOWN.encode(shipped) == data
    assert KNOWN.key_of(shipped) == "drone"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(value: str) -> None:
    shipped = Shipped(carrier=Carrier(value))
    again = KNOWN.decode(KNOWN.encode(shipped))
    assert again == shipped
    assert (again.carrier.value, str(again.carrier), f"{again.carrier}", hash(again.carrier)) == (
        value,
        value,
        value,
        hash(value),
    )


def test_unknown_values_do_not_pile_up() -> None:
    before = len(Carrier.__members__)
    Carrier("drone")
    assert len(Carrier.__members__) == len(list(Carrier)) == before
    assert not Carrier("drone").known


def test_an_unknown_value_can_be_copied() -> None:
    drone = Carrier("drone")
    assert copy.deepcopy(drone) == drone
    assert pickle.loads(pickle.dumps(drone)) == drone


def test_only_text_is_a_value() -> None:
    with pytest.raises(ValueError, match="5 is not a valid Carrier"):
        Carrier(5)
    with pytest.raises(Undecodable):
        KNOWN.decode(b'{"carrier":5}')


def test_a_closed_enum_refuses_what_it_does_not_know() -> None:
    class Sent(Event, context="orders"):
        carrier: Closed

    with pytest.raises(Undecodable, match="Invalid enum value 'drone'"):
        describe(Sent).decode(b'{"carrier":"drone"}')
