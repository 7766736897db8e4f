"""One attempt: decode, call the handler as it was written (`async def` or `def`), take what it returned.

A cancelled attempt settles nothing. One that ran out of time has failed; if it runs in a thread, which nobody can
stop, its key stays taken until it has really returned (R17)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..delivery import Delivery, as_events
from ..errors import SpineError, UnitFailed
from ..journal.port import Unit
from ..observe.correlation import current
from .lanes import Item

if TYPE_CHECKING:
    from .subscription import Subscription

Call = Callable[[Item], Awaitable[None]]


class HandlerTimeout(SpineError):
    """The handler did not return within its `timeout_s`."""


def caller(subscription: Subscription) -> Call:
    """The fastest way to call this handler that has everything it declared."""
    return partial(_attempt, subscription, invoker(subscription))


def invoker(subscription: Subscription) -> Callable[..., Awaitable[Any]]:
    """The handler as `await invoke(event or events, delivery)`, inside its middleware."""
    handler = subscription.handler
    function, wants = handler.function, handler.wants_delivery
    invoke: Callable[..., Awaitable[Any]]
    if not handler.is_async:
        invoke = partial(_in_thread, subscription)
    elif wants:
        invoke = function
    else:
        invoke = partial(_event_only, function)
    for middleware in reversed(subscription.host.middleware):
        invoke = partial(_around, middleware, invoke)
    return invoke


async def _event_only(function: Callable[[Any], Awaitable[Any]], event: Any, _: Delivery[Any]) -> Any:
    return await function(event)


async def _around(middleware: Any, invoke: Callable[..., Awaitable[Any]], event: Any, delivery: Delivery[Any]) -> Any:
    return await middleware.handle(event, delivery, partial(invoke, event, delivery))


async def _in_thread(subscription: Subscription, event: Any, delivery: Any) -> Any:
    from ..sync import in_thread

    loop = asyncio.get_running_loop()
    function = subscription.handler.function
    arguments = (event, in_thread(delivery, loop)) if subscription.handler.wants_delivery else (event,)
    context = contextvars.copy_context()
    return await loop.run_in_executor(subscription.host.threads, partial(context.run, function, *arguments))


async def _attempt(subscription: Subscription, invoke: Callable[..., Awaitable[Any]], item: Item) -> None:
    record = item.record
    assert record is not None
    delivery: Delivery[Any] = Delivery(subscription, item, record)
    current.set(delivery)  # not reset: the next attempt of this worker sets it anew
    item.timed_out = False
    item.started = subscription.clock.monotonic()
    try:
        event = subscription.decode(record)
        result = await invoke(event, delivery)
        if item.timed_out:
            raise _too_slow(subscription)
        if result is not None:
            delivery.publish(*as_events(result))
    except asyncio.CancelledError:
        await delivery._abandon()
        if not item.timed_out:
            raise
        _uncancel()
        subscription.waiting.failed(item, _too_slow(subscription))
    except Exception as error:
        await delivery._abandon()
        subscription.waiting.failed(item, _too_slow(subscription) if item.timed_out else error)
    else:
        if delivery._unit is None and item.plain:
            delivery._open = False
            subscription.committer.finish(subscription, item)
        else:
            await close(subscription, item, delivery)
    finally:
        item.started = 0.0


async def close(subscription: Subscription, item: Item, delivery: Delivery[Any]) -> None:
    """The handler has returned: its unit commits with the next group, or as it asked."""
    unit = delivery._close()
    if delivery._joined is not None:
        await _joined(subscription, item)
    elif delivery._transaction is not None:
        unit = unit or Unit()
        subscription.complete(item, unit)
        subscription.verdict(item, await delivery._transaction.commit(unit))
    else:
        subscription.succeeded(item, unit)


async def _joined(subscription: Subscription, item: Item) -> None:
    """The caller's transaction carries the unit: has it committed?"""
    if await subscription.is_finished(item):
        subscription.settled(item)
        return
    subscription.waiting.failed(
        item,
        UnitFailed(
            "The handler returned, but the connection it joined has not committed. Commit it before returning, for "
            "example by leaving its `with` block."
        ),
    )


def expire(item: Item, delivery_of: asyncio.Task[Any], *, threaded: bool) -> None:
    """Out of time: an `async def` is cancelled, a thread is waited for; both have failed."""
    item.timed_out = True
    if not threaded:
        delivery_of.cancel()


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _too_slow(subscription: Subscription) -> HandlerTimeout:
    seconds = subscription.handler.timeout_s
    return HandlerTimeout(
        f"{subscription.name} did not return within {seconds:g} s. Raise its timeout_s=, or make it give up earlier."
    )
