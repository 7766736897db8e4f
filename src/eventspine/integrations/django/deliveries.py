"""Handlers whose rows, events and "this is handled" are one commit of Django's.

    thread of the handler   close old connections ── turn ── BEGIN, lock ── handler ── join ── COMMIT ── turn back

Turn and lock are SQLite's (sqlite.py), where one such handler writes at a time; on PostgreSQL there are none, and they write
side by side. A killed process has committed all of it, or nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, NoReturn, ParamSpec, TypeVar

from django.db import close_old_connections, transaction

from ...delivery import Delivery, publish_returned
from ...errors import DeclarationError, WouldDeadlock
from ...observe.correlation import current
from ...runs import BatchDelivery
from ...service import Handler, Service
from .journals import journal_of, wrapper as journal_wrapper

P = ParamSpec("P")
T = TypeVar("T")
MARK = "__eventspine_atomic__"  # on a decorated handler: the system checks look for it


def atomic_delivery(handler: Callable[P, T]) -> Callable[P, T]:
    """For a `def` handler that uses the ORM: what it writes, what it publishes or returns, and that the event is handled,
    become durable together or not at all. It stands between `on` and the function:

        @shop.on(OrderPlaced)
        @atomic_delivery
        def reserve(event: OrderPlaced) -> StockReserved: ...

    Called by hand, in a test, the function runs in `transaction.atomic()` and gives back what it returns."""
    if iscoroutinefunction(handler):
        name = getattr(handler, "__qualname__", handler)
        raise DeclarationError(
            f"{name} is `async def`, and Django has no transactions there. Make it `def`: it runs in a thread of its own."
        )

    @wraps(handler)
    def handle(*args: P.args, **kwargs: P.kwargs) -> T:
        wrapper, delivery = journal_wrapper(), _to_join()
        if delivery is None or wrapper.in_atomic_block:  # by hand, by another handler, or by a test
            with transaction.atomic(using=wrapper.alias):
                return handler(*args, **kwargs)
        with fresh_connections():
            done: T = _joined(wrapper, delivery, lambda: handler(*args, **kwargs))
            return done

    setattr(handle, MARK, True)
    return handle


def _to_join() -> Delivery[Any] | None:
    """What is being handled, unless the function is called by hand."""
    cause = current.get()
    if isinstance(cause, BatchDelivery) and cause._open:
        raise DeclarationError(
            f"{cause.handler} handles a run of events as one unit, which no transaction of Django's can carry. Leave out "
            f"batch=, or leave out @atomic_delivery and use delivery.execute(...)."
        )
    return cause if isinstance(cause, Delivery) and cause._open else None


def _joined(wrapper: Any, delivery: Delivery[Any], call: Callable[[], Any]) -> Any:
    journal = journal_of(wrapper)
    delivery.transaction = _no_second  # type: ignore[method-assign]  # of this one delivery
    with journal.turn(delivery), transaction.atomic(using=wrapper.alias):
        journal.lock(wrapper)
        result = call()
        if result is not None:
            publish_returned(delivery, result)
        wrapper.validate_no_broken_transaction()  # else Django would roll back without a word
        delivery.join(wrapper)
        journal.ring_after_commit(wrapper)


def prepared(service: Service[Any]) -> Service[Any]:
    """A copy whose handlers in threads leave no connection behind; the service itself stays as it was declared."""
    made = copy.copy(service)
    made.handlers = {name: _prepared(handler) for name, handler in service.handlers.items()}
    return made


def _prepared(handler: Handler) -> Handler:
    return handler if handler.is_async else replace(handler, function=_with_fresh_connections(handler.function))


def _with_fresh_connections(function: Callable[..., T]) -> Callable[..., T]:
    @wraps(function)
    def call(*arguments: Any) -> T:
        with fresh_connections():
            return function(*arguments)

    return call


@contextmanager
def fresh_connections() -> Iterator[None]:
    """What a request does for its thread: connections that are too old, or broken, are closed before and after."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


def _no_second() -> NoReturn:
    raise WouldDeadlock(
        "This handler is in Django's transaction, which sees its own writes. delivery.transaction() would be another: it would "
        "wait for the end of this one, or commit apart from it."
    )
