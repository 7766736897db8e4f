"""The kit as a user's checker sees it: both `mypy --strict` and pyright accept what is right here, and refuse the rest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_type

from eventspine import Delivery, Event, Receipt, Service, Spine, sync, testing
from eventspine.envelope import Envelope
from eventspine.testing import Executed, HandDelivery, Kept, SyncHandDelivery, SyncVirtualSpine, VirtualSpine


class Placed(Event, context="orders", key="customer"):
    customer: str


class Mailed(Event, context="email", key="customer"):
    customer: str


class Clients:
    def send(self, to: str) -> None: ...


class Fake(Clients):
    """A subclass, or anything else that fits where the service's own fits."""


@asynccontextmanager
async def clients() -> AsyncGenerator[Clients, None]:
    yield Clients()


email = Service("email", lifespan=clients)


@email.on(Placed)
async def confirm(event: Placed, delivery: Delivery[Clients]) -> Mailed:
    delivery.resources.send(event.customer)
    return Mailed(customer=event.customer)


@email.on(Placed)
def in_a_thread(event: Placed, delivery: sync.Delivery[Clients]) -> None:
    delivery.resources.send(event.customer)


async def use() -> None:
    made = testing.spine(email, resources={email: Fake()}, seed=7, failures="retry", start=datetime.now(UTC))
    async with made as spine:
        assert_type(spine, VirtualSpine)
        assert_type(await spine.publish(Placed(customer="ann")), Receipt)
        await spine.idle()
        await spine.advance(days=1, hours=1, minutes=1, seconds=1.5)
        assert_type(spine.published(Mailed), list[Mailed])
        assert_type(spine.published(Mailed, Placed), list[Mailed | Placed])
        assert_type(spine.envelopes(Mailed), list[Envelope])
        assert_type(spine.parked(confirm), list[Kept])
        assert_type(spine.dead("email.confirm"), list[Kept])
        assert_type(spine.query("select 1"), list[dict[str, Any]])
        assert_type(spine.now, datetime)
        assert_type(await spine.replay(), int)
        spine.fail_next(confirm, OSError("no route"), times=2)
        spine.fail_next("confirm", OSError)
        spine.deliver_twice(confirm)
        plain: Spine = spine
        assert_type(plain.health(), dict[str, Any])


def use_and_wait() -> None:
    with testing.sync_spine(email, resources={email: Fake()}) as spine:
        assert_type(spine, SyncVirtualSpine)
        assert_type(spine.publish(Placed(customer="ann")), Receipt)
        spine.idle()
        spine.advance(hours=1)
        assert_type(spine.published(Mailed), list[Mailed])


async def call() -> None:
    event = Placed(customer="ann")
    assert_type(await confirm(event, testing.delivery(event, resources=Fake())), Mailed)
    delivery: HandDelivery[Clients] = testing.delivery(event, attempt=2, resources=Fake(), rows=[{"n": 1}])
    await confirm(event, delivery)
    assert_type(delivery.executed, list[Executed])
    in_a_thread(event, testing.sync_delivery(event, resources=Fake()))
    blocking: SyncHandDelivery[Clients] = testing.sync_delivery(event, resources=Fake())
    in_a_thread(event, blocking)
    assert_type(testing.delivery(event), HandDelivery[None])


async def with_fixtures(
    spine_for: Callable[..., VirtualSpine], sync_spine_for: Callable[..., SyncVirtualSpine]
) -> None:
    async with spine_for(email) as spine:
        assert_type(spine.published(Mailed), list[Mailed])


if TYPE_CHECKING:

    async def wrong(spine: VirtualSpine) -> None:
        testing.spine(email, failures="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        testing.spine([email])  # type: ignore[arg-type, list-item, unused-ignore]  # pyright: ignore[reportArgumentType]
        await spine.advance(1)  # type: ignore[call-arg, misc, unused-ignore]  # pyright: ignore[reportCallIssue]
        spine.published()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def test_what_the_checkers_accept_runs() -> None:
    await call()
