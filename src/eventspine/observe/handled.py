"""One log line for each event that a handler has returned from, as a middleware: what `spine run --log-handled` shows.

An attempt that fails has its own line, from the engine. The line is written when the handler has returned, which is a
moment before what it changed is durable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..events import describe
from ..service import Middleware

log = logging.getLogger("eventspine.handled")


class LogHandled(Middleware):
    def __init__(self, level: int = logging.DEBUG) -> None:
        self.level = level

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        started = time.perf_counter()
        result = await proceed()
        took_ms = (time.perf_counter() - started) * 1000
        what = _named(event) if isinstance(event, list) else delivery.record.type  # a run of a schedule has no class
        log.log(
            self.level,
            "%s handled in %.1f ms",
            what,
            took_ms,
            extra={"handled": what, "took_ms": round(took_ms, 3)},
        )
        return result


def _named(events: list[Any]) -> str:
    first = describe(type(events[0])).name
    return f"{first} and {len(events) - 1} more" if len(events) > 1 else first
