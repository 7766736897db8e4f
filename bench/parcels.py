"""What is measured at brokers: 256 bytes of data, 1,000 keys; and the same event with the same headers, made by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from os import urandom
from zlib import crc32

import msgspec

from eventspine import Event, Service, Spine
from eventspine.brokers.binding import message_of
from eventspine.brokers.port import Message

DATA_BYTES = 256
KEYS = 1_000
CHANNEL = "parcels"
_FIRST = 1_000_000  # so that all numbers have as many digits


class Parcel(Event, context="parcels", key="parcel"):
    parcel: str
    number: int
    sent_ns: int
    note: str


class Plain(msgspec.Struct, frozen=True):
    """As a program without eventspine would declare it."""

    parcel: str
    number: int
    sent_ns: int
    note: str


sender: Service[None] = Service("sender", publishes=CHANNEL)
encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Plain).decode
_NOTE = "x" * (DATA_BYTES - len(encode(Plain("parcel-0000", _FIRST, time.time_ns(), ""))))


def parcels(count: int, start: int = 0, keys: int = KEYS) -> list[Parcel]:
    return [parcel(n, keys) for n in range(start, start + count)]


def parcel(n: int, keys: int = KEYS) -> Parcel:
    return Parcel(parcel=f"parcel-{n % keys:04d}", number=_FIRST + n, sent_ns=time.time_ns(), note=_NOTE)


class ByHand:
    """Makes messages as a careful program would: CloudEvents headers, and nothing done twice."""

    def __init__(self, prefix: str) -> None:
        (record,) = Spine("memory://", service=sender).records([parcel(0)], cause=None, time=None, id=None)
        self._same = message_of(record, "0" * 34, 1, prefix).headers
        self._prefix = prefix
        self._numbers = [0] * 960  # the last of each slot: without them readers of ours would take all for repetitions

    def message(self, event: Parcel) -> Message:
        raw = bytearray(time.time_ns().to_bytes(8, "big") + urandom(8))
        text = raw.hex()
        id = f"{text[:8]}-{text[8:12]}-7{text[13:16]}-8{text[17:20]}-{text[20:]}"
        key, prefix = event.parcel, self._prefix
        slot = crc32(key.encode()) % 960
        self._numbers[slot] += 1
        headers = dict(self._same) | {
            f"{prefix}sequence": f"{self._numbers[slot]:020d}",
            f"{prefix}id": id,
            f"{prefix}time": datetime.now(UTC).isoformat(),
            f"{prefix}subject": key,
            f"{prefix}partitionkey": key,
            f"{prefix}spineslot": str(slot),
        }
        return Message(CHANNEL, slot, key, id, headers, "application/json", encode(event))

    def messages(self, events: Sequence[Parcel]) -> list[Message]:
        return [self.message(event) for event in events]


assert {len(encode(parcel(n))) for n in (0, 7, 123_456)} == {DATA_BYTES}
