"""Periodic handlers as a user's checker sees them.

Each line that is wrong on purpose carries what the checkers say; an ignore that nothing needs is itself an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_type

from eventspine import Delivery, Event, Retry, Service, sync


class Expired(Event, context="shop", key=None):
    baskets: int


class Clients:
    def send(self, to: str) -> None: ...


@asynccontextmanager
async def clients() -> AsyncGenerator[Clients, None]:
    yield Clients()


shop = Service("shop")
email = Service("email", lifespan=clients)


@shop.every(minutes=5)
async def expire(delivery: Delivery) -> Expired | None:
    assert_type(delivery.time, datetime)
    return Expired(baskets=1) if delivery.attempt == 1 else None


@shop.every(timedelta(hours=1), missed="all", retry=Retry(attempts=3), timeout_s=600)
async def nothing() -> None: ...


@shop.cron("0 3 * * *", zone="Europe/Berlin", missed="skip", name="report", renamed_from="nightly")
def report(delivery: sync.Delivery) -> list[Expired]:
    assert_type(delivery.time, datetime)
    return []


@email.every(seconds=30)
async def poll(delivery: Delivery[Clients]) -> None:
    assert_type(delivery.resources, Clients)


assert_type(report, Callable[[sync.Delivery[None]], list[Expired]])

if TYPE_CHECKING:
    shop.every(minutes="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.every(minutes=5, missed="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.every(minutes=5, concurrency=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shop.cron(zone="Europe/Berlin")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shop.cron("0 3 * * *", "UTC")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    @shop.every(minutes=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType,reportCallIssue]
    async def takes_an_event(event: Expired) -> None: ...

    @shop.every(minutes=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType,reportCallIssue]
    async def wants_resources_that_are_not_there(delivery: Delivery[Clients]) -> None: ...


async def test_decorators_give_the_function_back() -> None:
    assert_type(await nothing(), None)
    assert report.__name__ == "report"
