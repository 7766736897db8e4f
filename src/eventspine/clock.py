"""Time and randomness, in one replaceable place, so that the simulator can own both.

Wall time is only compared with stored times (timers, leases, due attempts). Durations inside a process are
measured on the monotonic clock, which nobody can set.
"""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    random: random.Random

    def now_us(self) -> int:
        """Wall time: microseconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def entropy(self, size: int) -> bytes:
        """Bytes for new ids."""
        ...


class SystemClock:
    def __init__(self) -> None:
        self.random = random.Random()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    monotonic = staticmethod(time.monotonic)

    def entropy(self, size: int) -> bytes:
        return os.urandom(size)
