"""Time and randomness, in one replaceable place, so that a test can own both. The engine reads neither elsewhere, and
waits for neither elsewhere.

Wall time is only compared with stored times (timers, leases, due attempts). Durations inside a process are
measured on the monotonic clock, which nobody can set. There are two ways to wait, since virtual time treats them
differently: for the moment at which something is due (`call_at`), and a while between two looks at how things are
(`call_later`, `sleep`). What is due happens at its own time, one after the other; a look is taken once, however far the
clock has jumped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from asyncio import AbstractEventLoop

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CALL_AT_MOST_S = 60.0  # a wall clock may be set meanwhile, so nobody waits for one in a single long sleep


class Alarm(Protocol):
    """A call to come."""

    def cancel(self) -> None: ...


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

    def call_at(self, due_us: int, call: Callable[[], None]) -> Alarm:
        """Call, on this event loop, at this wall time. It may come early: look at the clock then, and ask again."""
        ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Call, on this event loop, after a while, to look at how things are."""
        ...

    async def sleep(self, seconds: float) -> None:
        """A while, before another look at how things are."""
        ...


class SystemClock:
    def __init__(self) -> None:
        from random import Random  # where it is used: a script that only declares events may not need it

        self.random: random.Random = Random()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    monotonic = staticmethod(time.monotonic)

    def entropy(self, size: int) -> bytes:
        return os.urandom(size)

    def call_at(self, due_us: int, call: Callable[[], None]) -> Alarm:
        wait_s = max(0.0, (due_us - self.now_us()) / 1e6)
        return _loop().call_later(min(wait_s, CALL_AT_MOST_S), call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return _loop().call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        from asyncio import sleep

        await sleep(seconds)


def time_of(us: int) -> datetime:
    """Wall time, as stored."""
    return _EPOCH + timedelta(microseconds=us)


def us_of(time: datetime) -> int:
    """An aware time as clocks here say it: exactly, where its `timestamp()` would be rounded."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def _loop() -> AbstractEventLoop:
    from asyncio import get_running_loop  # where it is used: who only publishes does without

    return get_running_loop()
