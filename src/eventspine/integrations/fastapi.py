"""A spine in a FastAPI application, in two lines:

    events = Events("sqlite:///shop.db", service=storefront, run=[inventory])
    app = FastAPI(lifespan=events.lifespan)

The spine is open from the application's start to its end; `run=` services work beside it, in the same event loop, and
are drained when it ends. `FastAPI(..., exception_handlers=answers)` answers what commands and views raise. An application whose engine has failed does not go on as if nothing were: `health` says
"failed" (503), and unless told otherwise the process is asked to stop (SIGTERM), so that whatever supervises it starts a
whole one. The same objects serve Starlette, but for the dependencies.

            start ──► open ──► run ──► serving ──► drain ──► close
                        │        │        │
                        └ error: the application does not start
                                          └ the engine failed: health, log, SIGTERM ──► shut down, with that error
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Any, Literal, TypeVar

from .. import sync
from ..commands.declare import CommandMeta, describe_command
from ..errors import CommandRefused, ContentTypeRefused, HeaderRefused, MissingExtra, SettingsError, WouldDeadlock
from ..service import Service, check_services
from ..spine import Spine
from ..state.token import Token
from ..sync.loop import Loop, inside, with_context
from .asgi import Tokens
from .http import IDEMPOTENCY_KEY, RULES, TOKEN, answer_of, check_json, key_of, token_of

try:
    from fastapi import Depends, Header, HTTPException
    from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException as HTTPError
    from starlette.requests import HTTPConnection, Request

    # After those, which bring pydantic: else that would be named as what is missing.
    from ..commands.body import REFUSED
except ImportError as missing:
    raise MissingExtra("eventspine.integrations.fastapi needs FastAPI: pip install 'eventspine[fastapi]'.") from missing

__all__ = ["BlockingSpineDep", "Events", "IdempotencyKeyDep", "SpineDep", "TokenDep", "answers"]

T = TypeVar("T")
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
_UNREAD = "There was an error parsing the body"  # FastAPI's own words
STATE = "eventspine"  # where a request finds its application's Events

log = logging.getLogger("eventspine.fastapi")


class Events:
    """`spine`: a URL, or a spine that you made (then `service` is its own business). `run`: services to run beside the
    application. `commands`: services whose commands are handled here, and which don't run here. `on_failure`: "stop" ends the process when their engine has failed, "serve" goes on with requests."""

    def __init__(
        self,
        spine: str | Spine = "sqlite:///spine.db",
        *,
        service: Service[Any] | None = None,
        run: Sequence[Service[Any]] = (),
        on_failure: Literal["stop", "serve"] = "stop",
        drain_s: float | None = None,
        commands: Sequence[Service[Any]] = (),
    ) -> None:
        if isinstance(spine, Spine) and (service is not None or commands):
            word = "service=" if service is not None else "commands="
            raise SettingsError(f"This spine was made already: give {word} to Spine(...), not to Events(...).")
        if on_failure not in ("stop", "serve"):
            raise SettingsError(f'on_failure={on_failure!r} is neither "stop" nor "serve".')
        if isinstance(run, Service):
            raise SettingsError("run= is a list of services: run=[inventory].")
        check_services(run)
        self.spine = spine if isinstance(spine, Spine) else Spine(spine, service=service, commands=commands)
        self.run = tuple(run)
        self.on_failure = on_failure
        self.drain_s = drain_s
        self.failure: BaseException | None = None
        self._blocking: sync.Spine | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[dict[str, Any]]:
        """FastAPI(lifespan=events.lifespan)."""
        if self._blocking is not None:
            raise SettingsError("These Events are at work for an application already: make one Events(...) for each.")
        _check_bodies(app)
        self.failure = None
        async with self.spine:
            self._blocking = _Blocking(self.spine, asyncio.get_running_loop())
            engine = _Engine(self)
            try:
                await engine.start()
                with _tokens(app):
                    yield {STATE: self}
            finally:
                await engine.stop()
                self._blocking = None
        if self.failure is not None:
            raise self.failure

    def around(self, lifespan: Lifespan) -> Lifespan:
        """FastAPI(lifespan=events.around(own)): your own starts when the spine is open, and ends before it closes."""

        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[dict[str, Any]]:
            async with AsyncExitStack() as stack:
                ours = await stack.enter_async_context(self.lifespan(app))
                theirs = await stack.enter_async_context(lifespan(app))
                yield {**(theirs or {}), **ours}

        return both

    # --- in requests ------------------------------------------------------------------------------------------------

    async def health(self) -> JSONResponse:
        """app.add_api_route("/health", events.health): `spine.health()`, with status 503 once it has failed."""
        found = self.spine.health()
        return JSONResponse(found, status_code=503 if found["status"] == "failed" else 200)

    @property
    def blocking(self) -> sync.Spine:
        """The spine for code in threads, such as `def` endpoints."""
        if self._blocking is None:
            raise SettingsError(_NOT_STARTED)
        return self._blocking


_NOT_STARTED = (
    "This application has no open spine. Make one, events = Events(url, service=...), give it to the application, "
    "FastAPI(lifespan=events.lifespan), and see that the lifespan runs: in a test, `with TestClient(app) as client`."
)


def _events(connection: HTTPConnection) -> Events:
    events = getattr(connection.state, STATE, None)
    if not isinstance(events, Events):
        raise SettingsError(_NOT_STARTED)
    return events


def _spine(connection: HTTPConnection) -> Spine:
    return _events(connection).spine


def _blocking(connection: HTTPConnection) -> sync.Spine:
    return _events(connection).blocking


_KeyHeader = Annotated[str | None, Header(description="The same request sent again under it is done once.")]
_TokenHeader = Annotated[str | None, Header(description="What an answer's Spine-Token said: be as far as that.")]


# The header is an argument for the schema's sake. What it says is read from all of its values.
def _key(connection: HTTPConnection, idempotency_key: _KeyHeader = None) -> str | None:  # noqa: ARG001
    return _of_header(key_of, connection, IDEMPOTENCY_KEY)


def _token(connection: HTTPConnection, spine_token: _TokenHeader = None) -> Token:  # noqa: ARG001
    return _of_header(token_of, connection, TOKEN)


def _of_header(read: Callable[[list[str]], T], connection: HTTPConnection, name: str) -> T:
    try:
        return read(connection.headers.getlist(name))
    except HeaderRefused as error:
        raise _Unfit(error) from error


# --- answers ------------------------------------------------------------------------------------------------------------


class _Unfit(HTTPException):
    """What a dependency refuses: answered with 400 in any application, and as a problem where `answers` are."""

    def __init__(self, error: HeaderRefused) -> None:
        super().__init__(400, str(error))
        self.error = error


async def _answer(_: Any, error: Exception) -> JSONResponse:
    answer = answer_of(error)
    assert answer is not None
    return JSONResponse(answer.body, status_code=answer.status, headers=answer.headers)


async def _answer_unfit(request: Any, error: _Unfit) -> JSONResponse:
    return await _answer(request, error.error)


async def _answer_invalid(request: Request, error: RequestValidationError) -> Response:
    """A body that is no command is answered like other refusals of commands; all else as FastAPI does."""
    refused = _refused(request, error)
    return await (_answer(request, refused) if refused else request_validation_exception_handler(request, error))


async def _answer_unread(request: Request, error: HTTPError) -> Response:
    """The same for bytes that Python can't read as JSON, of which FastAPI makes an answer of another kind."""
    kind = _command_of(request.scope.get("route"))
    if kind is not None and error.detail == _UNREAD and isinstance(error.__cause__, (ValueError, RecursionError)):
        return await _answer(request, CommandRefused(f"{kind.name}: it is no JSON that can be read. Nothing was done."))
    return await http_exception_handler(request, error)


def _refused(request: Request, error: RequestValidationError) -> CommandRefused | ContentTypeRefused | None:
    of_body = [one for one in error.errors() if one["loc"][:1] == ("body",)]
    ours = next((one["ctx"]["why"] for one in of_body if one["type"] == REFUSED), None)
    kind = _command_of(request.scope.get("route"))
    if not of_body or (ours is None and kind is None):
        return None
    try:
        check_json(request.headers.get("content-type"))
    except ContentTypeRefused as refused:
        return refused
    if ours is not None:
        return CommandRefused(ours)
    assert kind is not None
    first = of_body[0]
    why = first.get("ctx", {}).get("error", first["msg"])
    return CommandRefused(f"{kind.name}: {why}. Nothing was done.", type=kind.name)


def _command_of(route: Any) -> Any:
    """The command that is the whole body of the endpoint, if one is."""
    fields = getattr(getattr(route, "dependant", None), "body_params", ())
    kinds = [getattr(getattr(field, "field_info", None), "annotation", None) for field in fields]
    return describe_command(kinds[0]) if len(kinds) == 1 and isinstance(kinds[0], CommandMeta) else None


def _check_bodies(app: Any) -> None:
    """FastAPI looks for what it does not know in the query, where no command is ever found."""
    for route in _routes(app):
        for field in getattr(getattr(route, "dependant", None), "query_params", ()):
            kind = field.field_info.annotation
            if isinstance(kind, CommandMeta):
                raise SettingsError(
                    f"{route.path} takes the command {field.name} from the query. Have it taken from the body: "
                    f"{field.name}: Annotated[{kind.__name__}, Body()]."
                )


def _routes(app: Any) -> Iterator[Any]:
    """Of what it includes as well, which newer releases of FastAPI keep by itself, and of what is mounted."""
    for route in getattr(app, "routes", None) or ():
        yield route
        yield from _routes(getattr(route, "original_router", route))


@contextmanager
def _tokens(app: Any) -> Iterator[None]:
    """Have the application's answers say what was published, whether or not it has the middleware. It has built what
    it answers with by now: its lifespan is one of the things that go through it."""
    built = getattr(app, "middleware_stack", None)
    if built is None:
        yield
        return
    app.middleware_stack = ours = Tokens(built)
    try:
        yield
    finally:
        if app.middleware_stack is ours:
            app.middleware_stack = built


answers: dict[Any, Any] = {
    **dict.fromkeys(RULES, _answer),
    _Unfit: _answer_unfit,
    RequestValidationError: _answer_invalid,
    HTTPError: _answer_unread,
}
"""For `FastAPI(exception_handlers=answers)`: what commands and views raise, as problems (RFC 9457)."""

IdempotencyKeyDep = Annotated[str | None, Depends(_key)]
"""The client's Idempotency-Key, to be a command's id: `await spine.send(command, command_id=key)`. Refuses with 400."""

TokenDep = Annotated[Token, Depends(_token)]
"""The client's Spine-Token, to be waited for: `await spine.view(Orders).wait(token)`. Refuses with 400."""

SpineDep = Annotated[Spine, Depends(_spine)]
"""For `async def` endpoints: `await spine.publish(event, within=session)`."""

BlockingSpineDep = Annotated[sync.Spine, Depends(_blocking)]
"""For `def` endpoints, which FastAPI runs in threads: `spine.publish(event, within=session)`."""


# --- inside -------------------------------------------------------------------------------------------------------------


class _Engine:
    """`async with spine.running(...)`, held open by a task of its own: its failure cancels that task. A server's own,
    in which a lifespan is left to sleep, would be cancelled in silence, and requests served on as if nothing were."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._stop = asyncio.Event()
        self._started = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if not self._events.run:
            return
        self._task = asyncio.create_task(self._hold(), name="eventspine")
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait([self._task, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            await self._task
        self._task.add_done_callback(self._ended)

    async def _hold(self) -> None:
        async with self._events.spine.running(*self._events.run, drain_s=self._events.drain_s):
            self._started.set()
            await self._stop.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._events.failure = error
        log.critical("the engine beside this application has failed: %s", error, exc_info=error)
        if not self._stop.is_set() and self._events.on_failure == "stop":
            os.kill(os.getpid(), signal.SIGTERM)  # the server finishes its requests, then the lifespan raises the error

    async def stop(self) -> None:
        self._stop.set()
        if self._task is not None:
            await asyncio.wait([self._task])


class _Blocking(sync.Spine):
    """The blocking names of a spine that lives on the application's loop."""

    def __init__(self, spine: Spine, loop: asyncio.AbstractEventLoop) -> None:
        self._begin(lambda: spine)
        self._loop = _Loop(loop)


class _Loop(Loop):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._theirs = loop

    def submit(self, coroutine: Coroutine[Any, Any, T], *, again: bool = False) -> Future[T]:
        if inside(self._theirs):
            coroutine.close()
            raise WouldDeadlock("An `async def` endpoint would wait for itself here: take SpineDep, and await.")
        return asyncio.run_coroutine_threadsafe(with_context(coroutine), self._theirs)

    def stop(self) -> None:
        """It is the application's."""
