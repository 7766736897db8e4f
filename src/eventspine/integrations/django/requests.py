"""What a request says of commands and views: its body, its Idempotency-Key, its Spine-Token.

What can't be used raises CommandRefused or HeaderRefused, which the middleware answers with 422 and 400 (415 for what does not say that it is JSON)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ...state.token import Token
from ..http import IDEMPOTENCY_KEY, TOKEN, check_json, key_of, token_of as _token_of

C = TypeVar("C")
T = TypeVar("T")


def command_of(request: Any, kind: type[C]) -> C:
    """The command that the request's JSON is."""
    from ...commands.declare import describe_command

    check_json(request.headers.get("Content-Type"))
    found: C = describe_command(kind).asked(request.body)
    return found


def idempotency_key(request: Any) -> str | None:
    """To be a command's id: `send(command, command_id=idempotency_key(request))`."""
    return _of_header(request, IDEMPOTENCY_KEY, key_of)


def token_of(request: Any) -> Token:
    """What the client has seen, to be waited for: `view(Orders).wait(token_of(request))`."""
    return _of_header(request, TOKEN, _token_of)


def _of_header(request: Any, name: str, read: Callable[[list[str]], T]) -> T:
    return read([request.headers[name]] if name in request.headers else [])
