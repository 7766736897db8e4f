"""OpenTelemetry, as a middleware: a span for each event published and command sent, and each
attempt to handle one.

    Spine(url, middleware=[Tracing()])

The trace travels in `traceparent` (W3C Trace Context) and is continued wherever the event is handled: in another
process, on another day, after a replay. Without this middleware the attribute still flows from event to event; nothing
but spans is missing. Needs `pip install eventspine[otel]`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import MissingExtra
from ..events import describe
from ..events.declare import COMMAND
from ..service import Middleware
from .correlation import current

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise MissingExtra("Tracing needs OpenTelemetry: pip install 'eventspine[otel]'.") from missing

PROPAGATOR = TraceContextTextMapPropagator()


class Tracing(Middleware):
    """`provider`: whose tracer to use; the program's global one by default."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer: Tracer = trace.get_tracer("eventspine", tracer_provider=provider)

    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        name = _name(event)
        with self._tracer.start_as_current_span(name, context=_parent(), kind=SpanKind.PRODUCER) as span:
            carrier: dict[str, str] = {}
            PROPAGATOR.inject(carrier)
            if "traceparent" in carrier:
                attributes["traceparent"] = carrier["traceparent"]
            record = proceed()
            span.set_attributes(_facts(record))
            return record

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        if isinstance(event, list):  # a run has as many parents as events; it gets no span of its own
            return await proceed()
        parent = PROPAGATOR.extract({"traceparent": delivery.envelope.traceparent})
        name = f"process {delivery.handler}"
        with self._tracer.start_as_current_span(name, context=parent, kind=SpanKind.CONSUMER) as span:
            span.set_attributes({**_facts(delivery.record), "spine.attempt": delivery.attempt})
            try:
                return await proceed()
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise


def _name(event: Any) -> str:
    command = getattr(type(event), COMMAND, None)
    return f"publish {describe(type(event)).name}" if command is None else f"send {command.name}"


def _parent() -> Context | None:
    """The span that is current, else the trace of the request or delivery that is being handled."""
    cause = current.get()
    if trace.get_current_span().get_span_context().is_valid or cause is None or not cause.traceparent:
        return None
    return PROPAGATOR.extract({"traceparent": cause.traceparent})


def _facts(record: Any) -> dict[str, Any]:
    """By the semantic conventions for messaging, as far as they have names."""
    facts = {
        "messaging.system": "eventspine",
        "messaging.destination.name": record.channel,
        "messaging.message.id": record.id.hex(),
        "spine.type": record.type,
        "spine.key": record.key,
    }
    return {name: value for name, value in facts.items() if value is not None}
