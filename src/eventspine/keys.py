"""Keys: the canonical text of the entity that an event is about, and its slot. This is the specification (R22).

    key        = component *( ":" component )            the tenant, if there is one, is the first component
    component  = 1*( raw / "%" HEXDIG HEXDIG )           HEXDIG in upper case
    slot       = crc32(UTF-8 of the key) mod 960         960 is `SLOTS`, a constant of the format

What a component is made of, before encoding: str: itself. int: decimal digits, "-" in front of a negative one. UUID:
36 characters, lower case, with hyphens. date: YYYY-MM-DD. enum: its value, a str or an int. Nothing else can be a key:
a bool has two lanes, a datetime has several texts for one instant, None has no text, a union might give one text to
two values.

Percent-encoded, byte by byte of its UTF-8, is a character that is "%" or ":", or in one of these ranges, which hold
what can't be printed or isn't allowed in a CloudEvents attribute. They are listed here, and not asked of Unicode's
tables, because those grow with every release of Python and a key must stay the same text in all of them:

    0000-001F 007F-00A0 00AD 061C 1680 180E 2000-200F 2028-202F 205F-206F 3000 E000-F8FF FDD0-FDEF FEFF FFF0-FFFF
    E0000-10FFFF, and every xFFFE and xFFFF

A lone surrogate is refused. So is an empty component, and a key of more than 255 bytes of UTF-8. Text is not
normalized: what differs in code points is a different key. Because "%" and ":" never stand for themselves inside a
component, different tuples of components never share a key: ("a:b", "c") is `a%3Ab:c`, ("a", "b:c") is `a:b%3Ac`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID
from zlib import crc32

from .errors import KeyRefused
from .journal.port import SLOTS

KEY_BYTES_MAX = 255

KeyOf = Callable[[Any], "str | None"]

_NOT_RAW = (
    "[%:\x00-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ue000-\uf8ff\ufdd0-\ufdef"
    "\ufeff\ufff0-\uffff\U000e0000-\U0010ffff"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 14))
    + "]"
)
_ENCODED = re.compile("(?:%[0-9A-F]{2})+")


def slot_of_key(text: str) -> int:
    return crc32(text.encode()) % SLOTS


def slot_of_id(id: bytes) -> int:
    """The slot of an event without a key."""
    return crc32(id) % SLOTS


def key_text(components: Sequence[object]) -> str:
    """The key made of these values, the tenant first."""
    text = ":".join([_component(value) for value in components])
    size = len(text.encode())
    if size > KEY_BYTES_MAX:
        raise KeyRefused(
            f"the key {text[:40]!r}... is {size:,} bytes; a key has at most {KEY_BYTES_MAX}. "
            "Use a shorter identifier as the key, or a hash of this one in a field of its own.",
            size_bytes=size,
            limit_bytes=KEY_BYTES_MAX,
        )
    if not text:
        raise KeyRefused("the key has no components")
    return text


def parse_key(text: str) -> tuple[str, ...]:
    """The components of a key, as text. Raises KeyRefused for what `key_text` never writes."""
    parts = tuple(_ENCODED.sub(_decoded, part) for part in text.split(":"))
    try:
        canonical = key_text(parts)
    except KeyRefused as refused:
        raise KeyRefused(f"{text!r} is not a key: {refused}") from None
    if canonical != text:
        raise KeyRefused(f"{text!r} is not a key in canonical form; that would be {canonical!r}")
    return parts


def key_reader(fields: Sequence[str], event_name: str) -> KeyOf:
    """A function that gives the key of an event which has it in these attributes."""
    if not fields:
        return _no_key
    if len(fields) == 1:
        return _reader_of_one(fields[0], event_name)
    get = attrgetter(*fields)
    return lambda event: _key_text_of(event_name, get(event))


def _no_key(_event: Any) -> None:
    return None


def _reader_of_one(field: str, event_name: str) -> KeyOf:
    get = attrgetter(field)

    def key_of(event: Any) -> str:
        value = get(event)
        # Most keys are short ASCII, which is settled by a few checks in C. Never ask isprintable() about anything but
        # ASCII: its answers differ between releases of Python.
        if value.__class__ is str and value.isascii() and value.isprintable() and 0 < len(value) <= KEY_BYTES_MAX:
            return value if ":" not in value and "%" not in value else _key_text_of(event_name, (value,))
        return _key_text_of(event_name, (value,))

    return key_of


def _key_text_of(event_name: str, components: Sequence[object]) -> str:
    try:
        return key_text(components)
    except KeyRefused as refused:
        raise KeyRefused(f"{event_name}: {refused}", type=event_name, **refused.details) from None


def _component(value: object) -> str:
    text = _plain(value)
    if not text:
        raise KeyRefused("a part of the key is empty; give it a value, or declare another key=")
    _refuse_surrogates(text)
    return _not_raw().sub(_encoded, text)


@cache  # compiled when it is used: 1 to 2 ms, which `import eventspine` need not take
def _not_raw() -> re.Pattern[str]:
    return re.compile(_NOT_RAW)


def _plain(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _digits(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    raise KeyRefused(
        f"{value!r} ({type(value).__name__}) can't be part of a key; a key is made of str, int, UUID, date and enum"
    )


def _digits(value: int) -> str:
    if value.bit_length() > 8 * KEY_BYTES_MAX:  # also keeps clear of Python's own limit on digits
        raise KeyRefused(f"a part of the key is a number of {value.bit_length():,} bits; a key has at most 255 bytes")
    return int.__str__(value)


def _encoded(match: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in match[0].encode()])


def _decoded(match: re.Match[str]) -> str:
    try:
        return bytes.fromhex(match[0].replace("%", "")).decode()
    except UnicodeDecodeError:
        return match[0]  # not canonical, as the comparison will find


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise KeyRefused(
            f"the key {text!r} holds half a character (a lone surrogate); decode its source as UTF-8"
        ) from None
