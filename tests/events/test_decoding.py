"""Decoding: tolerant of what a producer adds, and never anything but Undecodable, whatever the bytes are."""

from __future__ import annotations

import contextlib
import json
import time as clocks
from typing import Any

import pytest
from hypothesis import given, strategies as st

from eventspine.errors import Undecodable
from eventspine.events import Event, describe
from eventspine.events.codec import DEPTH_MAX, too_deep

from .everything import Everything, everything

KNOWN = describe(Everything)
GOOD = KNOWN.encode(everything())


class Placed(Event, context="orders"):
    order_id: str
    units: int = 1
    extra: Any = None


PLACED = describe(Placed)


def test_unknown_fields_are_ignored() -> None:
    assert PLACED.decode(b'{"order_id":"1","new":{"a":[1]},"units":2}') == Placed(order_id="1", units=2)


def test_missing_fields_take_their_defaults() -> None:
    assert PLACED.decode(b'{"order_id":"1"}') == Placed(order_id="1", units=1)


def test_the_last_of_two_equal_names_counts() -> None:
    assert PLACED.decode(b'{"order_id":"1","order_id":"2"}') == Placed(order_id="2")


HOSTILE: list[bytes] = [
    b"",
    b" ",
    b"null",
    b"true",
    b"[]",
    b'"text"',
    b"{",
    b"}",
    b'{"order_id"',
    b'{"order_id":"1"',
    b'{"order_id":"1"}}',
    b'{"order_id":"1"} x',
    b"{'order_id':'1'}",
    b'{"order_id":"1",}',
    b'{"order_id":NaN}',
    b'{"order_id":"1","units":NaN}',
    b'{"order_id":"1","units":Infinity}',
    b'{"order_id":"1","units":1e999}',
    b'{"order_id":"1","units":1.5}',
    b'{"order_id":"1","units":"1"}',
    b'{"order_id":"1","units":null}',
    b'{"order_id":"1","units":' + b"9" * 10_000 + b"}",
    b'{"order_id":"1","extra":' + b"9" * 10_000 + b"}",
    b'{"order_id":"1","extra":1e' + b"9" * 1_000 + b"}",
    b'{"order_id":1}',
    b'{"units":1}',
    b"\xff\xfe{\x00",
    b"\xef\xbb\xbf{}",
    b'{"order_id":"\xff"}',
    b'{"order_id":"\xc0\xaf"}',
    b'{"order_id":"\xed\xa0\x80"}',
    b'{"order_id":"\\ud800"}',
    b'{"order_id":"\\x41"}',
    b'{"order_id":"a\nb"}',
    b"\x00" * 1_000,
    b"[" * 1_000_000,
    b"{" * 1_000_000,
    b'{"extra":' * 100_000,
    b"[]" * 100_000,
    b'{"order_id":"1","extra":' + b"[" * 64 + b"]" * 64 + b"}",
    b'{"order_id":"1","unknown":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b'{"order_id":"1","extra":' + b'{"a":' * 64 + b"1" + b"}" * 64 + b"}",
    b'{"order_id":"1","extra":' + b'[{"a":' * 40 + b"1" + b"}]" * 40 + b"}",
    b'"' + b'\\"' * 500_000,
    b'"[[' * 100_000,
    b'"\\' * 100_000 + b"[" * 100,
    b"\\" * 100_000 + b"[" * 100,
    b"]" * 100_000,
    b"[" * 400_000 + b"]" * 400_000,
    GOOD[:-1],
    b"PK\x03\x04" + bytes(range(256)) * 10,
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_undecodable_and_quickly_so(data: bytes) -> None:
    began = clocks.process_time()
    with pytest.raises(Undecodable) as refused:
        PLACED.decode(data)
    assert clocks.process_time() - began < 2
    assert refused.value.details["type"] == "orders.Placed"
    assert refused.value.details["reason"]


def test_the_path_and_the_reason_are_told() -> None:
    changed = json.loads(GOOD)
    changed["lines"][1]["weight"] = "heavy"
    with pytest.raises(Undecodable) as refused:
        KNOWN.decode(json.dumps(changed).encode())
    assert refused.value.details["path"] == "lines[1].weight"
    assert "Expected `float`, got `str`" in refused.value.details["reason"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("money", "NaN"), ("at", "2026-01-02T00:00:00"), ("hour", "09:30:00"), ("maybe", "2026-01-02T00:00:00")],
)
def test_what_could_not_be_published_again_is_undecodable(field: str, value: str) -> None:
    with pytest.raises(Undecodable) as refused:
        KNOWN.decode(json.dumps({**json.loads(GOOD), field: value}).encode())
    assert refused.value.details["path"] == field


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_undecodable(data: bytes) -> None:
    with contextlib.suppress(Undecodable):
        PLACED.decode(data)


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
def test_a_damaged_event_is_an_event_or_undecodable(at: int, damage: bytes) -> None:
    with contextlib.suppress(Undecodable):
        KNOWN.decode(GOOD[:at] + damage + GOOD[at + len(damage) :])


class Strict(Event, context="orders"):
    order_id: str

    def __post_init__(self) -> None:
        if self.order_id == "raise":
            raise KeyError(self.order_id)


def test_whatever_the_class_itself_raises_is_undecodable() -> None:
    with pytest.raises(Undecodable, match="raise"):
        describe(Strict).decode(b'{"order_id":"raise"}')


def test_running_out_of_memory_is_not_the_events_fault() -> None:
    class Hungry(Event, context="orders"):
        order_id: str

        def __post_init__(self) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        describe(Hungry).decode(b'{"order_id":"1"}')
    with pytest.raises(MemoryError):
        describe(Hungry).prove(b'{"order_id":"1"}')


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


def nested(levels: int, kinds: str) -> Any:
    value: Any = '[{"\\'
    for level in range(levels):
        value = [value, "[["] if kinds[level % len(kinds)] == "[" else {"}{": value, "b": [1]}
    return value


@given(st.integers(0, DEPTH_MAX + 10), st.text(st.sampled_from("[{"), min_size=1, max_size=5), st.integers(0, 5))
def test_depth_is_counted_exactly(levels: int, kinds: str, beside: int) -> None:
    value = [nested(levels, kinds), [[1]] * beside * 20]
    assert too_deep(json.dumps(value).encode()) == (depth(value) > DEPTH_MAX)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    data = json.dumps({"order_id": "1", "extra": [{"a": [i]} for i in range(1_000)]}).encode()
    assert len(PLACED.decode(data).extra) == 1_000
