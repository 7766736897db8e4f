"""Correlation for Django's requests, in WSGI and in ASGI, for `def` views and `async def` ones:

    MIDDLEWARE = ["eventspine.integrations.django.middleware.CorrelationMiddleware", ...]   # the first

What is published and logged while a request is answered, its streamed body included, belongs to the client's
`X-Request-ID` and `traceparent`, or to what is made where they are missing or malformed. Both are in the response.

With `ACTOR` in the settings, who has it done is asked before each view, when the middleware that finds the user has run; of
an `async def` view in Django's thread for what blocks, so that it may use the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import JsonResponse

from ...observe.acting import of_request
from ...observe.correlation import Cause, current, going_on, requested
from ...observe.written import Written, collecting
from ..http import PROBLEM, answer_of
from ..requests import REQUEST_ID, TRACEPARENT, Request, headers_of, request_of
from . import settings


class CorrelationMiddleware:
    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        if self.is_async:
            return self._answer_async(request)
        ours = _request_of(request)
        with requested(ours.id, ours.traceparent) as cause, collecting() as written:
            return _named(self.get_response(request), ours, cause, written)

    async def _answer_async(self, request: Any) -> Any:
        ours = _request_of(request)
        with requested(ours.id, ours.traceparent) as cause, collecting() as written:
            return _named(await cast("Awaitable[Any]", self.get_response(request)), ours, cause, written)

    def process_exception(self, _: Any, exception: Exception) -> JsonResponse | None:
        """Of what commands and views raise, and the view has not caught."""
        answer = answer_of(exception) if settings.read().answers else None
        if answer is None:
            return None
        headers = {name: value for name, value in answer.headers.items() if name != "Content-Type"}
        return JsonResponse(answer.body, status=answer.status, headers=headers, content_type=PROBLEM)

    def process_view(self, request: Any, *_: Any) -> None:
        actor, cause = settings.actor(), current.get()
        if actor is not None and cause is not None:
            cause.who = of_request(partial(actor, request))()


def _request_of(request: Any) -> Request:
    headers = request.headers
    return request_of(
        [headers[REQUEST_ID]] if REQUEST_ID in headers else [],
        [headers[TRACEPARENT]] if TRACEPARENT in headers else [],
        trust=settings.read().trust_request_id,
    )


def _named(response: Any, ours: Request, cause: Cause, written: Written) -> Any:
    for name, value in headers_of(ours, written if settings.read().token else None):
        response[name] = value
    if response.streaming:
        body = response.streaming_content
        response.streaming_content = _async_body(body, cause) if response.is_async else _body(body, cause)
    return response


def _body(parts: Iterator[bytes], cause: Cause) -> Iterator[bytes]:
    """Made while it is sent, when the middleware has long returned."""
    while True:
        with going_on(cause):
            part = next(parts, None)
        if part is None:
            return
        yield part


async def _async_body(parts: AsyncIterator[bytes], cause: Cause) -> AsyncIterator[bytes]:
    while True:
        with going_on(cause):
            part = await anext(parts, None)
        if part is None:
            return
        yield part
