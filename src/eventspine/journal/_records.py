"""Records as bytes: how deliveries and timers keep the event they are about, whole and independent of the feed. And which
of them a reader wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from .port import PARTITIONS, Record

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    return _encoder.encode(tuple(record))


def decode_record(stored: bytes) -> Record:
    return _decoder.decode(stored)


class Wanted(NamedTuple):
    """What a reader of the feed wants of it, as in `Journal.feed`; None: all."""

    channels: Sequence[str] | None
    partitions: Sequence[int] | None
    types: Sequence[str] | None
    private: bool


def filter_of(wanted: Wanted) -> Callable[[Record], bool]:
    """Whether a record is wanted; specialised, since it runs once per record of the feed."""
    channels, partitions, types, private = wanted
    wanted_partitions = frozenset(range(PARTITIONS) if partitions is None else partitions)
    if channels is None and types is None and len(wanted_partitions) == PARTITIONS:
        return (lambda _: True) if private else (lambda record: record[2] is not None)
    wanted_types = None if types is None else frozenset(types)
    if channels is None:
        return lambda record: (
            (private or record[2] is not None)
            and record[3] % PARTITIONS in wanted_partitions
            and (wanted_types is None or record[5] in wanted_types)
        )
    wanted_channels = frozenset((*channels, None)) if private else frozenset(channels)
    return lambda record: (
        record[2] in wanted_channels
        and record[3] % PARTITIONS in wanted_partitions
        and (wanted_types is None or record[5] in wanted_types)
    )
