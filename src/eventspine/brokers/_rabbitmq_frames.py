"""Frames of AMQP as the server sends them, also those that the client's library can't read.

RabbitMQ carries what it was given: names and routing keys that are no text, times that no calendar has, tables within
tables without end. The library gives up its connection over one such message, which the server then hands out again, first
of all: nothing behind it would ever come. So what of it can't be read is taken as bytes, and what can is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiormq
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp import constants, decode, frame as library
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

Frame = tuple[int, int, Any]  # bytes, channel, and what it is
UNREAD = (PAMQPException, ValueError, OverflowError, OSError, RecursionError)
DELIVER = Basic.Deliver.index.to_bytes(4, "big")
CONTENT_TYPE, CONTENT_ENCODING, HEADERS = 1 << 15, 1 << 14, 1 << 13  # which of a message's properties there are
TIME = b"T"
SIZES = dict(
    zip(b"tbBsuIilLfdDTV", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True)
)  # of values; others say theirs


class Connection(aiormq.Connection):
    async def _Connection__reader(self, frames: FrameReceiver) -> None:  # noqa: N802  the library's own name
        await super()._Connection__reader(Frames(frames.reader))  # type: ignore[misc]


class Frames(FrameReceiver):
    async def get_frame(self) -> Frame:
        if self.reader.at_eof():
            raise StopAsyncIteration
        try:
            head = await self.reader.readexactly(constants.FRAME_HEADER_SIZE)
            rest = await self.reader.readexactly(int.from_bytes(head[3:], "big") + 1)
        except asyncio.IncompleteReadError as error:
            raise AMQPConnectionError("the server has closed the connection") from error
        except OSError as error:
            raise AMQPConnectionError(f"the connection broke: {error!r}") from error
        return unmarshal(head + rest)


def unmarshal(data: bytes) -> Frame:
    try:
        return library.unmarshal(data)
    except UNREAD as error:
        found = _read(data[0], data[constants.FRAME_HEADER_SIZE : -1])
        if found is None:
            raise InvalidFrameError(str(error)) from error
        return len(data), int.from_bytes(data[1:3], "big"), found


def _read(kind: int, payload: bytes) -> Any:
    """None: it is not of a message."""
    if kind == constants.FRAME_HEADER:
        return _header(payload)
    return _deliver(payload) if kind == constants.FRAME_METHOD and payload.startswith(DELIVER) else None


def _header(payload: bytes) -> ContentHeader:
    header = ContentHeader(body_size=int.from_bytes(payload[4:12], "big"))
    flags, at = int.from_bytes(payload[12:14], "big"), 14
    if flags & CONTENT_TYPE:
        header.properties.content_type, at = _short(payload, at)
    if flags & CONTENT_ENCODING:
        _, at = _short(payload, at)
    if flags & HEADERS:
        header.properties.headers = dict(_table(payload, at))
    return header


def _deliver(payload: bytes) -> Basic.Deliver:
    found = Basic.Deliver()
    found.consumer_tag, at = _short(payload, 4)
    found.delivery_tag = int.from_bytes(payload[at : at + 8], "big")
    found.redelivered = bool(payload[at + 8] & 1)
    found.exchange, at = _short(payload, at + 9)
    found.routing_key, _ = _short(payload, at)
    return found


def _table(payload: bytes, at: int) -> Iterator[tuple[str, Any]]:
    end = at + 4 + int.from_bytes(payload[at : at + 4], "big")
    at += 4
    while at < end:
        name, at = _short(payload, at)
        kind, start = payload[at : at + 1], at + 1
        at = (
            start + SIZES[kind[0]]
            if kind[0] in SIZES
            else start + 4 + int.from_bytes(payload[start : start + 4], "big")
        )
        yield name, _value(kind, payload[start:at])


def _value(kind: bytes, value: bytes) -> Any:
    try:
        return decode.embedded_value(kind + value)[1]
    except UNREAD:
        return int.from_bytes(value, "big") if kind == TIME else value


def _short(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode("utf-8", "surrogateescape"), end
