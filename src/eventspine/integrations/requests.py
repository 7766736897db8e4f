"""Which correlation a web request belongs to: its `X-Request-ID` and its `traceparent`, as far as they can be taken.

What a client sends ends in every event, log line and response, so it is taken only if it is well formed; otherwise, and
where it is missing, one is made. Both are sent back, so that the caller can name the request."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..observe.written import Written

REQUEST_ID = "X-Request-ID"
TRACEPARENT = "traceparent"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}\Z")
# W3C Trace Context: version 00 as it is; later ones may say more behind the flags, which is theirs. ff is none.
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


class Request(NamedTuple):
    id: str
    traceparent: str

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return (REQUEST_ID, self.id), (TRACEPARENT, self.traceparent)


def headers_of(request: Request | None, written: Written | None) -> list[tuple[str, str]]:
    """Of the answer: with a token, where something was published."""
    named = list(request.headers) if request is not None else []
    if written is None or not written.ids:
        return named
    from ..state.token import Token
    from .http import TOKEN

    return [*named, (TOKEN, str(Token.of_ids(written.ids)))]


def request_of(ids: Sequence[str], traceparents: Sequence[str], *, trust: bool = True) -> Request:
    """From all values of the two headers. With `trust=False` the client's are not looked at."""
    return Request(
        _only(ids, _ID, trust) or os.urandom(16).hex(),
        # Sampled: else who traces the events by their parents' word (the default) would record none of them.
        _only(traceparents, _TRACE, trust) or f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01",
    )


def _only(values: Sequence[str], form: re.Pattern[str], trust: bool) -> str | None:
    """A header that comes twice says nothing."""
    return values[0] if trust and len(values) == 1 and form.match(values[0]) else None
