"""The API as a user's checker sees it: both `mypy --strict` and pyright accept what is right here, and refuse the rest.

Each line that is wrong on purpose carries what the checkers say; an ignore that nothing needs is itself an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_type

from eventspine import (
    Batch,
    BatchDelivery,
    Dead,
    Delivery,
    Drop,
    Event,
    Receipt,
    Reject,
    Retry,
    RetryAfter,
    Service,
    Spine,
    sync,
)


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int = 0


class Cancelled(Event, context="orders", key="customer"):
    customer: str


class Paid(Event, context="payments", key="customer"):
    customer: str


class Mailed(Event, context="email", key="customer"):
    customer: str


class Clients:
    def send(self, to: str) -> None: ...


@asynccontextmanager
async def clients() -> AsyncGenerator[Clients, None]:
    yield Clients()


plain: Service[None] = Service("plain")
email = Service("email", publishes=("email",), lifespan=clients, errors={OSError: Retry(within=timedelta(hours=6))})
assert_type(email, Service[Clients])


# --- handlers ---------------------------------------------------------------------------------------------------------


@email.on(Placed)
async def one_type(event: Placed) -> None:
    assert_type(event.customer, str)


@email.on(Placed, Cancelled)
async def two_types(event: Placed | Cancelled, delivery: Delivery[Clients]) -> Mailed | None:
    assert_type(delivery.resources, Clients)
    assert_type(delivery.attempt, int)
    assert_type(delivery.idempotency_key, str)
    if delivery.late:
        raise RetryAfter(timedelta(seconds=5))
    if event.customer == "nobody":
        raise Reject("no such customer")
    delivery.execute("update t set n = n + 1 where id = :id", id=event.customer, expect_rows=1)
    rows = await delivery.query("select n from t where id = :id", id=event.customer)
    assert_type(delivery.publish(Mailed(customer=str(rows[0]["n"]))), list[Receipt])
    async with delivery.transaction() as tx:
        assert_type(await tx.execute("update t set n = 0"), int)
        await tx.query("select n from t")
    return Mailed(customer=event.customer)


@email.on(
    Placed, Cancelled, Paid, name="three", on_dead="waits", order="key", concurrency=4, timeout_s=10, replayable=True
)
async def three_types(event: Placed | Cancelled | Paid) -> list[Mailed]:
    return [Mailed(customer=event.customer)]


@email.on(
    Placed, retry=Retry(attempts=3), errors={ValueError: Dead, OSError: Drop, KeyError: Retry()}, start="earliest"
)
def in_a_thread(event: Placed, delivery: sync.Delivery[Clients]) -> tuple[Mailed, ...]:
    delivery.resources.send(event.customer)
    rows = delivery.query("select 1 as n")
    with delivery.transaction() as tx:
        assert_type(tx.execute("update t set n = 0"), int)
    return (Mailed(customer=str(rows)),)


@email.on(Placed)
def in_a_thread_without_a_delivery(event: Placed) -> None: ...


@email.on(Placed, Cancelled, batch=Batch(100, within_ms=20))
async def a_run(events: list[Placed | Cancelled], delivery: BatchDelivery[Clients]) -> None:
    for event in events:
        delivery.resources.send(event.customer)
        delivery.publish(Mailed(customer=event.customer), cause=event)
        delivery.retry(event, OSError())
        delivery.dead(event, "no such street")


@email.on(Placed, batch=Batch(100))
def a_run_in_a_thread(events: list[Placed], delivery: sync.BatchDelivery[Clients]) -> None:
    assert_type(delivery.query("select 1"), list[dict[str, Any]])
    assert_type(delivery.of(events[0]).attempt, int)


@email.on(Placed, batch=Batch(100))
async def a_plain_run(events: list[Placed]) -> None: ...


# A decorator gives back what it was given, so that a handler is a call away in a test.
async def call_it() -> None:
    assert_type(await one_type(Placed(customer="ann")), None)
    assert_type(in_a_thread_without_a_delivery(Placed(customer="ann")), None)


# --- what is wrong ------------------------------------------------------------------------------------------------------

if TYPE_CHECKING:

    @email.on(Placed)  # type: ignore[call-overload, arg-type, unused-ignore]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def wrong_event(event: Paid) -> None: ...

    @email.on(Placed, Cancelled)  # type: ignore[call-overload, arg-type, unused-ignore]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def one_of_two(event: Placed) -> None: ...

    @email.on(Placed, batch=Batch(10))  # type: ignore[call-overload, arg-type, unused-ignore]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def a_run_of_one(event: Placed) -> None: ...

    @email.on(Placed)  # type: ignore[call-overload, arg-type, unused-ignore]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def too_many(event: Placed, delivery: Delivery[Clients], more: int) -> None: ...

    @email.on(Placed)  # type: ignore[call-overload, arg-type, unused-ignore]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def other_resources(event: Placed, delivery: Delivery[str]) -> None: ...

    @email.on(Placed, on_dead="cries")  # type: ignore[call-overload, untyped-decorator]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def wrong_option(event: Placed) -> None: ...

    Placed(customer="ann", unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Placed("ann")  # type: ignore[misc, call-arg, unused-ignore]  # pyright: ignore[reportCallIssue]


# --- publishing and running ---------------------------------------------------------------------------------------------


async def publish() -> None:
    async with Spine("sqlite:///spine.db", service=plain) as spine:
        assert_type(spine, Spine)
        assert_type(await spine.publish(Placed(customer="ann")), Receipt)
        assert_type(await spine.publish(Placed(customer="ann"), after=timedelta(seconds=1)), Receipt)
        receipts = await spine.publish(Placed(customer="ann"), Paid(customer="ann"))
        assert_type(receipts, list[Receipt])
        assert_type(await spine.cancel(*receipts), int)
        async with spine.running(email, plain, roll_back=True, retire=["old"]) as running:
            running.stop()
            await running.wait()
            assert_type(running.drained, bool | None)


def publish_and_wait() -> None:
    with sync.Spine("sqlite:///spine.db", service=plain) as spine:
        assert_type(spine.publish(Placed(customer="ann")), Receipt)
        assert_type(spine.publish(Placed(customer="ann"), Paid(customer="ann")), list[Receipt])
        with spine.running(email):
            assert_type(spine.cancel(), int)


if TYPE_CHECKING:

    async def wrong_publishing(spine: Spine) -> None:
        with spine:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
            pass
        await spine.publish()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        await spine.publish(Placed(customer="ann"), soon=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        await spine.publish(Placed(customer="ann"), after=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def test_what_the_checkers_accept_runs() -> None:
    await call_it()
    assert set(email.handlers) >= {"one_type", "two_types", "three", "in_a_thread", "a_run"}
    assert email.handlers["three"].concurrency == 4
