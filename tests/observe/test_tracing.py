"""Spans continue one trace from the request through every service that reacts."""

from __future__ import annotations

import asyncio

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from eventspine import Event, Reject, Service, Spine, correlate
from eventspine.observe.tracing import Tracing


class Asked(Event, context="asking", key="who"):
    who: str


class Answered(Event, context="answering", key="who"):
    who: str


async def test_one_trace_runs_from_the_request_through_both_services() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    asking, answering, listening = Service("asking"), Service("answering"), Service("listening")
    heard = asyncio.Event()

    @answering.on(Asked)
    async def answer(event: Asked) -> Answered:
        return Answered(who=event.who)

    @listening.on(Answered)
    async def listen(event: Answered) -> None:
        heard.set()
        raise Reject("enough")

    trace_id = "0af7651916cd43dd8448eb211c80319c"
    spine = Spine("memory://", service=asking, middleware=[Tracing(provider)])
    async with spine, spine.running(answering, listening):
        with correlate("request-1", traceparent=f"00-{trace_id}-b7ad6b7169203331-01"):
            await spine.publish(Asked(who="ann"))
        async with asyncio.timeout(20):
            await heard.wait()
            while len(exporter.get_finished_spans()) < 4:
                await asyncio.sleep(0)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {
        "publish asking.Asked", "process answering.answer", "publish answering.Answered", "process listening.listen",
    }  # fmt: skip
    handled = [span for name, span in spans.items() if name.startswith("process")]
    assert spans["process listening.listen"].status.status_code is StatusCode.ERROR
    assert {f"{span.context.trace_id:032x}" for span in handled} == {trace_id}
