"""What projections promise: rows and cursor of one moment, in order, once; and what becomes of an event that can't be
handled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Literal

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from eventspine import Batch, Delivery, Event, Service, Spine, View, testing
from eventspine.errors import DeclarationError, RegistrationRefused
from eventspine.integrations.sqlalchemy import as_sql, view_table
from eventspine.journal.port import Replay, Rewind, SetState
from eventspine.state.projections import RUN

from .child import ended, started
from .material import ONCE, OrderCancelled, OrderPlaced, OrdersByCustomer, counting, publisher, spent, until


async def test_a_projection_counts_in_order_and_once(journal):
    service = counting()
    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        customers = [random.Random(7).choice("abcdefgh") for _ in range(1500)]  # more than one run
        receipts = await spine.publish(*[OrderPlaced(customer_id=who) for who in customers])
        await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=20)
        found = {row.customer_id: row.orders for row in await spine.view(OrdersByCustomer).all()}
        assert found == Counter(customers)


async def test_it_begins_with_the_first_event_there_was_also_in_a_service_that_is_old(journal):
    old = Service("reports")

    @old.on(OrderCancelled)
    async def look(event: OrderCancelled) -> None: ...

    new = counting()
    new.on(OrderCancelled)(look)
    async with Spine(journal(), service=publisher()) as spine:
        async with spine.running(old):
            await spine.publish(OrderPlaced(amount=Decimal(5)))
        async with spine.running(new):
            assert await until(lambda: spent(spine)) == 5


async def test_rows_are_read_once_and_written_once_for_a_run(file):
    """What makes a rebuild quick. Switched off, by runs of one event, it takes as many statements as events."""
    for run, most in ((RUN, 1), (1, 100)):
        service = counting()
        handler = service.handlers["count"]
        service.handlers["count"] = replace(handler, batch=Batch(run))
        async with Spine(file(), service=publisher()) as spine:
            await spine.publish(*[OrderPlaced() for _ in range(100)])
            units = []
            commit = spine.journal.commit

            async def counted(given, commit=commit, units=units):
                units.extend(unit for unit in given if unit.statements)
                return await commit(given)

            spine.journal.commit = counted
            async with spine.running(service):
                await until(lambda: spent(spine))
                await until(lambda units=units, most=most: sum(len(unit.done) for unit in units) >= 1)
                stored = await spine.journal.subscriptions("reports")
                head = await spine.journal.head()
                await until(lambda spine=spine, stored=stored, head=head: _at(spine, stored[0].number, head))
            assert sum(len(unit.statements) for unit in units) == most
            await spine.journal.control([Rewind(stored[0].number, head)])
        file().path.unlink()


async def _at(spine: Spine, number: int, position: int) -> bool:
    return all(cursor.position >= position for cursor in await spine.journal.cursors([number]))


async def test_an_event_that_fails_stops_its_projection_until_it_is_mended(journal):
    """Trap: a poison event is tried for ever, or skipped in silence."""
    broken = {"bob"}
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced, retry=ONCE)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        view.row(event.customer_id).orders += 1
        if event.customer_id in broken:
            raise ValueError("not yet")

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        await spine.publish(*[OrderPlaced(customer_id=who) for who in ("ann", "bob", "cleo")])
        (dead,) = await until(lambda: spine.journal.deliveries(states=["dead"]))
        assert "ValueError: not yet" in dead.error
        rows = await spine.view(OrdersByCustomer).all()
        assert [row.customer_id for row in rows] == ["ann"]  # nothing of the one that failed, nothing after it
        broken.clear()
        await spine.journal.control([Replay([dead.number])])
        found = await until(lambda: _three(spine))
        assert [(row.customer_id, row.orders) for row in found] == [("ann", 1), ("bob", 1), ("cleo", 1)]


async def _three(spine: Spine):
    rows = await spine.view(OrdersByCustomer).all()
    return rows if len(rows) == 3 else None


async def test_with_order_by_key_only_the_failing_key_waits(journal):
    broken = {"bob"}
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced, retry=ONCE, order="key")
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        row = view.row(event.customer_id)
        row.orders = row.orders * 10 + event.order_id
        if event.customer_id in broken and event.order_id == 1:
            raise ValueError("not yet")

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        placed = [OrderPlaced(customer_id=who, order_id=n) for n in (1, 2) for who in ("ann", "bob", "cleo")]
        await spine.publish(*placed)
        (dead,) = await until(lambda: spine.journal.deliveries(states=["dead"]))
        await until(lambda: _orders(spine, {"ann": 12, "cleo": 12}))
        broken.clear()
        await spine.journal.control([Replay([dead.number])])
        await until(lambda: _orders(spine, {"ann": 12, "bob": 12, "cleo": 12}))


async def _orders(spine: Spine, wanted: dict[str, int]) -> bool:
    return {row.customer_id: row.orders for row in await spine.view(OrdersByCustomer).all()} == wanted


async def test_with_order_by_key_a_row_belongs_to_the_key_of_its_events(journal):
    """Else two runs side by side would change one row, and one change would be lost."""
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced, retry=ONCE, order="key")
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        view.row("all").orders += 1

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        await spine.publish(OrderPlaced())
        (dead,) = await until(lambda: spine.journal.deliveries(states=["dead", "parked"]))
        assert "can't touch the row 'all'" in dead.error


async def test_a_row_that_is_asked_for_after_another_is_found_as_well(journal):
    """Which rows a run needs comes out step by step; each step reads all that are known to be needed by then."""

    class Chain(View, key="name"):
        name: str
        next: str = ""
        seen: int = 0

    service = Service("reports")

    @service.projection(Chain, OrderPlaced)
    def follow(view: View[Chain], event: OrderPlaced) -> None:
        row = view.row(event.customer_id)
        while row.next:
            row = view.row(row.next)
        row.seen += 1
        row.next = f"{row.name}+"

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        for _ in range(3):
            receipts = await spine.publish(*[OrderPlaced(customer_id=who) for who in "abab"])
            await spine.view(Chain).wait(*receipts, timeout_s=20)
        rows = await spine.view(Chain).all()
        assert sum(row.seen for row in rows) == 12
        assert len(rows) == 12


async def test_a_projection_is_silent(journal):
    """It is given rows, and nothing to publish or to reach the world with; what it returns is not published."""
    given = []
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        given.append(view)
        view.row(event.customer_id)

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        await spine.view(OrdersByCustomer).wait(await spine.publish(OrderPlaced()), timeout_s=20)
        assert not any(hasattr(given[0], name) for name in ("publish", "resources", "query"))


async def test_an_owner_that_was_fenced_writes_no_rows(journal):
    """Trap: two nodes run one projection. Once the cursor's generation has moved on, the run that was at work counts for
    nothing; switched off (an unfenced unit), its row would be there beside that of the next owner."""
    at_work, go_on = asyncio.Event(), asyncio.Event()
    service = counting()
    handler = service.handlers["count"]
    held = replace(handler, function=_held(handler.function, at_work, go_on))
    service.handlers["count"] = held
    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        await spine.publish(OrderPlaced())
        await asyncio.wait_for(at_work.wait(), 20)
        (stored,) = await spine.journal.subscriptions("reports")
        await spine.journal.control([SetState(stored.number, "paused")])
        go_on.set()
        await until(lambda: not at_work_in(spine))
        assert await spine.view(OrdersByCustomer).all() == []
        await spine.journal.control([SetState(stored.number, "active")])
        await until(lambda: _orders(spine, {"ann": 1}))


def at_work_in(spine: Spine) -> int:
    return sum(one.at_work for runtime in spine._runtimes for host in runtime.hosts for one in host.subscriptions)


def _held(function, at_work, go_on):
    async def run(events, delivery):
        at_work.set()
        await go_on.wait()
        await function(events, delivery)

    return run


async def test_a_repetition_of_a_run_changes_nothing():
    async with testing.spine(counting(), sql=True) as spine:
        spine.deliver_twice()
        await spine.publish(*[OrderPlaced() for _ in range(5)])
        await spine.idle()
        assert await spent(spine) == 5


async def test_a_testing_spine_keeps_views_in_memory():
    async with testing.spine(counting()) as spine:
        await spine.publish(OrderPlaced(amount=Decimal("2.50")))
        await spine.idle()
        assert await spent(spine) == Decimal("2.50")


async def test_plain_sql_is_a_projection_too(database):
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        view.execute(
            "insert into {table} (customer_id, orders, spent) values (:who, 1, '0')"
            " on conflict (customer_id) do update set orders = {table}.orders + 1",
            who=event.customer_id,
        )

    async with Spine(database(), service=publisher()) as spine, spine.running(service):
        receipts = await spine.publish(*[OrderPlaced() for _ in range(3)])
        await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=20)
        assert (await spine.view(OrdersByCustomer).get("ann")).orders == 3


async def test_expressions_of_sqlalchemy_are_sql_as_well(database):
    service, kept_in = Service("reports"), database()
    speaks: Literal["sqlite", "postgresql"] = "postgresql" if kept_in.url.startswith("postgresql") else "sqlite"
    upsert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[speaks]

    @service.projection(OrdersByCustomer, OrderPlaced)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        kept = view_table(OrdersByCustomer, view.table)
        first = upsert(kept).values(customer_id=event.customer_id, orders=1, spent=event.amount)
        once_more = {"orders": kept.c.orders + 1, "spent": first.excluded.spent}
        sql, values = as_sql(first.on_conflict_do_update(index_elements=["customer_id"], set_=once_more), speaks)
        view.execute(sql, **values)

    async with Spine(kept_in, service=publisher()) as spine, spine.running(service):
        receipts = await spine.publish(*[OrderPlaced(customer_id=who) for who in ("ann", "bob", "ann", "o'neil")])
        view, read = spine.view(OrdersByCustomer), view_table(OrdersByCustomer)
        await view.wait(receipts[-1], timeout_s=20)
        wanted = select(read.c.customer_id, read.c.orders).where(read.c.customer_id.in_(["ann", "o'neil"]))
        sql, values = as_sql(wanted.order_by(read.c.orders.desc()), speaks)
        rows = await view.query(sql, **values)
    assert rows == [{"customer_id": "ann", "orders": 2}, {"customer_id": "o'neil", "orders": 1}]


async def test_rows_and_sql_do_not_mix(database):
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced, retry=ONCE)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        view.row("ann").orders += 1
        view.execute("delete from {table}")

    async with Spine(database(), service=publisher()) as spine, spine.running(service):
        await spine.publish(OrderPlaced())
        (dead,) = await until(lambda: spine.journal.deliveries(states=["dead"]))
        assert "Do it one way" in dead.error


async def test_two_services_do_not_keep_one_view(journal):
    other = Service("others")

    @other.projection(OrdersByCustomer, OrderPlaced)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None: ...

    async with Spine(journal()) as spine, spine.running(counting()):
        with pytest.raises(RegistrationRefused, match="which reports keeps"):
            async with spine.running(other):
                pass


async def test_other_columns_under_the_same_version_are_refused(journal):
    class Changed(View, key="customer_id", name="orders_by_customer"):
        customer_id: str
        orders: int = 0

    changed = Service("reports")

    @changed.projection(Changed, OrderPlaced, name="count")
    def count(view: View[Changed], event: OrderPlaced) -> None: ...

    async with Spine(journal()) as spine:
        async with spine.running(counting()):
            pass
        with pytest.raises(RegistrationRefused, match=r"\(spent\). Raise the version.*version=2"):
            async with spine.running(changed):
                pass


def test_what_is_declared_wrongly_says_what_to_write():
    service = Service("reports")

    class Untenanted(Event, context="orders"):
        a: int = 0

    class OfTenant(View, key="a", tenant="who"):
        who: str
        a: int

    class Placed(Event, context="orders", renamed_from="orders.OrderPlaced"):
        a: int = 0

    async def waits(view, event): ...

    def alone(event): ...

    def fine(view, event): ...

    def other(view, event: OrderCancelled): ...

    wrong = [
        (
            lambda: service.projection(OrdersByCustomer, OrderPlaced)(other),
            r"reports\.other handles OrderPlaced, and is to take OrderCancelled.*in projection\(\.\.\.\)",
        ),
        (
            lambda: service.projection(OrdersByCustomer, OrderPlaced, concurrency=8)(fine),
            r"concurrency=8 has no effect.*order='key'",
        ),
        (lambda: service.projection(OrdersByCustomer, OrderPlaced)(waits), "plain `def`"),
        (lambda: service.projection(OrdersByCustomer, OrderPlaced)(alone), r"def alone\(view, event\)"),
        (lambda: service.projection(OrderPlaced, OrderPlaced)(fine), "OrderPlaced is no view"),
        (
            lambda: service.projection(OrdersByCustomer)(fine),
            r"\.projection needs the event types.*projection\(OrdersByCustomer, OrderPlaced",
        ),
        (
            lambda: service.projection(OrdersByCustomer, OrderPlaced, order="none")(fine),
            "'none' is neither 'feed' nor 'key'",
        ),
        (lambda: service.projection(OrdersByCustomer, OrderPlaced, switch="now")(fine), "'caught_up' nor 'by_hand'"),
        (lambda: service.projection(OrdersByCustomer, OrderPlaced, batch=3)(fine), "no such option: batch"),
        (lambda: service.projection(OfTenant, Untenanted)(fine), "says no tenant"),
        (lambda: service.projection(OrdersByCustomer, OrderPlaced, OrderPlaced)(fine), "two of its classes stand for"),
        (lambda: service.projection(OrdersByCustomer, OrderPlaced, Placed)(fine), "two of its classes stand for"),
    ]
    for declare, complaint in wrong:
        with pytest.raises(DeclarationError, match=complaint):
            declare()


@pytest.mark.timeout(100)
async def test_processes_that_are_killed_at_any_moment_leave_rows_that_equal_an_exact_fold(database):
    """Trap: a crash between the rows and the cursor."""
    journal = database()
    chance = random.Random(11)
    async with Spine(journal, service=publisher()) as spine:
        expected: Counter[str] = Counter()
        child = started(journal.url)
        for _ in range(12):
            placed = [OrderPlaced(customer_id=f"c{chance.randrange(40)}") for _ in range(200)]
            expected.update(event.customer_id for event in placed)
            await spine.publish(*placed)
            await asyncio.sleep(chance.uniform(0, 0.05))  # the moment of the kill, not something waited for
            if chance.random() < 0.5:
                ended(child)
                child = started(journal.url)
        try:
            await until(lambda: _orders(spine, dict(expected)), 60)
        finally:
            ended(child)


async def test_a_handler_of_the_same_service_may_read_the_view(journal):
    found = []
    service = counting()

    @service.on(OrderCancelled)
    async def look(event: OrderCancelled, delivery: Delivery) -> None:
        found.append(event)

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        await spine.publish(OrderCancelled())
        await until(lambda: found)
