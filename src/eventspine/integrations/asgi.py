"""Correlation for any ASGI application: Starlette, FastAPI, Litestar, Quart.

    app.add_middleware(Correlation)

Everything that is published and logged while a request is answered belongs to the request's correlation: the client's
`X-Request-ID` and `traceparent`, or what is made where they are missing or malformed. Both are in the response, and `Spine-Token` where something was published: see `integrations/http.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from ..observe.acting import of_request
from ..observe.correlation import requested
from ..observe.written import Written, collected, collecting
from .requests import REQUEST_ID, TRACEPARENT, Request, headers_of, request_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

_STARTS = frozenset({"http.response.start", "websocket.accept"})


class Correlation:
    """`trust=False`: what clients send is not taken; for a service that strangers call. `actor`: who has it done, asked
    with the request's scope whenever something is published, so that whatever finds the user may run later.
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

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request = request_of(_values(scope, REQUEST_ID), _values(scope, TRACEPARENT), trust=self.trust)
        with requested(request.id, request.traceparent) as cause, collecting() as written:
            if self.actor is not None:
                cause.who = of_request(partial(self.actor, scope))
            await self.app(scope, receive, partial(_send, send, request, written if self.token else None))


class Tokens:
    """`Spine-Token` alone, for an application that has no Correlation, neither around it nor inside."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or collected.get() is not None:
            await self.app(scope, receive, send)
            return
        with collecting() as written:
            await self.app(scope, receive, partial(_send, send, None, written))


def _values(scope: Message, name: str) -> list[str]:
    wanted = name.lower().encode()
    return [value.decode("latin-1") for key, value in scope.get("headers", ()) if key.lower() == wanted]


async def _send(send: Send, request: Request | None, written: Written | None, message: Message) -> None:
    if message["type"] in _STARTS:
        ours = [(name.lower().encode(), value.encode()) for name, value in headers_of(request, written)]
        names = {name for name, _ in ours}
        others = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
        message = {**message, "headers": [*others, *ours]}
    await send(message)
