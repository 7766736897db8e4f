"""Timers: events for later are published when they are due, by whichever process on the journal is first."""

from __future__ import annotations

import asyncio

from ..clock import Clock
from ..journal.port import Journal

AT_ONCE = 1000
MOMENT_S = 0.05  # between two looks, where the journal changes all the time; what is known by then is fired in time


class Timers:
    """`changed` is called when the journal has changed: there may be an earlier one."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def fire(self) -> None:
        """What is due; else it waits until something may be."""
        self._changed.clear()
        due_us = await self._journal.next_due()
        now_us = self._clock.now_us()
        if due_us is not None and due_us <= now_us:
            await self._journal.fire(now_us, AT_ONCE)
            return
        waking = None if due_us is None else self._clock.call_at(due_us, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if waking is not None:
                waking.cancel()
        rest_s = MOMENT_S if due_us is None else min(MOMENT_S, (due_us - self._clock.now_us()) / 1e6)
        if rest_s > 0:
            await self._clock.sleep(rest_s)
