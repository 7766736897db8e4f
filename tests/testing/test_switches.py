"""The switches: the next delivery fails, every delivery comes twice."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import Any

import pytest

from eventspine import Batch, Delivery, Retry, Service, testing
from eventspine.errors import SettingsError
from eventspine.sync import Delivery as SyncDelivery

from .shop import (
    Mailed,
    Mailer,
    OrderPlaced,
    SmtpDown,
    StockReserved,
    inventory_tables,
    make_email,
    make_inventory,
    make_plain_inventory,
)

MINUTE = Retry(attempts=5, immediate=0, first_s=60.0, factor=1.0, most_s=60.0)


@pytest.mark.parametrize("handler", ["confirm", "email.confirm", "function"])
async def test_the_next_delivery_fails_and_is_tried_again(handler: str) -> None:
    email, mailer = make_email(retry=MINUTE), Mailer()
    async with testing.spine(email, resources={email: mailer}) as spine:
        spine.fail_next(email.handlers["confirm"].function if handler == "function" else handler, SmtpDown("no route"))
        await spine.publish(StockReserved(order_id="A"))
        await spine.idle()  # what the test asked for is nobody's failure
        assert mailer.sent == []
        (parked,) = spine.parked("email.confirm")
        assert (parked.error, parked.attempts) == ("SmtpDown: no route", 1)
        assert parked.due is not None
        assert timedelta(0) < parked.due - spine.now <= timedelta(minutes=1)
        await spine.advance(minutes=1)
        assert mailer.sent == ["A"]
        assert spine.parked() == []


async def test_several_attempts_fail_in_a_row_and_only_of_that_handler() -> None:
    email, mailer = make_email(retry=MINUTE), Mailer()
    async with testing.spine(make_inventory(), email, resources={email: mailer}) as spine:
        spine.fail_next("confirm", SmtpDown, times=2)
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        assert len(spine.published(StockReserved)) == 1
        await spine.advance(minutes=5)
        assert mailer.sent == ["A"]


async def test_def_handlers_and_runs_fail_too() -> None:
    service: Service[Any] = Service("watch")
    handled: list[str] = []

    @service.on(OrderPlaced, retry=MINUTE)
    def in_a_thread(event: OrderPlaced, delivery: SyncDelivery) -> None:
        handled.append(f"thread {delivery.attempt}")

    @service.on(OrderPlaced, batch=Batch(10), retry=MINUTE)
    async def a_run(events: list[OrderPlaced]) -> None:
        handled.append("run")

    async with testing.spine(service) as spine:
        spine.fail_next(in_a_thread, SmtpDown)
        spine.fail_next(a_run, SmtpDown)
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        assert handled == []
        await spine.advance(minutes=1)
        assert sorted(handled) == ["run", "thread 2"]


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        ("confrim", "'confrim' names no handler of this spine; it runs email.confirm, other.confirm"),
        ("confirm", "names several"),
    ],
)
async def test_an_unknown_handler_is_refused(handler: str, says: str) -> None:
    email = make_email()
    other: Service[Any] = Service("other")

    @other.on(Mailed)
    async def confirm(event: Mailed) -> None: ...

    async with testing.spine(email, other, resources={email: Mailer()}) as spine:
        with pytest.raises(SettingsError, match=says):
            spine.fail_next(handler, SmtpDown)
        spine.fail_next(confirm, SmtpDown)


@pytest.mark.parametrize("error", ["SmtpDown", 3, str])
async def test_what_is_no_error_can_t_be_failed_with(error: Any) -> None:
    email = make_email()
    async with testing.spine(email, resources={email: Mailer()}) as spine:
        with pytest.raises(SettingsError, match="is no error. Give an exception or its class"):
            spine.fail_next("confirm", error)


@pytest.mark.parametrize("sql", [False, True])
async def test_delivered_twice_is_handled_twice_and_happens_once(sql: bool) -> None:
    runs: list[str] = []
    inventory = make_inventory() if sql else make_plain_inventory()
    watch: Service[Any] = Service("watch")

    @watch.on(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        runs.append(event.order_id)

    async with testing.spine(inventory, watch, sql=sql) as spine:
        spine.deliver_twice()
        await spine.publish(*[OrderPlaced(order_id=order) for order in "ABC"])
        await spine.idle()
        assert runs == ["A", "B", "C", "A", "B", "C"], "they change nothing, and are finished by one commit"
        assert [event.order_id for event in spine.published(StockReserved)] == ["A", "B", "C"]
        if sql:
            assert spine.query("select free from inventory_stock where sku = 'teapot'") == [{"free": 0}]
        assert spine.health()["services"][0]["fenced"] == 0, "a repetition is told from the cursor"


async def test_the_idempotency_key_is_the_same_both_times() -> None:
    keys: list[str] = []
    service: Service[Any] = Service("watch")

    @service.on(OrderPlaced)
    async def charge(event: OrderPlaced, delivery: Delivery) -> None:
        keys.append(delivery.idempotency_key)

    async with testing.spine(service) as spine:
        spine.deliver_twice("charge", times=1)
        await spine.publish(OrderPlaced(order_id="A"), OrderPlaced(order_id="B"))
        await spine.idle()
    assert len(keys) == 3
    assert keys[0] == keys[2] != keys[1], "both change nothing, and are finished by one commit"


async def test_what_waited_comes_twice_too_and_happens_once() -> None:
    """A parked delivery has a row of its own; the second hand-out finds it settled."""
    service: Service[Any] = Service("inventory")
    runs: list[int] = []

    @service.on(OrderPlaced, retry=MINUTE)
    async def reserve(event: OrderPlaced, delivery: Delivery) -> StockReserved:
        runs.append(delivery.attempt)
        return StockReserved(order_id=event.order_id)

    async with testing.spine(service) as spine:
        spine.fail_next(reserve, SmtpDown)
        spine.deliver_twice(reserve)
        await spine.publish(OrderPlaced(order_id="A"), OrderPlaced(order_id="B"))
        await spine.advance(minutes=2)
        await spine.idle()
        assert [event.order_id for event in spine.published(StockReserved)] == ["A", "B"]
        assert len(runs) >= 4
        assert spine.parked() == spine.dead() == []


async def test_runs_come_twice_too() -> None:
    service: Service[Any] = Service("inventory")
    runs: list[int] = []

    @service.on(OrderPlaced, batch=Batch(10))
    async def reserve(events: list[OrderPlaced], delivery: Any) -> None:
        runs.append(len(events))
        for event in events:
            delivery.publish(StockReserved(order_id=event.order_id), cause=event)

    async with testing.spine(service) as spine:
        spine.deliver_twice()
        await spine.publish(*[OrderPlaced(order_id=str(number)) for number in range(5)])
        await spine.idle()
        assert sum(runs) == 10
        assert [event.order_id for event in spine.published(StockReserved)] == [str(number) for number in range(5)]


async def test_a_handler_that_counts_by_itself_is_found_out() -> None:
    """The safeguard is the unit; an effect beside it happens twice, and the switch shows it."""
    sold = 0
    service: Service[Any] = Service("watch")

    @service.on(OrderPlaced)
    async def count(event: OrderPlaced) -> None:
        nonlocal sold
        sold += event.units

    async with testing.spine(service) as spine:
        spine.deliver_twice()
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
    assert sold == 2


async def test_a_run_that_is_gathered_beside_one_that_runs_alone_does_not_stand_still() -> None:
    """What is handed out again runs by itself, and waits for the run that is being gathered."""
    service: Service[Any] = Service("watch")
    seen: list[str] = []

    @service.on(OrderPlaced, batch=Batch(7, within_ms=5), retry=MINUTE)
    async def watch(events: list[OrderPlaced]) -> None:
        seen.extend(event.order_id for event in events)

    async with testing.spine(service) as spine:
        spine.deliver_twice()
        spine.fail_next(watch, SmtpDown, times=3)
        await spine.publish(*[OrderPlaced(order_id=str(number), sku=f"sku-{number % 3}") for number in range(30)])
        await spine.idle()
        await spine.advance(minutes=10)
        assert sorted(set(seen), key=int) == [str(number) for number in range(30)]
        assert spine.parked() == []


async def test_a_joined_connection_is_refused_what_was_committed_already() -> None:
    """The caller's own transaction writes the row and the cursor as one; the second time neither stays."""
    inventory: Service[Any] = Service("inventory", tables=inventory_tables)
    runs = 0

    @inventory.on(OrderPlaced)
    def reserve(event: OrderPlaced, delivery: SyncDelivery) -> None:
        nonlocal runs
        runs += 1
        connection = sqlite3.connect(file)
        try:
            with connection:
                connection.execute("update inventory_stock set free = free - 1 where sku = ?", (event.sku,))
                delivery.publish(StockReserved(order_id=event.order_id))
                delivery.join(connection)
        finally:
            connection.close()

    async with testing.spine(inventory) as spine:
        file = spine.journal.path
        spine.deliver_twice()
        await spine.publish(OrderPlaced(order_id="A"))
        await spine.idle()
        assert runs == 2
        assert spine.query("select free from inventory_stock where sku = 'teapot'") == [{"free": 2}]
        assert spine.published(StockReserved) == [StockReserved(order_id="A")]


async def test_an_attempt_at_least_must_fail() -> None:
    async with testing.spine(make_plain_inventory()) as spine:
        with pytest.raises(SettingsError, match="at least 1"):
            spine.fail_next("reserve", SmtpDown, times=0)
