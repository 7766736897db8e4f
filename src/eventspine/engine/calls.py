"""One attempt: decode, call the handler as it was written (`async def` or `def`), take what it returned.

A cancelled attempt settles nothing. One that ran out of time has failed; if it runs in a thread, which nobody can
stop, its key stays taken until it has really returned (R17)."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..delivery import Delivery, publish_returned
from ..errors import HandlerTimeout, Reject, UnitFailed
from ..journal.port import Transaction, Unit, Verdict
from ..observe.correlation import current
from .failures import text_of
from .lanes import Item

if TYPE_CHECKING:
    from .subscription import Subscription

_UNAWAITED = (
    "The handler called join() with an asynchronous session or connection and did not await it, so what it committed there "
    "did not finish this delivery. Write `await delivery.join(session)`; then look what the handler has done, and replay or drop."
)


def caller(subscription: Subscription) -> tuple[Callable[..., Awaitable[Any]], bool]:
    """The fastest way to call this handler that has everything it declared, and whether that takes the delivery too."""
    handler = subscription.handler
    if handler.is_async and not handler.wants_delivery and not subscription.host.middleware:
        return handler.function, False
    return invoker(subscription), True


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
        invoke = partial(_without_delivery, function)
    if subscription.host.middleware and handler.batch is None:
        invoke = partial(_then_publish, invoke)
    for middleware in reversed(subscription.host.middleware):
        invoke = partial(_around, middleware, invoke)
    return invoke


async def _without_delivery(function: Callable[[Any], Awaitable[Any]], event: Any, _: object) -> Any:
    return await function(event)


async def _then_publish(invoke: Callable[..., Awaitable[Any]], event: Any, delivery: Delivery[Any]) -> None:
    """What the handler returns is published inside the middleware, so that it belongs to the same span."""
    result = await invoke(event, delivery)
    if result is not None:
        publish_returned(delivery, result)


async def _around(middleware: Any, invoke: Callable[..., Awaitable[Any]], event: Any, delivery: Delivery[Any]) -> Any:
    return await middleware.handle(event, delivery, partial(invoke, event, delivery))


async def _in_thread(subscription: Subscription, event: Any, delivery: Any) -> Any:
    from ..sync.delivery import in_thread

    loop = asyncio.get_running_loop()
    function = subscription.handler.function
    arguments = (event, in_thread(delivery, loop)) if subscription.handler.wants_delivery else (event,)
    context = contextvars.copy_context()
    return await subscription.host.runtime.in_thread(partial(returning, context, function, *arguments))


def returning(context: contextvars.Context, function: Callable[..., Any], *arguments: Any) -> Any:
    """Some errors can't cross from a thread to an event loop: they would never arrive, or end the loop or the task."""
    try:
        return context.run(function, *arguments)
    except (StopIteration, KeyboardInterrupt, GeneratorExit) as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error


async def attempt(subscription: Subscription, item: Item) -> None:
    record = item.record
    assert record is not None
    delivery: Delivery[Any] = Delivery(subscription, item, record)
    current.set(delivery)
    item.timed_out = False
    item.started = subscription.clock.monotonic()
    invoke, with_delivery = subscription.invoke, subscription.with_delivery
    try:
        event = subscription.decode(record)
        returned(subscription, item, delivery, await (invoke(event, delivery) if with_delivery else invoke(event)))
    except BaseException as error:
        await raised(subscription, item, delivery, error)
    else:
        await close(subscription, item, delivery)


def returned(subscription: Subscription, item: Item, delivery: Delivery[Any], result: object) -> None:
    if item.timed_out:
        raise _too_slow(subscription)
    if result is not None:
        publish_returned(delivery, result)
    if delivery._aggregates:
        delivery._refuse_unsaved()


async def raised(subscription: Subscription, item: Item, delivery: Delivery[Any], error: BaseException) -> None:
    """The attempt has failed, unless it was ended from outside; sys.exit() deep in a library fails it too, and not the
    process."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    if isinstance(error, asyncio.CancelledError) and cancelled_from_outside(subscription, item):
        await delivery._abandon()
        raise error
    await _failed(subscription, item, delivery, error)


def in_time(subscription: Subscription, item: Item, error: BaseException) -> BaseException:
    """The error of a failed attempt, or that it was too slow."""
    if not item.timed_out:
        return error
    _uncancel()
    return _too_slow(subscription)


async def _failed(subscription: Subscription, item: Item, delivery: Delivery[Any], error: BaseException) -> None:
    item.started = 0.0
    error = in_time(subscription, item, error)
    await delivery._abandon()
    trace = None
    if item.turn:
        trace = _let_go(error)
        if not await follows(subscription, item):
            return
    if not delivery._joined or not await subscription.is_finished(item):
        subscription.waiting.failed(item, error, trace)
    elif delivery._rolled_back:
        subscription.finished_by_another(item)
    else:
        subscription.waiting.too_late(item, error)
        subscription.settled(item)


def _let_go(error: BaseException) -> str:
    """Its trace as text. The frames of a failed attempt must not keep a connection that its handler has left to the garbage collector:
    what it is about to wait for may be the commit that waits for that connection's lock. They are not cleared, for among them are
    those of whoever has caught the error on its way and goes on, such as a task that answers many."""
    trace = text_of(error)[1]
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            errors += (one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ()))
    return trace


async def close(subscription: Subscription, item: Item, delivery: Delivery[Any]) -> None:
    """The handler has returned: its unit commits with the next group, or as it asked."""
    item.started = 0.0  # its time is over; waiting for the commit is not its own
    unit = delivery._close()
    if item.turn and not await follows(subscription, item):
        await delivery._abandon()
        return
    if delivery._joined:
        await _joined(subscription, item, delivery._unawaited)
    elif delivery._transaction is not None:
        await _transacted(subscription, item, delivery._transaction, unit or Unit())
    else:
        subscription.succeeded(item, unit)


async def follows(subscription: Subscription, item: Item) -> bool:
    """Whether those before it in its key, handled when it began, are stored by now. If they were refused, they are handled
    again first, and this one after them: whatever became of it is dropped."""
    await subscription.committer.through(item.turn)
    if item.lane.turn == item.turn:
        item.turn = 0
        return True
    subscription.comes_again(item)
    return False


async def _transacted(subscription: Subscription, item: Item, transaction: Transaction, unit: Unit) -> None:
    subscription.complete(item, unit)
    try:
        verdict = await transaction.commit(unit)
    except UnitFailed as error:  # it had been rolled back before, for having taken too long
        verdict = Verdict("failed", error=error)
    if verdict.kind == "unknown" and await subscription.is_finished(item):
        subscription.settled(item)
    else:
        subscription.verdict(item, verdict)


async def _joined(subscription: Subscription, item: Item, unawaited: bool) -> None:
    """The caller's transaction carries the unit: has it committed?"""
    if await subscription.is_finished(item):
        subscription.settled(item)
        return
    if unawaited:
        subscription.waiting.failed(item, Reject(_UNAWAITED))  # once: whatever it committed, it would commit again
        return
    subscription.waiting.failed(
        item,
        UnitFailed(
            "The handler returned, but the transaction it joined has not committed. Commit it before returning, for "
            "example by leaving its `with` block. If it did commit: join() was called in a savepoint that was rolled back, and went "
            "with it (begin_nested(), an atomic() inside another); join in the outermost transaction."
        ),
    )


def expire(item: Item, delivery_of: asyncio.Task[Any], *, threaded: bool) -> None:
    """Out of time: an `async def` is cancelled, a thread is waited for; both have failed."""
    item.timed_out = True
    if not threaded:
        delivery_of.cancel()


def cancelled_from_outside(subscription: Subscription, item: Item) -> bool:
    """Not so when a handler awaited something that had been cancelled: that is an error of its own."""
    task = asyncio.current_task()
    by_us = item.timed_out and subscription.handler.is_async
    return task is not None and task.cancelling() > by_us


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _too_slow(subscription: Subscription) -> HandlerTimeout:
    seconds = subscription.handler.timeout_s
    return HandlerTimeout(
        f"{subscription.name} did not return within {seconds:g} s. Raise its timeout_s=, or make it give up earlier."
    )
