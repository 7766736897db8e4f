"""A cache forgets what an event has made old: after the commit, at least once, and after the view that it is filled from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventspine import Retry, Service, Spine, invalidating, testing
from eventspine.errors import DeclarationError
from eventspine.journal.port import Journal

from .material import OrderPlaced, OrdersByCustomer, counting, publisher, until


def key(event: OrderPlaced) -> str:
    return f"orders:{event.customer_id}"


class Client:
    """`delete` as Redis's clients have it, blocking."""

    def __init__(self, away: int = 0) -> None:
        self.deleted: list[str] = []
        self.away = away
        self.threads: set[bool] = set()

    def delete(self, *keys: str) -> int:
        self.threads.add(_on_a_loop())
        if self.away:
            self.away -= 1
            raise ConnectionError("the cache is away")
        self.deleted += keys
        return len(keys)


class AsyncClient(Client):
    """As redis.asyncio has it: a plain `def` that gives back what is to be awaited."""

    def delete(self, *keys: str) -> Any:  # type: ignore[override]
        async def answer() -> int:
            await asyncio.sleep(0)
            self.deleted += keys
            return len(keys)

        return answer()


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def forgetting(cache: Any, keys: Any = key, **options: Any) -> Service[Any]:
    service: Service[Any] = Service("forgetful")
    service.on(OrderPlaced, name="forget", replayable=True, retry=Retry(first_s=0.01, factor=1.5, attempts=40))(
        invalidating(cache, keys, **options)
    )
    return service


async def test_a_dict_forgets_the_key_and_keeps_the_others() -> None:
    cache = {"orders:ann": 1, "orders:bob": 2}
    async with testing.spine(forgetting(cache)) as spine:
        await spine.publish(OrderPlaced(customer_id="ann"), OrderPlaced(customer_id="nobody"))
        await spine.idle()
    assert cache == {"orders:bob": 2}


@pytest.mark.parametrize("client", [Client, AsyncClient])
async def test_a_client_deletes_and_the_event_loop_is_not_held_up(client: type[Client]) -> None:
    cache = client()
    async with testing.spine(forgetting(cache, lambda event: [key(event), "all"])) as spine:
        await spine.publish(OrderPlaced())
        await spine.idle()
    assert cache.deleted == ["orders:ann", "all"]
    assert True not in cache.threads


async def test_a_function_is_called_with_the_keys_and_an_event_without_any_costs_nothing() -> None:
    asked: list[Any] = []

    async def forget(*keys: str) -> None:
        asked.append(keys)

    async with testing.spine(forgetting(forget, lambda event: key(event) if event.order_id else None)) as spine:
        await spine.publish(OrderPlaced(), OrderPlaced(order_id=7))
        await spine.idle()
    assert asked == [("orders:ann",)]


async def test_a_cache_that_is_away_is_asked_again_until_it_answers(journal: Callable[[], Journal]) -> None:
    cache = Client(away=3)
    async with Spine(journal(), service=publisher()) as spine, spine.running(forgetting(cache)):
        await spine.publish(OrderPlaced())
        await until(lambda: cache.deleted)
    assert (cache.deleted, cache.away) == (["orders:ann"], 0)


async def test_nothing_is_forgotten_for_an_event_that_was_never_committed(journal: Callable[[], Journal]) -> None:
    cache = Client()
    failing: Service[Any] = Service("failing", publishes="orders")

    async with Spine(journal(), service=failing) as spine, spine.running(forgetting(cache)):
        with pytest.raises(Exception, match="CustomerId|customer_id|expected"):
            await spine.publish(OrderPlaced(customer_id="ann"), OrderPlaced(customer_id=7))  # type: ignore[arg-type]
        await spine.publish(OrderPlaced(customer_id="bob"))
        await until(lambda: cache.deleted)
    assert cache.deleted == ["orders:bob"]


async def test_a_reader_that_fills_the_cache_again_finds_the_new_row(database: Callable[[], Journal]) -> None:
    """The view stands still for a while: without `after` the key would be deleted before, and the old row put back."""
    cache: dict[str, int] = {}
    slow = Service[Any]("reports")

    @slow.projection(OrdersByCustomer, OrderPlaced)
    def count(view: Any, event: OrderPlaced) -> None:
        time.sleep(0.3)
        view.row(event.customer_id).orders += 1

    async with Spine(database(), service=publisher()) as spine:
        with_view = forgetting(cache, after=OrdersByCustomer, timeout_s=20.0)
        async with spine.running(slow), spine.running(with_view):
            cache["orders:ann"] = 0
            await spine.publish(OrderPlaced())
            await until(lambda: "orders:ann" not in cache)
            row = await spine.view(OrdersByCustomer).get("ann")
            assert row is not None
            assert row.orders == 1


async def test_a_view_that_does_not_come_to_it_fails_the_attempt_and_no_key_is_deleted(
    journal: Callable[[], Journal],
) -> None:
    cache = {"orders:ann": 1}
    service = forgetting(cache, after=OrdersByCustomer, timeout_s=0.05)
    async with Spine(journal(), service=publisher()) as spine:
        async with spine.running(service):
            await spine.publish(OrderPlaced())
            await until(lambda: spine.journal.deliveries(states=["parked", "dead"]))
            assert cache == {"orders:ann": 1}
            async with spine.running(counting()):
                await until(lambda: not cache)


@pytest.mark.parametrize("cache", [7, object(), "redis://localhost"])
def test_what_is_no_cache_is_refused_where_it_is_declared(cache: Any) -> None:
    with pytest.raises(DeclarationError, match=r"a cache is a dict, a client with delete\(\*keys\), or a function"):
        invalidating(cache, key)
