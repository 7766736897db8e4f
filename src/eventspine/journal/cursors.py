"""Cursors: how far a subscription has come in one partition of a feed.

A cursor is a position and the ranges finished beyond it. A range `(after, upto)` says: of this partition,
everything *after* `after` and up to and including `upto` is finished, be it handled, parked, dead, or passed because
this subscription does not want it. Ranges are made by the reader, which knows what it passed; folding them is
arithmetic that needs no knowledge of the feed, is commutative, and gives the same result when repeated. Hence a
cursor can be folded after the verdicts are known (R3), and a second answer to the same unit changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

Range = tuple[int, int]

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Range])


def fold(position: int, beyond: Sequence[Range], finished: Iterable[Range]) -> tuple[int, list[Range]]:
    """The cursor after `finished`: its new position, and what lies beyond it as disjoint, ascending ranges."""
    merged: list[Range] = []
    begin = end = position
    for after, upto in sorted((*beyond, *finished)):
        if after > end:
            merged.append((begin, end))
            begin, end = after, upto
        elif upto > end:
            end = upto
    if not merged:
        return end, merged
    merged.append((begin, end))
    return merged[0][1], merged[1:]  # the first is what begins at the position


def only(position: int) -> Range:
    """The range of this one event, with nothing of what lies before it."""
    return position - 1, position


def is_finished(position: int, beyond: Sequence[Range], at: int) -> bool:
    """Whether the event at position `at` is finished."""
    return at <= position or any(after < at <= upto for after, upto in beyond)


def encode(beyond: Sequence[Range]) -> bytes | None:
    """Ranges as they are stored: a msgpack array of [after, upto] pairs, ascending; null when there are none."""
    return _ENCODER.encode(beyond) if beyond else None


def decode(stored: bytes | None) -> list[Range]:
    return _DECODER.decode(stored) if stored else []
