"""Virtual time: it stands still until a test moves it.

What is due at a time happens when the clock is moved there, each at its own time if it is moved from one to the next
(`VirtualSpine.advance` does). Looks at how things are (leases, watchdogs, trouble with the journal) go on in real time,
and are taken once more after every move that passes their time, however far it was."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

from ..clock import Alarm

LOOK_MOST_S = 1e6  # of real time, which no loop waits longer for
EPOCH, _US = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


class VirtualClock:
    """`start` is now unless given. `seed` decides all chance; ids too, unless `unique_ids` says that they meet others."""

    def __init__(self, start: datetime | None = None, *, seed: int = 0, unique_ids: bool = False) -> None:
        self.random = random.Random(seed)
        self._ids = None if unique_ids else random.Random(f"{seed} ids")
        self._us = ((start or datetime.now(UTC).replace(microsecond=0)) - EPOCH) // _US
        self._began = self._us - 1_000_000_000  # a time of 0 would look like none
        self._due: list[tuple[int, int, _Due]] = []
        self._number = 0
        self._looks: set[_Look] = set()
        self.ringing = 0  # calls that come with the loop's next turn

    @property
    def now(self) -> datetime:
        return EPOCH + self._us * _US

    def now_us(self) -> int:
        return self._us

    def monotonic(self) -> float:
        return (self._us - self._began) / 1e6

    def entropy(self, size: int) -> bytes:
        return os.urandom(size) if self._ids is None else self._ids.randbytes(size)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def call_at(self, due_us: int, call: Callable[[], None]) -> Alarm:
        due = _Due(call)
        if due_us <= self._us:
            self._soon(due.ring)
        else:
            self._number += 1
            heappush(self._due, (due_us, self._number, due))
        return due

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        look = _Look(self._looks, self.monotonic() + seconds, call)
        look.timer = asyncio.get_running_loop().call_later(min(seconds, LOOK_MOST_S), look.ring)
        return look

    async def sleep(self, seconds: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.call_later(seconds, lambda: None if over.done() else over.set_result(None))
        try:
            await over
        finally:
            alarm.cancel()

    # --- moving -------------------------------------------------------------------------------------------------------

    def next_due(self) -> int | None:
        """When the next call is due."""
        while self._due and self._due[0][2].call is None:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def move(self, to_us: int) -> None:
        """Forward to this time. What is due by then, and looks whose time has passed, come with the loop's next turn."""
        self._us = max(self._us, to_us)
        while (due_us := self.next_due()) is not None and due_us <= self._us:
            self._soon(heappop(self._due)[2].ring)
        now = self.monotonic()
        for look in [look for look in self._looks if look.until <= now]:
            self._soon(look.ring)

    def _soon(self, ring: Callable[[], None]) -> None:
        self.ringing += 1
        asyncio.get_running_loop().call_soon(self._ring, ring)

    def _ring(self, ring: Callable[[], None]) -> None:
        self.ringing -= 1
        ring()


class _Due:
    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def ring(self) -> None:
        call, self.call = self.call, None
        if call is not None:
            call()

    def cancel(self) -> None:
        self.call = None


class _Look:
    __slots__ = ("_all", "_call", "timer", "until")

    def __init__(self, every: set[_Look], until: float, call: Callable[[], None]) -> None:
        self._all, self._call = every, call
        self.until = until
        self.timer: asyncio.TimerHandle | None = None
        every.add(self)

    def ring(self) -> None:
        if self in self._all:
            self.cancel()
            self._call()

    def cancel(self) -> None:
        self._all.discard(self)
        if self.timer is not None:
            self.timer.cancel()
