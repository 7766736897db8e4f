"""What HTTP says of commands and views, whatever the framework: two headers, and how errors are answered.

    Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324    the command's id; quoted, as the draft of the IETF has it, or not
    Spine-Token: 1.AaIlbo…                                    of an answer: what was published; of a request: be that far

What clients send is taken as it is meant, or refused with 400. A command is JSON and says so: a form on somebody else's page can
send a visitor's cookies with any text, but not with this content type, unless the browser has asked here first. An error is answered by `answer_of`, as a problem (RFC 9457): what
a client can mend or was refused says why, and what is the server's trouble (5xx) says nothing of its inside: that goes to the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import (
    BeyondColumn,
    CommandRefused,
    CommandReused,
    Conflict,
    ContentTypeRefused,
    HandlerTimeout,
    HeaderRefused,
    JournalBusy,
    JournalError,
    JournalFull,
    KeyRefused,
    NoSuchAggregate,
    OutboxFull,
    OutcomeUnknown,
    Reject,
    SpineClosed,
    StreamDeleted,
    VersionsDeleted,
    ViewBehind,
    ViewNotKept,
)
from ..state.token import Token

log = logging.getLogger("eventspine.http")

TOKEN = "Spine-Token"  # noqa: S105 -- the name of a header
IDEMPOTENCY_KEY = "Idempotency-Key"
PROBLEM = "application/problem+json"

_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json[ \t]*(?:;|\Z)", re.IGNORECASE)
_KEY = re.compile(r'(?P<quote>"?)(?P<key>[A-Za-z0-9._:/+=@~-]{1,255})(?P=quote)\Z')


def token_of(values: Sequence[str]) -> Token:
    """From all values of the header; without one there is nothing to wait for."""
    _check_one(values, TOKEN)
    return Token.parse(values[0]) if values else Token()


def key_of(values: Sequence[str]) -> str | None:
    """From all values of the header."""
    _check_one(values, IDEMPOTENCY_KEY)
    if not values:
        return None
    found = _KEY.match(values[0])
    if found is None:
        raise HeaderRefused(
            f"{IDEMPOTENCY_KEY} is 1 to 255 letters, digits and ._:/+=@~-, such as a UUID; not {values[0]!r:.60}.",
            header=IDEMPOTENCY_KEY,
        )
    return found["key"]


def check_json(content_type: str | None) -> None:
    """Of a request whose body is to be a command."""
    if content_type is None or not _JSON.match(content_type):
        said = "nothing" if not content_type else f"{content_type!r:.60}"
        raise ContentTypeRefused(
            f"A command is sent as JSON, with Content-Type: application/json; this request says {said}.",
            header="Content-Type",
        )


def _check_one(values: Sequence[str], name: str) -> None:
    if len(values) > 1:
        raise HeaderRefused(f"{name} comes {len(values)} times; send it once.", header=name)


# --- errors -------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: dict[str, Any]  # a problem


class _Rule(NamedTuple):
    status: int
    title: str
    detail: str | None  # None: what the error says
    retry_after_s: int | None = None
    level: int = logging.DEBUG  # at which it is logged; what clients can bring about as often as they like fills no log


_AGAIN = "Try again."
RULES: dict[type[Exception], _Rule] = {
    HeaderRefused: _Rule(400, "A header can't be used", None),
    ContentTypeRefused: _Rule(415, "Not JSON", None),
    CommandRefused: _Rule(422, "This can't be asked for", None),
    KeyRefused: _Rule(422, "No such id", "An id is empty, too long, or no printable text."),
    CommandReused: _Rule(
        422,
        "This key was another request's",
        f"This {IDEMPOTENCY_KEY} was sent with another request. Make a new one for each.",
    ),
    BeyondColumn: _Rule(
        422,
        "No such value",
        "A value is one that nothing here can have: a text with half a character or a NUL, a number out of bounds.",
    ),
    Reject: _Rule(409, "Refused", None),
    NoSuchAggregate: _Rule(404, "Not found", "There is no such thing."),
    StreamDeleted: _Rule(410, "Deleted", "It was deleted."),
    VersionsDeleted: _Rule(410, "Deleted", "What it was by then was deleted."),
    Conflict: _Rule(409, "Changed meanwhile", "Somebody else changed this at the same time. Read it again."),
    ViewBehind: _Rule(
        503, "Not that far yet", "What you have written is stored and will be seen here soon. Ask again.", 1
    ),
    ViewNotKept: _Rule(503, "Not there yet", "What is asked for is not kept here yet. Ask again.", 5),
    OutcomeUnknown: _Rule(
        503,
        "Perhaps done",
        f"It may have been done. Send the same again, under the same {IDEMPOTENCY_KEY}.",
        1,
        logging.ERROR,
    ),
    HandlerTimeout: _Rule(503, "It took too long", f"Nothing was done. {_AGAIN}", 5, logging.ERROR),
    JournalError: _Rule(503, "Not at work", _AGAIN, 5, logging.ERROR),
    JournalBusy: _Rule(503, "Busy", _AGAIN, 1, logging.WARNING),
    JournalFull: _Rule(503, "No space", _AGAIN, 30, logging.ERROR),
    OutboxFull: _Rule(503, "Too much is waiting", _AGAIN, 30, logging.ERROR),
    SpineClosed: _Rule(503, "Stopping", _AGAIN, 1),
}


def answer_of(error: BaseException) -> Answer | None:
    """How it is answered; None: as any other error."""
    rule = next((RULES[kind] for kind in type(error).__mro__ if kind in RULES), None)
    if rule is None:
        return None
    headers = {"Content-Type": PROBLEM, "Cache-Control": "no-store"}
    if rule.retry_after_s is not None:
        headers["Retry-After"] = str(rule.retry_after_s)
    log.log(
        rule.level, "answered with %d: %s", rule.status, error, exc_info=error if rule.level > logging.WARNING else None
    )
    detail = str(error) if rule.detail is None else rule.detail
    # A handler's text may hold what is no Unicode, which no answer can.
    detail = detail.encode("utf-8", "backslashreplace").decode()
    body: dict[str, Any] = {"title": rule.title, "status": rule.status, "detail": detail}
    if isinstance(error, OutcomeUnknown) and "command_id" in error.details:
        body["idempotency_key"] = error.details["command_id"]
    return Answer(rule.status, headers, body)
