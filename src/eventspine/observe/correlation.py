"""What is being handled right now, for whatever is published or logged meanwhile.

One context variable, `current`, holds the `Cause`: set by the engine around each handler, and by `correlate` in web
requests and scripts. Tasks inherit it, threads started with `asyncio.to_thread` too. Publishing reads it for
correlation, causation, hops and trace; logging reads it for every record (`observe.logs`). Imports nothing of ours but the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from ..errors import CorrelationRefused, DeclarationError


class Who(NamedTuple):
    """Who has something done, and why, as far as somebody said (`observe.acting`)."""

    actor: str | None = None
    why: str | None = None


NOBODY = Who()
Asked = Callable[[], Who]  # asked when something is published: by then it is known who it is


class Cause:
    """Why something happens: the delivery being handled, or a request that began outside.

    `causation` and `event_id` are "" or None where no event is the cause; `handler` is then "" too. `causation` is what
    the event being handled was itself caused by; events published now are caused by `event_id`."""

    __slots__ = ("attempt", "causation", "correlation", "event_id", "handler", "hops", "key", "traceparent", "who")

    events = 0  # of a run that a batch handler has in hand, which has no id and no key of its own
    first_event_id = last_event_id = ""

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
        who: Who | Asked = NOBODY,
    ) -> None:
        self.correlation = correlation
        self.causation = causation
        self.event_id = event_id
        self.hops = hops
        self.traceparent = traceparent
        self.handler = handler
        self.key = key
        self.attempt = attempt
        self.who = who

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


LENGTH_MAX = 255  # characters of a correlation id

current: ContextVar[Cause | None] = ContextVar("eventspine_cause", default=None)
said: ContextVar[tuple[Cause | None, Who] | None] = ContextVar("eventspine_acting", default=None)


def who(cause: Cause | None) -> Who:
    """Who has it done, of what is published now because of `cause`."""
    found = _in_force(cause)
    return found() if callable(found) else found


def _in_force(cause: Cause | None) -> Who | Asked:
    """What `acting` said counts for what was being handled when it was said, and not in a handler run by a task that was
    begun inside it."""
    here = said.get()
    if here is not None and here[0] is current.get():
        return here[1]
    return NOBODY if cause is None else cause.who


@contextmanager
def correlate(correlation_id: str, traceparent: str | None = None) -> Iterator[Cause]:
    """Have everything published and logged inside belong to this correlation: a web request, a job, a script. Not in a handler:
    all that it publishes belongs to the correlation of what it handles."""
    handling = current.get()
    if handling is not None and getattr(handling, "_open", False):
        raise DeclarationError(
            f"{handling.handler} calls correlate() while it handles something whose correlation all belongs to that it publishes. Leave "
            "correlate() to what begins outside of handlers, and keep an id of your own in a field of the event."
        )
    with requested(correlation_id, traceparent) as cause:
        yield cause


@contextmanager
def requested(correlation_id: str, traceparent: str | None = None) -> Iterator[Cause]:
    """`correlate` of a web request, which is nobody's delivery, even if a handler has made it in this very process."""
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
    cause = Cause(correlation_id, traceparent=traceparent, who=_in_force(current.get()))
    with going_on(cause):
        yield cause


@contextmanager
def going_on(cause: Cause) -> Iterator[None]:
    """Have what is published and logged inside be because of this."""
    token = current.set(cause)
    try:
        yield
    finally:
        current.reset(token)
