"""What may be given to `Service(...)` and `on(...)`: refused where it is written, with a word on what to write instead.

Each check names the option and shows the value; `where` is the handler or service that it stands at. An option that
passes here can be relied on by the engine without another look."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from .annotations import check_returns_nothing, check_takes, positional
from .errors import DeclarationError
from .events.types import is_context
from .policies import Batch, Dead, Drop, Retry, is_number, is_whole
from .wording import plural

if TYPE_CHECKING:
    from .service import Handler, Service

SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,99}\Z")
HANDLER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}\Z")
CONCURRENCY = 64  # of a handler, where it says none
CLOSEST = {"earlier": "earliest", "beginning": "earliest", "latest": "now", "later": "now"}


# --- a service --------------------------------------------------------------------------------------------------------


def check_service(
    name: Any, publishes: Any, tables: Any, lifespan: Any, errors: Any, middleware: Any
) -> None:  # fmt: skip
    if not isinstance(name, str) or not SERVICE.match(name):
        raise DeclarationError(f"{name!r} can't name a service: use lower-case letters, digits, - and _, like 'mail'.")
    where = f"Service({name!r})"
    _check_contexts(publishes, where)
    if not (tables is None or isinstance(tables, str) or _is_function(tables)):
        raise DeclarationError(
            f"{where}: tables={tables!r} is neither the name of a file of SQL, such as tables='{name}.sql', nor a "
            f"function that is given the connection."
        )
    _check_lifespan(lifespan, where)
    check_errors(errors, where)
    _check_middleware(middleware, where)


def _check_contexts(publishes: Any, where: str) -> None:
    if publishes is None:
        return
    named = list(publishes) if isinstance(publishes, (list, tuple, set, frozenset)) else [publishes]
    for one in named:
        if isinstance(one, str) and not is_context(one):
            raise DeclarationError(
                f"{where}: publishes={one!r} can't be a context, which is lower-case words such as 'orders' or 'shop.orders'."
            )
        if not isinstance(one, str):
            context = getattr(getattr(one, "__spine_event__", None), "context", "orders")
            raise DeclarationError(
                f"{where}: publishes={one!r} is not the name of a context. It names contexts, not event classes: write "
                f"publishes={context!r}, or a list of such names."
            )
    if not isinstance(publishes, Sequence) and not isinstance(publishes, (set, frozenset)):
        raise DeclarationError(f"{where}: publishes={publishes!r} is neither a context's name nor a list of them.")


def _check_lifespan(lifespan: Any, where: str) -> None:
    if lifespan is None:
        return
    if inspect.isasyncgenfunction(lifespan):
        raise DeclarationError(f"{where}: put @asynccontextmanager above {_name(lifespan)}, the function of lifespan=.")
    if isinstance(lifespan, AbstractAsyncContextManager) or not callable(lifespan):
        raise DeclarationError(
            f"{where}: lifespan={lifespan!r} is not a function; give one with @asynccontextmanager above it, by its "
            f"name and not called: lifespan=resources."
        )


def _check_middleware(middleware: Any, where: str) -> None:
    if not isinstance(middleware, (list, tuple)):
        raise DeclarationError(f"{where}: middleware= takes a list: middleware=[{_made(middleware)}].")
    for one in middleware:
        if isinstance(one, type) or not (hasattr(one, "handle") and hasattr(one, "publish")):
            raise DeclarationError(
                f"{where}: middleware= lists objects of subclasses of Middleware, such as {_made(one)}, not {one!r}."
            )


def check_retention(service: str, retention: Any) -> None:
    where = f"Service({service!r})"
    if not isinstance(retention, (timedelta, Mapping, type(None))):
        raise DeclarationError(
            f"{where}: retention={retention!r} says no time. Write retention=timedelta(days=90), or one for each context: "
            "retention={'orders': timedelta(days=90)}. Without it, events are kept for ever."
        )
    for context, kept in retention.items() if isinstance(retention, Mapping) else [("", retention)]:
        if kept is not None and not (isinstance(kept, timedelta) and kept > timedelta(0)):
            of = f" of {context!r}" if context else ""
            raise DeclarationError(
                f"{where}: retention{of} is {kept!r}; give a timedelta above 0, such as timedelta(days=90)."
            )


def retention_of(
    service: str, retention: timedelta | Mapping[str, timedelta | None] | None, publishes: Sequence[str]
) -> dict[str, timedelta | None]:
    """By context, of those that it says something of; None: for ever."""
    if retention is None:
        return {}
    if isinstance(retention, timedelta):
        return dict.fromkeys(publishes, retention)
    if others := sorted(set(retention) - set(publishes)):
        raise DeclarationError(
            f"Service({service!r}): retention= names {', '.join(map(repr, others))}, which it does not publish. Say it at the "
            f"service that does; this one publishes {', '.join(map(repr, publishes)) or 'nothing'}."
        )
    return dict(retention)


def check_part(whole: Service[Any], part: Service[Any]) -> None:
    """That nothing of it is left behind: only what is declared at a service goes into another."""
    where = f"{whole.name}.include(...)"
    if left := _left_behind(whole, part):
        raise DeclarationError(
            f"{where}: the Service that it includes has {left} of its own, which would be left behind: only handlers and "
            f"decoders are taken over. Give {left} to Service({whole.name!r}, ...), or run the two beside each other."
        )


def _left_behind(whole: Service[Any], part: Service[Any]) -> str | None:
    if part.tables is not None and part.tables != whole.tables:
        return "tables="
    if part.lifespan is not None and part.lifespan is not whole.lifespan:
        return "lifespan="
    if not part.errors.items() <= whole.errors.items():
        return "errors="
    if any(one not in whole.middleware for one in part.middleware):
        return "middleware="
    if not part.retention.items() <= whole.retention.items():
        return "retention="
    if part.publishes != (part.name,) and not {*part.publishes} <= {*whole.publishes}:
        return "publishes="
    return None


def _made(middleware: Any) -> str:
    cls = middleware if isinstance(middleware, type) else type(middleware)
    return f"{cls.__name__ if hasattr(cls, 'handle') else 'Tracing'}()"


# --- a handler --------------------------------------------------------------------------------------------------------


def check_types(service: str, types: tuple[Any, ...], word: str = "on") -> None:
    """Before there is a function to name."""
    example = "OrderPlaced" if word == "on" else "OrdersByCustomer, OrderPlaced"
    if not types or (len(types) == 1 and _is_function(types[0])):
        raise DeclarationError(
            f"@{service}.{word} needs the event types to handle, in parentheses: @{service}.{word}({example})."
        )
    for one in types:
        if isinstance(one, (list, tuple)):
            raise DeclarationError(f"@{service}.{word}(...) takes several types side by side: on(Placed, Cancelled).")
        if not isinstance(one, type):
            kind = type(one)
            instead = f"the class: {kind.__name__}" if hasattr(kind, "__spine_event__") else "the classes of events"
            raise DeclarationError(f"@{service}.{word}({one!r}) is not an event type; give {instead}.")


def check_options(where: str, options: Mapping[str, Any], known: type[Any], more: Sequence[str] = ()) -> None:
    """`known`: the TypedDict that has them. `more`: what can be said beside these."""
    if unknown := set(options) - set(known.__annotations__):
        told = ", ".join((*known.__annotations__, *more))
        raise DeclarationError(f"{where}: no such option: {', '.join(sorted(unknown))}. Known: {told}.")


def check_handler_name(service: str, name: Any, function: Any, word: str = "on") -> str:
    """The handler's name, by default the function's."""
    if not callable(function):
        raise DeclarationError(f"@{service}.{word}(...) stands above a function, not above {function!r}.")
    chosen = name or getattr(function, "__name__", None)
    if chosen is None:
        raise DeclarationError(f"@{service}.{word}(...): {function!r} has no name; give name='...'.")
    if isinstance(chosen, str) and chosen.startswith(f"{service}."):
        raise DeclarationError(
            f"{chosen}: {chosen!r} can't name a handler: the service is added by itself. Write "
            f"name={chosen.removeprefix(service + '.')!r}."
        )
    if not isinstance(chosen, str) or not HANDLER.match(chosen):
        raise DeclarationError(
            f"{service}.{chosen}: {chosen!r} can't name a handler; give name='...' with letters, digits, _ and -."
        )
    return chosen


def check_handler(handler: Handler, service: str) -> None:
    where = f"{service}.{handler.name}"
    _check_function(handler.function, where)
    _check_renamed(handler.renamed_from, service, where)
    _check_numbers(handler, where)
    if handler.order not in ("key", "none", "feed"):
        raise DeclarationError(f"{where}: order={handler.order!r} must be 'key', 'none' or 'feed'.")
    if handler.on_dead not in ("goes_on", "waits"):
        raise DeclarationError(f"{where}: on_dead={handler.on_dead!r} must be 'goes_on' or 'waits'.")
    if (handler.order, handler.on_dead) == ("none", "waits"):
        raise DeclarationError(
            f"{where}: on_dead='waits' has a key wait for its dead, and with order='none' no event waits for another. Leave one "
            "of the two out."
        )
    if handler.order == "feed" and handler.projection is None and handler.concurrency not in (1, CONCURRENCY):
        raise DeclarationError(
            f"{where}: with order='feed' one event is handled at a time, so concurrency={handler.concurrency} has no effect. Leave one "
            "of the two out."
        )
    if not isinstance(handler.replayable, bool):
        raise DeclarationError(f"{where}: replayable={handler.replayable!r} must be True or False.")
    _check_start(handler.start, where)
    _check_retry(handler.retry, where)
    _check_batch(handler.batch, where)
    check_takes(handler, where)
    if handler.batch is not None:
        check_returns_nothing(handler.function, where)
    check_errors(handler.errors, where)


def _check_function(function: Callable[..., Any], where: str) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{where} has a yield in it; a handler returns its events, as one or as a list.")
    count = len(positional(function))
    if count not in (1, 2):
        raise DeclarationError(
            f"{where} takes {plural(count, 'argument')}; a handler takes the event, and the delivery if it likes."
        )


def _check_renamed(old: Any, service: str, where: str) -> None:
    if old is None or (isinstance(old, str) and HANDLER.match(old)):
        return
    instead = old.removeprefix(f"{service}.") if isinstance(old, str) else ""
    raise DeclarationError(
        f"{where}: renamed_from={old!r} is no handler's name; write the old one without its service, such as "
        f"renamed_from={instead if HANDLER.match(instead) else 'old_name'!r}."
    )


def _check_numbers(handler: Handler, where: str) -> None:
    count: Any = handler.concurrency
    seconds: Any = handler.timeout_s
    if not is_whole(count) or count < 1:
        raise DeclarationError(f"{where}: concurrency must be at least 1, a whole number, not {count!r}.")
    if not is_number(seconds) or seconds <= 0:
        if isinstance(seconds, timedelta):
            raise DeclarationError(f"{where}: timeout_s is in seconds: timeout_s={seconds.total_seconds():g}.")
        raise DeclarationError(
            f"{where}: timeout_s must be a number of seconds, and timeout_s above 0, not {seconds!r}. A handler that "
            f"needs long gets a long one, such as timeout_s=3600."
        )


def _check_start(start: Any, where: str) -> None:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise DeclarationError(f"{where}: start= has no time zone; pass an aware datetime.")
    elif start not in (None, "earliest", "now"):
        meant = CLOSEST.get(start, "") if isinstance(start, str) else ""
        hint = f" Perhaps start={meant!r}?" if meant else ""
        raise DeclarationError(
            f"{where}: start={start!r} is neither 'earliest', nor 'now', nor an aware datetime.{hint}"
        )


def _check_retry(retry: Any, where: str) -> None:
    if isinstance(retry, Retry):
        return
    if retry is Dead or retry is Drop:
        instead = f"errors={{Exception: {retry.__name__}}}, or retry=Retry(attempts=1) to try once"
    elif is_whole(retry) and retry >= 1:
        instead = f"retry=Retry(attempts={retry})"
    elif isinstance(retry, timedelta):
        instead = "retry=Retry(within=timedelta(...))"
    else:
        instead = "retry=Retry(attempts=3), or Retry(attempts=1) to try once"
    raise DeclarationError(f"{where}: retry={retry!r} is not a Retry(...). Write {instead}.")


def _check_batch(batch: Any, where: str) -> None:
    if batch is not None and not isinstance(batch, Batch):
        size = batch if is_whole(batch) and batch >= 1 else 100
        raise DeclarationError(f"{where}: batch={batch!r} is not a Batch(...). Write batch=Batch({size}).")


def check_errors(errors: Any, where: str) -> None:
    if errors is None:
        return
    if not isinstance(errors, Mapping):
        raise DeclarationError(
            f"{where}: errors={errors!r} is not a dict; it maps exception classes: errors={{SmtpDown: Dead}}."
        )
    for error, policy in errors.items():
        if not (isinstance(error, type) and issubclass(error, BaseException)):
            raise DeclarationError(
                f"{where}: errors= maps exception classes to Retry(...), Dead or Drop, not {error!r}."
            )
        if not (isinstance(policy, Retry) or policy is Dead or policy is Drop):
            raise DeclarationError(
                f"{where}: errors= maps {error.__name__} to {policy!r}; use Retry(...), Dead or Drop."
                + (" Write Retry(), with its parentheses." if policy is Retry else "")
                + (" Write it without parentheses." if isinstance(policy, (Dead, Drop)) else "")
            )


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or repr(function)
