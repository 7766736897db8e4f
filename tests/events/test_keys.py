"""Keys: one canonical text per tuple of components, and never the same for two (R22)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import Enum
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from hypothesis import example, given, strategies as st

from eventspine.errors import KeyRefused
from eventspine.events import Event, OpenEnum, describe
from eventspine.keys import KEY_BYTES_MAX, key_reader, key_text, parse_key, slot_of_id, slot_of_key

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
awkward = st.text(st.sampled_from(":%ab %\x00\x7f\u200bäé漢🦀\ufffe"), min_size=1, max_size=8)
components = st.lists(text | awkward, min_size=1, max_size=4).map(tuple)


def small(parts: tuple[str, ...]) -> str | None:
    try:
        return key_text(parts)
    except KeyRefused:
        return None


@given(components)
@example(("a:b", "c"))
@example(("%3A",))
def test_components_come_back(parts: tuple[str, ...]) -> None:
    key = small(parts)
    if key is not None:
        assert parse_key(key) == parts


@given(components, components)
@example(("a:b", "c"), ("a", "b:c"))
@example(("%3A",), (":",))
def test_r22_different_components_never_share_a_key(left: tuple[str, ...], right: tuple[str, ...]) -> None:
    one, other = small(left), small(right)
    if left != right and one is not None:
        assert one != other


@given(text | awkward)
def test_the_fast_path_gives_what_the_slow_one_gives(value: str) -> None:
    class Holder:
        field = value

    key = small((value,))
    if key is None:
        with pytest.raises(KeyRefused):
            key_reader(("field",), "t")(Holder())
    else:
        assert key_reader(("field",), "t")(Holder()) == key


@given(components)
def test_a_key_is_short_and_has_nothing_that_can_not_be_printed(parts: tuple[str, ...]) -> None:
    key = small(parts)
    if key is not None:
        assert len(key.encode()) <= KEY_BYTES_MAX
        assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0xA0 for char in key)


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("c7",), "c7"),
        (("a:b", "c"), "a%3Ab:c"),
        (("a", "b:c"), "a:b%3Ac"),
        (("50%",), "50%25"),
        (("two words",), "two words"),
        (("line\nend",), "line%0Aend"),
        (("zero\u200bwidth",), "zero%E2%80%8Bwidth"),
        (("\U0010ffff",), "%F4%8F%BF%BF"),
        (("Zürich", "漢"), "Zürich:漢"),
        ((5,), "5"),
        ((-5,), "-5"),
        ((UUID("0190163D-8694-739B-AEA5-966C26F8AD91"),), "0190163d-8694-739b-aea5-966c26f8ad91"),
        ((date(2026, 1, 2),), "2026-01-02"),
    ],
)
def test_r22_the_text_is_fixed_for_ever(parts: tuple[Any, ...], key: str) -> None:
    assert key_text(parts) == key


def test_a_character_that_only_newer_pythons_can_print_is_the_same_text_in_all() -> None:
    """U+1FAE8 came with Unicode 15: isprintable() says no in Python 3.11 and yes in 3.12."""
    assert key_text(("\U0001fae8",)) == "\U0001fae8"


class Status(Enum):
    OPEN = "open:now"


class Level(Enum):
    TWO = 2


class Carrier(OpenEnum):
    DHL = "dhl"


def test_an_enum_counts_by_its_value() -> None:
    assert key_text((Status.OPEN, Level.TWO, Carrier.DHL, Carrier("drone"))) == "open%3Anow:2:dhl:drone"


@pytest.mark.parametrize("value", [True, None, 1.5, b"a", datetime(2026, 1, 1, tzinfo=UTC), ("a",), ""])
def test_another_value_is_no_part_of_a_key(value: Any) -> None:
    with pytest.raises(KeyRefused):
        key_text((value,))
    with pytest.raises(KeyRefused):
        key_text(("first", value))


@pytest.mark.parametrize(
    "value", ["\ud800", "a\udfff", "x" * 256, "é" * 128, ":" * 86, 10**300, 10**9000], ids=range(7)
)
def test_what_is_too_long_or_no_text_is_refused(value: Any) -> None:
    with pytest.raises(KeyRefused):
        key_text((value,))


def test_a_key_of_nothing_is_refused() -> None:
    with pytest.raises(KeyRefused, match="no components"):
        key_text(())


def test_exactly_255_bytes_are_a_key() -> None:
    assert key_text(("x" * 255,)) == "x" * 255
    assert key_text((":" * 85,)) == "%3A" * 85


@pytest.mark.parametrize("key", ["", ":", "a:", "%", "%3", "%3a", "%41", "a%zz", "%FF", "%C3", "a\nb", "x" * 256])
def test_what_no_key_can_be_is_not_parsed(key: str) -> None:
    with pytest.raises(KeyRefused):
        parse_key(key)


@given(st.text(max_size=20))
def test_parsing_has_one_text_per_tuple(key: str) -> None:
    try:
        parts = parse_key(key)
    except KeyRefused:
        return
    assert key_text(parts) == key


def test_the_slot_is_a_checksum_of_the_text() -> None:
    assert slot_of_key("c7") == crc32(b"c7") % 960
    assert slot_of_key("Zürich") == crc32("Zürich".encode()) % 960
    assert slot_of_id(b"\x01" * 16) == crc32(b"\x01" * 16) % 960
    assert 0 <= slot_of_key("anything") < 960


class Placed(Event, context="orders", key=("customer", "day"), tenant="shop"):
    customer: str
    day: date
    shop: str


def test_the_tenant_comes_first() -> None:
    placed = Placed(customer="a:b", day=date(2026, 1, 2), shop="s")
    assert describe(Placed).key_of(placed) == "s:a%3Ab:2026-01-02"


def test_a_refused_key_names_the_event() -> None:
    with pytest.raises(KeyRefused, match=r"orders\.Placed: a part of the key is empty"):
        describe(Placed).key_of(Placed(customer="", day=date(2026, 1, 2), shop="s"))
