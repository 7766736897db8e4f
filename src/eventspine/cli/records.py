"""Events as they are shown: in JSON as CloudEvents 1.0 with their data, for people as one line."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from ..envelope import Envelope
from ..errors import EventRefused
from ..ids import id_bytes, id_text
from ..journal.port import Record
from ..observe.printable import printable
from .output import shorten
from .times import clock_time, iso


def normal_id(text: str) -> str:
    """An id as it is stored: a UUID in lower case with hyphens, however it was typed; anything else unchanged."""
    return id_text(known_id(text))


def known_id(text: str) -> bytes:
    try:
        return id_bytes(text)
    except EventRefused:
        return text.encode("utf-8", "surrogateescape")


def cloud_event(record: Record) -> dict[str, Any]:
    """CloudEvents in JSON, with three attributes of ours: where it is in the feed, since when, and on which channel."""
    shown: dict[str, Any] = dict(Envelope(record).attributes())
    if record.position:
        shown |= {"position": record.position, "recordedtime": iso(record.recorded_us)}
    if record.channel is not None:
        shown["channel"] = record.channel
    return shown | data_of(record.data)


def data_of(data: bytes) -> dict[str, Any]:
    """`data` as the JSON that it is, figure for figure; `data_base64` when it is none."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"data_base64": base64.b64encode(data).decode()}
    return {"data": value if b"\n" in data or b"\r" in data else msgspec.Raw(data)}


def data_text(data: bytes) -> str:
    """The data on one line, for people."""
    return printable(data.decode("utf-8", "backslashreplace"))


def line(record: Record, data_length: int = 160) -> str:
    """`12:00:00.123Z  #42  orders.OrderPlaced  key=c1  storefront  {…}`"""
    parts = [
        clock_time(record.recorded_us),
        f"#{record.position}",
        printable(record.type),
        *([f"key={printable(record.key)}"] if record.key is not None else []),
        printable(record.source),
        shorten(data_text(record.data[: data_length * 4]), data_length),
    ]
    return "  ".join(parts)
