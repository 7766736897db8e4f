"""Cursors: how far a subscription has come in one partition of a feed.

A cursor is a position and the ranges finished beyond it. A range `(after, upto)` says: of this partition,
everything *after* `after` and up to and including `upto` is finished, be it handled, parked, dead, or passed because
this subscription does not want it. Ranges are made by the reader, which knows what it passed; folding them is
arithmetic that needs no knowledge of the feed, is commutative, and gives the same result when repeated. Hence a
cursor can be folded after the verdicts are known (R3), and a second answer to the same unit changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

Range = tuple[int, int]


def fold(position: int, beyond: Sequence[Range], finished: Iterable[Range]) -> tuple[int, list[Range]]:
    """The cursor after `finished`: its new position, and what lies beyond it as disjoint, ascending ranges."""
    merged: list[Range] = []
    for after, upto in sorted((*beyond, *finished)):
        if after <= position:
            position = max(position, upto)
        elif merged and after <= merged[-1][1]:
            if upto > merged[-1][1]:
                merged[-1] = (merged[-1][0], upto)
        else:
            merged.append((after, upto))
    return position, merged


def is_finished(position: int, beyond: Sequence[Range], at: int) -> bool:
    """Whether the event at position `at` is finished."""
    return at <= position or any(after < at <= upto for after, upto in beyond)


def encode(beyond: Sequence[Range]) -> bytes | None:
    """Ranges as they are stored: ascending numbers, each the distance from the one before, as text."""
    if not beyond:
        return None
    edges = [0, *(edge for pair in beyond for edge in pair)]
    return ",".join(str(right - left) for left, right in pairwise(edges)).encode()


def decode(stored: bytes | None) -> list[Range]:
    if not stored:
        return []
    edge, edges = 0, []
    for distance in stored.split(b","):
        edge += int(distance)
        edges.append(edge)
    return list(zip(edges[::2], edges[1::2], strict=True))
