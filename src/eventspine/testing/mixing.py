"""Channels interleaved at random (R18): order is promised per channel and key, and nothing else.

On one feed a handler of several channels nearly always sees them in causal order, on a broker it does not. So of what
becomes ready for such a handler, some is held back at random until the engine has nothing else to do, or for a moment of
real time while handlers are at work. A lane is held, never a delivery: within a channel and key order stays."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import SupportsIndex

from ..engine.lanes import Lane


class HeldBack(deque[Lane]):
    """Ready lanes, of which some are not shown yet."""

    def __init__(self, chance: random.Random, noticed: Callable[[], None]) -> None:
        super().__init__()
        self._chance = chance
        self._noticed = noticed
        self.held: list[Lane] = []

    def append(self, lane: Lane, /) -> None:
        self._add(lane)

    def appendleft(self, lane: Lane, /) -> None:
        self._add(lane)

    def _add(self, lane: Lane) -> None:
        if self._chance.random() < 0.5:
            self.held.append(lane)
            self._noticed()
        elif self._chance.random() < 0.5:
            super().appendleft(lane)
        else:
            super().append(lane)

    def insert(self, index: SupportsIndex, lane: Lane, /) -> None:
        self._add(lane)

    def let_go(self) -> None:
        """Show one of them."""
        super().append(self.held.pop(self._chance.randrange(len(self.held))))
