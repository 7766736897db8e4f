"""Correlation for any WSGI application: Flask, Django, Pyramid.

    app.wsgi_app = Correlation(app.wsgi_app)

The twin of `eventspine.integrations.asgi`: what is published and logged while a request is answered, its streamed body
included, belongs to the client's `X-Request-ID` and `traceparent`, or to what is made where they are missing or malformed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from ..observe.acting import of_request
from ..observe.correlation import Cause, going_on, requested
from ..observe.written import collecting
from .requests import headers_of, request_of

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Correlation:
    """`trust=False`: what clients send is not taken; for a service that strangers call. `actor`: who has it done, asked
    with the request's environ whenever something is published, so that whatever finds the user may run later.
    `token=False`: answers don't say what was published."""

    def __init__(
        self,
        app: App,
        *,
        trust: bool = True,
        actor: Callable[[Any], str | None] | None = None,
        token: bool = True,
    ) -> None:
        self.app = app
        self.trust = trust
        self.actor = actor
        self.token = token

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = request_of(
            _values(environ, "HTTP_X_REQUEST_ID"), _values(environ, "HTTP_TRACEPARENT"), trust=self.trust
        )

        def starting(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            ours = headers_of(request, written if self.token else None)
            return start_response(status, _with(headers, ours), *error)

        with requested(request.id, request.traceparent) as cause, collecting() as written:
            if self.actor is not None:
                cause.who = of_request(partial(self.actor, environ))
            body = self.app(environ, starting)
        return body if isinstance(body, (list, tuple)) else _Body(body, cause)


def _values(environ: dict[str, Any], name: str) -> list[str]:
    return [environ[name]] if name in environ else []  # a header that comes twice arrives as one, joined by commas


def _with(headers: list[tuple[str, str]], ours: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    names = {name.lower() for name, _ in ours}
    return [*((name, value) for name, value in headers if name.lower() not in names), *ours]


class _Body:
    """A body that is made while it is sent."""

    def __init__(self, body: Iterable[bytes], cause: Cause) -> None:
        self._body, self._cause = body, cause
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with going_on(self._cause):
            self._parts = self._parts or iter(self._body)
            return next(self._parts)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with going_on(self._cause):
                close()
