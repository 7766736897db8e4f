"""Attributes that a producer adds to an event beside its data, through a middleware: `attributes["tier"] = "gold"`.

They end in other systems' headers and in terminals, so they are what CloudEvents allows and nothing else: names of
lower-case letters and digits, values of text without control characters, and little of both. Reading is tolerant: what
a foreign producer wrote otherwise is passed over, and the event is handled all the same.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .errors import AttributeRefused
from .journal.port import Record

META_BYTES_MAX = 16_384  # of all attributes of one event
NAME = re.compile(r"(?!data\Z)[a-z0-9]{1,100}\Z")
# W3C Trace Context; version ff and ids of zeros are none.
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
OF_THE_ENVELOPE = frozenset(
    [
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "subject",
        "partitionkey",
        "datacontenttype",
        "dataschema",
        "sequence",
        "correlationid",
        "causationid",
        "spinehops",
        "spineslot",
        "spineorigin",
    ]
)
UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def is_fit(text: str) -> bool:
    """Whether it holds nothing of UNFIT; what is printable ASCII, as nearly all is, is known at a glance."""
    return (text.isascii() and text.isprintable()) or UNFIT.search(text) is None


def with_attributes(record: Record, attributes: dict[str, Any]) -> Record:
    """The record with these added to those that it has. Raises AttributeRefused for what could not travel."""
    for name, value in attributes.items():
        if refused := _reason(name, value):
            raise AttributeRefused(f"{record.type}: the attribute {name!r:.60} {refused}", type=record.type, name=name)
    meta = msgspec.json.encode({**msgspec.json.decode(record.meta or b"{}"), **attributes})
    if len(meta) > META_BYTES_MAX:
        raise AttributeRefused(
            f"{record.type}: its attributes are {len(meta):,} bytes; an event has at most {META_BYTES_MAX:,} of them. "
            "Put what is large into the event's data.",
            type=record.type,
            size_bytes=len(meta),
            limit_bytes=META_BYTES_MAX,
        )
    return record._replace(meta=meta)


def _reason(name: object, value: object) -> str | None:
    if not isinstance(name, str) or not NAME.match(name):
        return "can't travel: a name is lower-case letters and digits, such as 'tier', and not 'data'."
    if name in OF_THE_ENVELOPE:
        return "is the envelope's own; add yours under another name."
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}; attributes are text."
    if not is_fit(value):
        return "holds a line break, another control character or half a character; attributes are plain text."
    if name == "traceparent" and not TRACEPARENT.match(value):
        return "is no W3C trace context, such as 00-<32 hex digits>-<16 hex digits>-01."
    return None
