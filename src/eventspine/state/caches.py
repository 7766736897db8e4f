"""Cache invalidation by events, as a ready handler.

    @reports.projection(OrdersByCustomer, OrderPlaced) ...
    reports.on(OrderPlaced, name="forget", replayable=True)(
        invalidating(cache, lambda event: f"orders:{event.customer_id}", after=OrdersByCustomer))

It is promised that a key is deleted at least once after the event was committed, and, with `after`, after that view has what
the event made of it: else a reader that fills the cache in between would fill it with the old row, for good. A cache that is
away fails the attempt, which is tried again like any; deleting twice harms nobody. What is not promised: whoever has read
the old row before, and writes it into the cache after, still does. Give entries a time to live, which bounds that."""

from __future__ import annotations

import inspect
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from ..delivery import Delivery
from ..errors import DeclarationError
from .views import ViewType, describe_view
from .waiting import wait


class Deletes(Protocol):
    """As the clients of Redis, Valkey and memcached have it; with `async` or without."""

    def delete(self, *keys: Any) -> Any: ...


Cache = MutableMapping[Any, Any] | Deletes | Callable[..., Any]
Keys = Callable[[Any], Iterable[Any] | str | None]


def invalidating(
    cache: Cache, keys: Keys, *, after: type[Any] | None = None, timeout_s: float = 10.0
) -> Callable[[Any, Delivery[Any]], Awaitable[None]]:
    """A handler that deletes from the cache what an event has made old.

    `cache`: a dict, a client with `delete(*keys)`, or a function that is called with the keys. `keys`: of an event, those to
    delete: one text, several, or None. `after`: the view that the cache is filled from, which is waited for, for
    `timeout_s`."""
    delete = _deleting(cache)
    view: ViewType | None = None if after is None else describe_view(after)

    async def invalidate(event: Any, delivery: Delivery[Any]) -> None:
        wanted = keys(event)
        names = [] if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
        if not names:
            return
        if view is not None:
            await wait(delivery._subscription.journal, view, [delivery.event_id], timeout_s)
        await delete(names)

    return invalidate


def _deleting(cache: Any) -> Callable[[list[Any]], Awaitable[None]]:
    if isinstance(cache, MutableMapping):

        async def forget(names: list[Any]) -> None:
            for name in names:
                cache.pop(name, None)

        return forget
    call = cache if callable(cache) and not hasattr(cache, "delete") else getattr(cache, "delete", None)
    if not callable(call):
        raise DeclarationError(
            f"invalidating({type(cache).__name__}): a cache is a dict, a client with delete(*keys), or a function of the keys."
        )

    async def ask(names: list[Any]) -> None:
        # In a thread, since a client that blocks would hold up everybody; one that doesn't gives back what to await.
        answer = call(*names) if inspect.iscoroutinefunction(call) else await to_thread(call, *names)
        if inspect.isawaitable(answer):
            await answer

    return ask
