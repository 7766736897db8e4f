"""`testing.delivery`: a handler called as the plain function that it is."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventspine import Delivery, Event, Reject, Service, testing
from eventspine.errors import DeclarationError, EventRefused, RowsUnexpected, SettingsError, SpineError
from eventspine.sync import Delivery as SyncDelivery
from eventspine.testing import Executed

from .shop import Mailed, Mailer, OrderPlaced, OrderReminded, StockReserved

service: Service[Mailer] = Service("inventory", publishes=("inventory", "email"))


@service.on(OrderPlaced)
async def reserve(event: OrderPlaced, delivery: Delivery[Mailer]) -> StockReserved:
    rows = await delivery.query("select free from stock where sku = :sku", sku=event.sku)
    if not rows:
        raise Reject(f"no such sku, attempt {delivery.attempt}")
    delivery.execute("update stock set free = free - :n where sku = :sku", n=event.units, sku=event.sku, expect_rows=1)
    delivery.publish(Mailed(order_id=event.order_id))
    delivery.publish(OrderReminded(), after=timedelta(days=1))
    await delivery.resources.send(event.order_id)
    return StockReserved(order_id=event.order_id)


async def test_it_notes_what_the_handler_asks_for() -> None:
    mailer, order = Mailer(), OrderPlaced(order_id="A", units=2)
    delivery = testing.delivery(order, resources=mailer, rows=[{"free": 3}])
    assert await reserve(order, delivery) == StockReserved(order_id="A")
    assert delivery.executed == [
        Executed("update stock set free = free - :n where sku = :sku", {"n": 2, "sku": "teapot"}, 1)
    ]
    assert delivery.published == [Mailed(order_id="A"), OrderReminded()]
    assert mailer.sent == ["A"]


async def test_it_is_a_real_delivery_of_this_event() -> None:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    delivery = testing.delivery(
        OrderPlaced(order_id="A"),
        attempt=3,
        late=True,
        handler="inventory.reserve",
        id="0190163d-8694-739b-aea5-966c26f8ad91",
        time=when,
        correlation="request-1",
        causation="0190163d-8694-739b-aea5-966c26f8ad90",
    )
    assert isinstance(delivery, Delivery)
    assert (delivery.attempt, delivery.late, delivery.key, delivery.handler) == (3, True, "teapot", "inventory.reserve")
    assert delivery.event_id == "0190163d-8694-739b-aea5-966c26f8ad91"
    assert (delivery.envelope.type, delivery.envelope.time, delivery.time) == ("orders.OrderPlaced", when, when)
    assert (delivery.correlation, delivery.causation) == ("request-1", "0190163d-8694-739b-aea5-966c26f8ad90")
    assert delivery.resources is None
    assert testing.delivery(OrderPlaced(order_id="A"), key="other").key == "other"


def test_the_idempotency_key_depends_on_the_event_and_the_handler() -> None:
    def key(id: str, handler: str) -> str:
        return testing.delivery(OrderPlaced(order_id="A"), id=id, handler=handler).idempotency_key

    one, two = "0190163d-8694-739b-aea5-966c26f8ad91", "0190163d-8694-739b-aea5-966c26f8ad92"
    assert key(one, "a.b") == key(one, "a.b")
    assert len({key(one, "a.b"), key(two, "a.b"), key(one, "a.c")}) == 3


async def test_queries_are_answered_by_rows_by_a_function_or_by_a_connection() -> None:
    order = OrderPlaced(order_id="A")
    with pytest.raises(Reject, match="attempt 2"):
        await reserve(order, testing.delivery(order, resources=Mailer(), attempt=2, rows=[]))
    asked: list[Any] = []

    def rows(sql: str, **parameters: Any) -> list[dict[str, Any]]:
        asked.append((sql, parameters))
        return [{"free": 1}]

    await reserve(order, testing.delivery(order, resources=Mailer(), rows=rows))
    assert asked == [("select free from stock where sku = :sku", {"sku": "teapot"})]
    connection = sqlite3.connect(":memory:")
    connection.executescript("create table stock (sku text, free integer); insert into stock values ('teapot', 3)")
    await reserve(order, testing.delivery(order, resources=Mailer(), connection=connection))
    assert connection.execute("select free from stock").fetchone() == (3,), "execute only hands over"
    connection.close()


async def test_a_transaction_runs_on_the_connection() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript("create table stock (sku text, free integer); insert into stock values ('teapot', 3)")
    delivery = testing.delivery(OrderPlaced(order_id="A"), connection=connection)
    delivery.execute("update stock set free = free - 1")
    async with delivery.transaction() as tx:
        assert await tx.query("select free from stock") == [{"free": 2}]
        assert await tx.execute("update stock set free = 0") == 1
        assert await delivery.query("select free from stock") == [{"free": 0}]
        with pytest.raises(RowsUnexpected):
            await tx.execute("update stock set free = 9 where sku = 'none'", expect_rows=1)
    connection.close()
    without = testing.delivery(OrderPlaced(order_id="A"))
    with pytest.raises(SettingsError, match="give it connection="):
        async with without.transaction():
            pass


async def test_join_is_noted_and_closes_the_unit_as_it_does() -> None:
    connection = sqlite3.connect(":memory:")
    delivery = testing.delivery(OrderPlaced(order_id="A"))
    delivery.join(connection)
    assert delivery.joined is connection
    with pytest.raises(SpineError, match="before join"):
        delivery.publish(Mailed(order_id="A"))
    connection.close()


def test_def_handlers_have_their_own() -> None:
    other: Service[Any] = Service("inventory")

    @other.on(OrderPlaced)
    def reserve(event: OrderPlaced, delivery: SyncDelivery) -> None:
        (row,) = delivery.query("select 3 as free")
        with delivery.transaction() as tx:
            tx.execute("create table stock (free integer)")
        delivery.execute("update stock set free = :free", free=row["free"])
        delivery.publish(StockReserved(order_id=f"{event.order_id} {delivery.attempt}"))

    connection = sqlite3.connect(":memory:")
    delivery = testing.sync_delivery(OrderPlaced(order_id="A"), attempt=2, connection=connection)
    reserve(OrderPlaced(order_id="A"), delivery)
    assert isinstance(delivery, SyncDelivery)
    assert delivery.executed == [Executed("update stock set free = :free", {"free": 3})]
    assert delivery.published == [StockReserved(order_id="A 2")]
    assert delivery.joined is None
    connection.close()


class Huge(Event, context="email", key=None):
    text: str


@pytest.mark.parametrize(
    ("options", "error"),
    [({"attempt": 0}, SettingsError), ({"id": "A-1"}, EventRefused), ({"time": datetime(2030, 1, 1)}, SettingsError)],  # noqa: DTZ001
)
def test_what_no_delivery_could_be_is_refused(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        testing.delivery(OrderPlaced(order_id="A"), **options)


async def test_what_the_engine_would_refuse_is_refused() -> None:
    delivery = testing.delivery(OrderPlaced(order_id="A"))
    with pytest.raises(DeclarationError, match="is not an event"):
        delivery.publish("done")
    with pytest.raises(EventRefused):
        delivery.publish(Huge(text="x" * 2_000_000))
    assert delivery.published == []


async def test_a_query_that_nobody_answers_is_refused() -> None:
    """It found nothing, and a handler that never saw a row passed its test."""
    with pytest.raises(SettingsError, match=r"rows= \(rows=\[\] for none\), or connection="):
        await testing.delivery(OrderPlaced(order_id="A")).query("select 1")
    assert await testing.delivery(OrderPlaced(order_id="A"), rows=[]).query("select 1") == []
