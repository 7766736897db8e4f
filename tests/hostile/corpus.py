"""What nobody sends by mistake: values, bytes, names and attributes, each with the reason why it is here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time as time_of_day, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import BaseModel

from eventspine import Event
from eventspine.events import event

WORK_S_MAX = 1.0  # of processor time, as promised: what others do on this machine is not in it
SECONDS_MAX = 5.0  # by the wall, for what would wait without working


class Plain(Event, context="hostile", key="key", type="hostile.Plain"):
    key: str = "k"
    number: int = 0
    value: Any = None
    money: Decimal = Decimal(0)
    at: datetime = datetime(2020, 1, 1, tzinfo=UTC)


@event(context="hostile", key="key", type="hostile.Data")
@dataclass
class Data:
    key: str = "k"
    number: int = 0
    value: Any = None
    money: Decimal = Decimal(0)
    at: datetime = datetime(2020, 1, 1, tzinfo=UTC)


@event(context="hostile", key="key", type="hostile.Model")
class Model(BaseModel):
    key: str = "k"
    number: int = 0
    value: Any = None
    money: Decimal = Decimal(0)
    at: datetime = datetime(2020, 1, 1, tzinfo=UTC)


KINDS: tuple[Any, ...] = (Plain, Data, Model)


@contextmanager
def promptly() -> Iterator[None]:
    began, worked = time.monotonic(), time.process_time()
    yield
    worked, took = time.process_time() - worked, time.monotonic() - began
    assert worked < WORK_S_MAX, f"it worked for {worked:.1f} s"
    assert took < SECONDS_MAX, f"it took {took:.1f} s"


def nested(levels: int, *, named: bool = False) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"a": value} if named else [value]
    return value


def circle() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


REFUSED: dict[str, Any] = {
    "nested deeper than readers accept": nested(65),
    "nested deeper than any stack": nested(100_000),
    "objects nested deeper than any stack": nested(100_000, named=True),
    "what contains itself": circle(),
    "a number of more digits than Python reads": 10**4400,
    "a number of 100,000 bits": 2**100_000,
    "NaN": math.nan,
    "infinity": [1, {"a": -math.inf}],
    "a decimal NaN": Decimal("NaN"),
    "a signalling NaN": Decimal("sNaN"),
    "an infinite decimal": Decimal("-Infinity"),
    "half a character": "\ud800",
    "half a character as a name": {"\udfff": 1},
    "ten million letters": "x" * 10_000_000,
    "more small values than fit": [0] * 2_000_000,
    "more small objects than fit": [{}] * 500_000,
    "a time without a zone": datetime(2020, 1, 1),  # noqa: DTZ001
    "a UTC offset with seconds": datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Paris")),
    "a UTC offset with microseconds": time_of_day(1, tzinfo=timezone(timedelta(microseconds=1))),
    "an object": object(),
    "a function": print,
}

CARRIED: dict[str, Any] = {
    "nested as deep as readers accept": nested(62),
    "one more than 63 bits": 2**63,
    "one more than 64 bits": 2**64,
    "a negative number beyond 64 bits": -(2**63) - 1,
    "a number of 4,300 digits": 10**4299,
    "the largest float": 1.7976931348623157e308,
    "the smallest float": 5e-324,
    "a character of two surrogates": "\U0001f600",
    "NUL": "a\0b",
    "escape sequences": "\x1b[2J\x1b]0;title\x07",
    "marks that turn the direction": "\u202egnp.exe\u2066",
    "a path": "../../etc/passwd",
    "SQL": "'); drop table spine_events; --",
    "a template": "{{7*7}} ${jndi:ldap://x} %n%s",
    "a name as if it were Python's": {"__class__": "os.system", "__reduce__": ["os.system", "id"]},
    "many small values": [0] * 400_000,
    "many small objects": [{}] * 300_000,
    "many floats": [1.5] * 240_000,
}

UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "no UTF-8": b"\xff\xfe{}",
    "half of UTF-8": b'{"key":"\xc3"}',
    "a mark in front": b'\xef\xbb\xbf{"key":"k"}',
    "null": b"null",
    "a list": b"[]",
    "cut off": b'{"key":"k","number":1',
    "two documents": b'{"key":"k"}{"key":"k"}',
    "brackets without end": b'{"key":"k","value":' + b"[" * 900_000,
    "nested deeper than any stack": b'{"key":"k","value":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested where nobody looks": b'{"key":"k","other":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "a number of 5,000 digits": b'{"key":"k","number":' + b"9" * 5_000 + b"}",
    "a float that is infinite": b'{"key":"k","value":1e400}',
    "an exponent of a billion": b'{"key":"k","number":1e1000000000}',
    "NaN": b'{"key":"k","value":NaN}',
    "half a character": b'{"key":"\\ud800"}',
    "five million values": b'{"key":"k","value":[' + b"0," * 5_000_000 + b"0]}",
    "five million values where nobody looks": b'{"key":"k","other":[' + b"0," * 5_000_000 + b"0]}",
    "four million quotes": b'{"key":"k","value":"' + b'\\"' * 2_000_000 + b'"}',
    "a wrong value for each of many fields": b'{"number":[' + b'"",' * 300_000 + b'""],"key":1}',
}

EVIL_TEXT = (
    "",
    "\0",
    "\r\nX-Evil: 1",
    "\x1b[2J",
    "\u202eb",
    "../../etc/passwd",
    "'; drop table spine_events; --",
    '"); drop table spine_events; --',
    "%s%n{0}",
    "x" * 10_000,
    "*",
    "#.>",
    "-rf",
    "\U0001f600",
)

# Everything that Python can hold where JSON has a value, with weight on what breaks parsers.
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**70)
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(EVIL_TEXT)
    | st.decimals()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner),
    max_leaves=20,
)
