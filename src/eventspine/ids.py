"""Ids of events: 16 bytes of UUIDv7 (RFC 9562), so that an index on them grows at its end.

    48 bits  milliseconds since 1970        4 bits  version 7        12 bits  random
     2 bits  variant                       62 bits  random at the first id of a millisecond, then counting

Ids of one source ascend strictly, also when the clock is set back: then the last millisecond stays in use. A forked
child starts from fresh random bits, and never repeats an id of its parent.

The id of an event published inside a handler is derived: the same subscription, handling the same cause, gives its
n-th event the same id in every attempt, so that a second append of it answers with the first result (R19).
"""

from __future__ import annotations

import os
import re
from _blake2 import blake2b  # hashlib has it from there, and loads OpenSSL besides: 4 ms of `import eventspine`
from struct import Struct
from threading import Lock
from uuid import UUID
from weakref import WeakSet

from .clock import Clock
from .errors import EventRefused

_pack = Struct(">Q").pack
_LOW_END = 0xC000_0000_0000_0000  # the variant's two bits are 10, so the low half ends here
_UUID_TEXT = re.compile("[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\\1[0-9a-fA-F]{4}\\1[0-9a-fA-F]{4}\\1[0-9a-fA-F]{12}")
_sources: WeakSet[IdSource] = WeakSet()


class IdSource:
    """Makes new ids, in blocks; safe to share between threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.forget()
        _sources.add(self)

    def new(self, n: int) -> list[bytes]:
        with self._lock:
            low = self._reserve(n)
            high = self._high
        return [high + _pack(at) for at in range(low, low + n)]

    def one(self) -> bytes:
        with self._lock:
            low = self._reserve(1)
            return self._high + _pack(low)

    def _reserve(self, n: int) -> int:
        """The low half of the first of n ids; `_high` is their common half."""
        ms = max(0, self._clock.now_us() // 1000)  # a clock may stand before 1970; ids begin there
        if ms > self._ms:
            self._begin(ms)
        elif self._low + n > _LOW_END:
            self._begin(self._ms + 1)
        low = self._low
        self._low += n
        return low

    def _begin(self, ms: int) -> None:
        entropy = int.from_bytes(self._clock.entropy(10), "big")
        self._ms = ms
        self._high = _pack(ms << 16 | 0x7000 | entropy >> 68)
        # One bit of the 62 is left zero, which leaves room to count on.
        self._low = 0x8000_0000_0000_0000 | entropy & 0x1FFF_FFFF_FFFF_FFFF

    def forget(self) -> None:
        """As new. In a forked child also the lock, which some thread of the parent may have held."""
        self._lock = Lock()
        self._ms, self._high, self._low = -1, b"", _LOW_END


def _after_fork() -> None:
    for source in _sources:
        source.forget()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_after_fork)


def derived_id(subscription_uid: bytes, republish: str, cause_source: str, cause_id: bytes, ordinal: int) -> bytes:
    """The id of the event number `ordinal` that this subscription publishes while it handles this cause."""
    text = [republish.encode(), cause_source.encode(), cause_id]
    digest = blake2b(digest_size=16, person=b"eventspine.id")
    digest.update(b"%d:%b" % (len(subscription_uid), subscription_uid))
    digest.update(b"".join([b"%d:%b" % (len(part), part) for part in text]))  # lengths first: nothing can be shifted
    digest.update(b"%d" % ordinal)
    made = bytearray(digest.digest())
    if len(cause_id) == 16:
        made[:6] = cause_id[:6]
    made[6] = 0x70 | made[6] & 0x0F
    made[8] = 0x80 | made[8] & 0x3F
    return bytes(made)


def id_text(id: bytes) -> str:
    """As people and other systems write it: a UUID where it is one, else the text that a foreign producer gave."""
    if len(id) != 16:
        return id.decode("utf-8", "replace")
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def id_bytes(text: object) -> bytes:
    if isinstance(text, UUID):
        return text.bytes
    if not isinstance(text, str) or not _UUID_TEXT.fullmatch(text):
        raise EventRefused(
            f"{text!r:.100} is not an event id; ids are UUIDs, such as 0190163d-8694-739b-aea5-966c26f8ad91"
        )
    return bytes.fromhex(text.replace("-", ""))


def id_time_us(id: bytes) -> int:
    """When the id was made, to the millisecond; of a derived id, when its cause's was."""
    return int.from_bytes(id[:6], "big") * 1000
