"""One log line for each event that a handler has returned from, as a middleware: what `spine run --log-handled` shows.

The line is written when the handler has returned, which is a moment before what it changed is durable. An attempt that
fails has its own line, from the engine; here it has its traceback, from the handler's own first line on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from ..errors import Reject, RetryAfter
from ..events import describe
from ..service import Middleware

log = logging.getLogger("eventspine.handled")

_OURS = ("eventspine.", "asyncio.", "concurrent.futures.")


class LogHandled(Middleware):
    def __init__(self, level: int = logging.DEBUG) -> None:
        self.level = level

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        started = time.perf_counter()
        try:
            result = await proceed()
        except (Reject, RetryAfter):
            raise  # said, not broken
        except Exception as error:
            told = (type(error), error, _without_ours(error.__traceback__))
            log.log(self.level, "%s raised", delivery.handler, exc_info=told)
            raise
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


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """From the first frame that is neither the package's nor on the way to a thread; all of it where there is none."""
    at = trace
    while at is not None and at.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        at = at.tb_next
    return at or trace


def _named(events: list[Any]) -> str:
    first = describe(type(events[0])).name
    return f"{first} and {len(events) - 1} more" if len(events) > 1 else first
