"""What is being handled right now, for whatever is published or logged meanwhile.

One context variable, `current`, holds the `Cause`: set by the engine around each handler, and by `correlate` in web
requests and scripts. Tasks inherit it, threads started with `asyncio.to_thread` too. Publishing reads it for
correlation, causation, hops and trace; logging reads it for every record (`observe.logs`). Imports nothing of ours but the errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..errors import CorrelationRefused


class Cause:
    """Why something happens: the delivery being handled, or a request that began outside.

    `causation` and `event_id` are "" or None where no event is the cause; `handler` is then "" too. `causation` is what
    the event being handled was itself caused by; events published now are caused by `event_id`."""

    __slots__ = ("attempt", "causation", "correlation", "event_id", "handler", "hops", "key", "traceparent")

    def __init__(
        self,
        correlation: str,
        causation: str | None = None,
        event_id: str = "",
        hops: int = 0,
        traceparent: str | None = None,
        handler: str = "",
        key: str | None = None,
        attempt: int = 0,
    ) -> None:
        self.correlation = correlation
        self.causation = causation
        self.event_id = event_id
        self.hops = hops
        self.traceparent = traceparent
        self.handler = handler
        self.key = key
        self.attempt = attempt

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


LENGTH_MAX = 255  # characters of a correlation id

current: ContextVar[Cause | None] = ContextVar("eventspine_cause", default=None)


@contextmanager
def correlate(correlation_id: str, traceparent: str | None = None) -> Iterator[Cause]:
    """Have everything published and logged inside belong to this correlation: a web request, a job, a script."""
    if not correlation_id:
        raise CorrelationRefused("A correlation needs an id: pass the request's own, or make one.")
    for given in (correlation_id, traceparent):
        if not isinstance(given, str | None):
            raise CorrelationRefused(
                f"A correlation id and a traceparent are text, and this is of type {type(given).__name__}."
            )
    if len(correlation_id) > LENGTH_MAX or not correlation_id.isprintable():
        raise CorrelationRefused(
            f"A correlation id is printable text of at most {LENGTH_MAX} characters, since it is stored with every event "
            f"and written to every log; this one has {len(correlation_id)}. Make one, such as a UUID, where it is not."
        )
    cause = Cause(correlation_id, traceparent=traceparent)
    token = current.set(cause)
    try:
        yield cause
    finally:
        current.reset(token)
