"""Records as bytes: how deliveries and timers keep the event they are about, whole and independent of the feed."""

from __future__ import annotations

import msgspec

from .port import Record

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    return _encoder.encode(tuple(record))


def decode_record(stored: bytes) -> Record:
    return _decoder.decode(stored)
