"""One log line for each attempt at an event, as a middleware: what `spine run --log-level debug` shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ..service import Middleware

log = logging.getLogger("eventspine.handled")


class LogHandled(Middleware):
    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        started = time.perf_counter()
        result = await proceed()
        took_ms = (time.perf_counter() - started) * 1000
        what = f"{len(event)} events" if isinstance(event, list) else type(event).__name__
        log.debug("%s handled %s in %.1f ms", delivery.handler, what, took_ms)
        return result
