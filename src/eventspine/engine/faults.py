"""Errors of the engine's own, which no handler raised: never a hot loop, never a flood of the log.

What such an error was about is taken up again after a pause, one second at first and twice as long each time up to a
minute; a while without errors begins anew. Each pause is told once, however many workers ended by it."""

from __future__ import annotations

import logging

from ..clock import Clock

log = logging.getLogger("eventspine.engine")

PAUSE_S = 1.0
PAUSE_MOST_S = 60.0


class Faults:
    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.count = 0
        self._last = ""
        self._pause_s = 0.0
        self._until = float("-inf")

    def pause_after(self, error: BaseException) -> float:
        """How long to wait before the work is taken up again."""
        self.count += 1
        now = self.clock.monotonic()
        if now < self._until:
            return self._until - now
        afresh = now - self._until > PAUSE_MOST_S
        self._pause_s = PAUSE_S if afresh else min(self._pause_s * 2, PAUSE_MOST_S)
        self._until = now + self._pause_s
        self._last = f"{type(error).__name__}: {error}"
        log.error(
            "%s: an error of the engine, not of the handler; its work is taken up again in %g s",
            self.name,
            self._pause_s,
            exc_info=error,
        )
        return self._pause_s

    @property
    def problem(self) -> str | None:
        """For health: during the pause, and as long again."""
        if self.clock.monotonic() > self._until + self._pause_s:
            return None
        return f"{self.name} is held up by an error of the engine, and tries again after pauses: {self._last}"
