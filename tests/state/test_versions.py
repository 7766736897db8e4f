"""A view is built anew beside the old one, switched to at once, and can be gone back on; readers never see a gap."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from decimal import Decimal
from typing import Any

import pytest

from eventspine import Service, Spine, View
from eventspine.errors import (
    Conflict,
    DeclarationError,
    RegistrationRefused,
    SettingsError,
    UnitFailed,
    ViewBehind,
    ViewRefused,
)
from eventspine.journal.port import Journal, Note, SetState, Unit
from eventspine.state import reading, versions
from eventspine.state.dropping import drop
from eventspine.state.progress import progress_of

from .child import ended, in_runs, started
from .material import ONCE, OrderPlaced, OrdersByCustomer, connection_to, counting, publisher, until

NAME = "orders_by_customer"


class OrdersByCustomer2(View, key="customer_id", name=NAME, version=2):
    customer_id: str
    orders: int = 0
    spent: Decimal = Decimal(0)
    largest: Decimal = Decimal(0)


def both(broken: Callable[[], bool] = lambda: False, **options: Any) -> Service[Any]:
    """A release that keeps version 1 and builds version 2."""
    reports = counting()

    @reports.projection(OrdersByCustomer2, OrderPlaced, name="count", retry=ONCE, **options)
    def count(view: View[OrdersByCustomer2], event: OrderPlaced) -> None:
        if broken():
            raise ValueError("not yet")
        row = view.row(event.customer_id)
        row.orders += 1
        row.spent += event.amount
        row.largest = max(row.largest, event.amount)

    return reports


async def active(spine: Spine) -> int:
    known = await versions.known(spine.journal, NAME)
    assert known is not None
    return known.active


async def is_active(spine: Spine, version: int) -> bool:
    return await active(spine) == version


async def filled(spine: Spine, events: int = 1200) -> None:
    """By a release that has version 1 alone."""
    async with spine.running(counting()):
        receipts = await spine.publish(*[OrderPlaced(amount=Decimal(n % 7)) for n in range(events)])
        await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=20)


async def test_a_table_that_was_dropped_by_hand_stops_the_view_until_the_next_version_is_there(
    database: Callable[[], Journal],
) -> None:
    async with Spine(database(), service=publisher()) as spine:
        await filled(spine, 50)
        with closing(connection_to(spine.journal)) as connection:
            schema = "" if spine.journal.dialect == "sqlite" else f"{spine.journal.target.schema}."  # type: ignore[attr-defined]
            connection.execute(f"drop table {schema}{NAME}_v1")
            connection.commit()
        async with spine.running(counting(retry=ONCE)):
            receipt = await spine.publish(OrderPlaced(amount=Decimal(7)))
            with pytest.raises(ViewBehind, match="reports.count stands at the event 51, which failed"):
                await spine.view(OrdersByCustomer).wait(receipt, timeout_s=2)
        async with spine.running(both()):
            await until(lambda: is_active(spine, 2))
            row = await spine.view(OrdersByCustomer2).get("ann")
            assert (row.orders, row.largest) == (51, 7)


async def test_trap_27_and_29_a_new_version_is_built_while_orders_keep_coming_and_readers_never_see_a_gap(
    journal: Callable[[], Journal],
) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine)
        seen: list[int] = []
        over = False

        async def read() -> None:
            while not over:
                row = await spine.view(OrdersByCustomer2).get("ann")
                seen.append(0 if row is None else row.orders)
                await asyncio.sleep(0.002)

        async def order() -> int:
            published = 1200
            while not over:
                receipt = await spine.publish(OrderPlaced(amount=Decimal(9)))
                published += 1
                await spine.view(OrdersByCustomer).wait(receipt, timeout_s=20)
            return published

        async with spine.running(both()):
            reading, ordering = asyncio.create_task(read()), asyncio.create_task(order())
            await until(lambda: is_active(spine, 2))
            reads = len(seen)
            await until(lambda: len(seen) > reads + 5)
            over = True
            published, _ = await ordering, await reading
            await until(lambda: _orders(spine, published))
        assert seen == sorted(seen)  # neither empty, nor behind what was read before
        assert seen[0] >= 1200
        row = await spine.view(OrdersByCustomer2).get("ann")
        assert row is not None
        assert row.largest == 9


async def _orders(spine: Spine, orders: int) -> bool:
    row = await spine.view(OrdersByCustomer2).get("ann")
    return row is not None and row.orders == orders


async def test_until_the_switch_columns_that_the_old_version_has_not_are_their_defaults(
    journal: Callable[[], Journal],
) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        row = await spine.view(OrdersByCustomer2).get("ann")
        assert row is not None
        assert (10, 0) == (row.orders, row.largest)
        with pytest.raises(ViewRefused, match=r"has no largest yet; it will have when version 2 has caught up"):
            await spine.view(OrdersByCustomer2).all(largest=Decimal(9))


async def test_trap_27_a_version_that_can_not_handle_an_event_is_not_switched_to(
    journal: Callable[[], Journal],
) -> None:
    broken = True
    async with Spine(journal(), service=publisher(), lease_s=1.0) as spine:
        await filled(spine, 10)
        async with spine.running(both(lambda: broken)):
            (dead,) = await until(lambda: spine.journal.deliveries(states=["dead"]))
            looks = 0
            head = spine.journal.head

            async def looked() -> int:
                nonlocal looks
                looks += 1
                return await head()

            spine.journal.head = looked  # type: ignore[method-assign]
            await until(lambda: looks > 6)  # it has been looked at again and again
            assert await active(spine) == 1
            broken = False
            from eventspine.journal.port import Replay

            await spine.journal.control([Replay([dead.number])])
            await until(lambda: is_active(spine, 2))


async def test_trap_27_building_goes_on_where_it_was_left(journal: Callable[[], Journal]) -> None:
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 700  # in the second run of 500

    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine)
        with suppress(asyncio.TimeoutError):
            async with spine.running(both(stop)):
                await until(lambda: spine.journal.deliveries(states=["dead"]))
        calls = -(10**9)
        async with spine.running(both(stop)):
            (dead,) = await spine.journal.deliveries(states=["dead"])
            from eventspine.journal.port import Replay

            await spine.journal.control([Replay([dead.number])])
            await until(lambda: is_active(spine, 2))
            assert await _orders(spine, 1200)


@pytest.mark.timeout(120)
async def test_a_process_that_is_killed_while_it_builds_leaves_no_row_twice_and_none_missing(
    database: Callable[[], Journal],
) -> None:
    """Two kills, each when some more has been committed of version 2, and not all."""
    journal, chance = database(), random.Random(3)
    customers = [f"c{chance.randrange(300)}" for _ in range(3000)]
    async with Spine(journal, service=publisher()) as spine:
        async with spine.running(counting()):
            for at in range(0, len(customers), 500):
                receipts = await spine.publish(*[OrderPlaced(customer_id=who) for who in customers[at : at + 500]])
            await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=30)
        built, head = 0, await spine.journal.head()
        for _ in range(2):
            child = await asyncio.to_thread(started, journal.url, "building")
            try:
                built = await until(lambda built=built: _more_than(spine, built), 30)
                assert built < head
            finally:
                ended(child)
        assert await active(spine) == 1
        async with spine.running(in_runs(both())):
            await until(lambda: is_active(spine, 2), 60)
        found = {row.customer_id: row.orders for row in await spine.view(OrdersByCustomer2).all()}
        assert found == Counter(customers)


async def _more_than(spine: Spine, position: int) -> int:
    """How far version 2 has come, once that is further than this."""
    now = await progress_of(spine.journal, "reports", "reports.count@2")
    return now.position if now is not None and now.position > position else 0


async def test_by_hand_it_is_switched_when_it_is_said(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        async with spine.running(both(switch="by_hand")):
            await until(lambda: _behind_nothing(spine, 2))
            assert await active(spine) == 1
            await versions.change(spine.journal, NAME, lambda now: now and versions.switched(now, 2))
            assert await _orders(spine, 10)


async def _behind_nothing(spine: Spine, version: int) -> bool:
    from eventspine.state.progress import progress_of

    known = await versions.known(spine.journal, NAME)
    assert known is not None
    progress = await progress_of(spine.journal, "reports", known.versions[version].subscription)
    return progress is not None and progress.position >= await spine.journal.head()


async def test_a_switch_can_be_gone_back_on_and_stays_gone_back_on(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        async with spine.running(both()):
            await until(lambda: is_active(spine, 2))
            await versions.change(spine.journal, NAME, lambda now: now and versions.rolled_back(now))
            receipt = await spine.publish(OrderPlaced())
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=20)  # version 1 has been kept meanwhile
            row = await spine.view(OrdersByCustomer).get("ann")
            assert row is not None
            assert row.orders == 11
        async with spine.running(both()):  # a restart does not switch again by itself
            receipt = await spine.publish(OrderPlaced())
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=20)
            await until(lambda: _behind_nothing(spine, 2))
            assert await active(spine) == 1


async def test_a_version_that_is_dropped_is_gone_and_is_not_declared_again(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        async with spine.running(both()):
            await until(lambda: is_active(spine, 2))
        with pytest.raises(SettingsError, match="Switch to another one first"):
            await drop(spine.journal, NAME, 2)
        for _ in range(2):  # the second finishes what the first might have left
            await drop(spine.journal, NAME, 1)
        assert "retired" in {row.state for row in await spine.journal.subscriptions("reports")}
        if spine.journal.sql:
            await spine.journal.query(f"select 1 from {NAME}_v2", {})
            with pytest.raises(UnitFailed):
                await spine.journal.query(f"select 1 from {NAME}_v1", {})
        assert await _orders(spine, 10)
        with pytest.raises(RegistrationRefused, match="Version 1 of the view orders_by_customer was dropped"):
            async with spine.running(both()):
                pass


@pytest.mark.parametrize("wait_s", [reading.LEVEL_S, 0.0])
async def test_who_has_read_the_old_version_is_not_shown_an_earlier_state_by_the_new_one(
    journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch, wait_s: float
) -> None:
    """Without the wait he is."""
    monkeypatch.setattr(reading, "LEVEL_S", wait_s and 60.0)
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        async with spine.running(both(switch="by_hand")):
            await until(lambda: _behind_nothing(spine, 2))
            (second,) = [row for row in await spine.journal.subscriptions("reports") if row.name == "reports.count@2"]
            await spine.journal.control([SetState(second.number, "paused")])
            receipt = await spine.publish(OrderPlaced(amount=Decimal(7)))
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=20)
            assert await _orders(spine, 11)
            await versions.change(spine.journal, NAME, lambda now: now and versions.switched(now, 2))
            reads = asyncio.create_task(spine.view(OrdersByCustomer2).get("ann"))
            if wait_s:
                await asyncio.sleep(0.05)
                assert not reads.done()
                await spine.journal.control([SetState(second.number, "active")])
            row = await reads
    assert row is not None
    assert (11 if wait_s else 10) == row.orders


async def test_a_version_whose_subscription_was_retired_does_not_count_all_once_more(
    journal: Callable[[], Journal],
) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        async with spine.running(both()):
            await until(lambda: is_active(spine, 2))
        (keeping,) = [row for row in await spine.journal.subscriptions("reports") if row.name == "reports.count@2"]
        await spine.journal.control([SetState(keeping.number, "retired")])
        with pytest.raises(RegistrationRefused, match=r"was retired, and the rows are as it left them.*version=3"):
            async with spine.running(both()):
                pass
        assert await _orders(spine, 10)


async def test_trap_28_a_version_is_not_built_without_what_retention_has_deleted(
    database: Callable[[], Journal],
) -> None:
    async with Spine(database(), service=publisher()) as spine:
        await filled(spine, 10)
        await spine.journal.keep("storefront", {"orders": 1}, 1)
        await spine.journal.sweep("orders", after=0, upto=5, limit=100)
        with pytest.raises(RegistrationRefused, match=r"events of orders up to position 5.*what_is_left"):
            async with spine.running(both()):
                pass
        async with spine.running(both(history="what_is_left")):
            await until(lambda: is_active(spine, 2))
            assert await _orders(spine, 5)


async def test_a_release_that_leaves_the_old_version_out_is_told_that_it_may_be_a_rename(
    journal: Callable[[], Journal],
) -> None:
    """Else the version that is read would stand still while the new one is built."""
    alone = both()
    del alone.handlers["count"]
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        with pytest.raises(RegistrationRefused, match="no longer declares 'reports.count'"):
            async with spine.running(alone):
                pass


async def test_a_paused_version_is_not_switched_to(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        await filled(spine, 10)
        async with spine.running(both(switch="by_hand")):
            await until(lambda: _behind_nothing(spine, 2))
        (second,) = [row for row in await spine.journal.subscriptions("reports") if row.name.endswith("@2")]
        await spine.journal.control([SetState(second.number, "paused")])
        async with spine.running(both()):
            receipt = await spine.publish(OrderPlaced())
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=20)
            assert await active(spine) == 1


def known(**changes: Any) -> versions.Known:
    def version(name: str) -> versions.Version:
        return versions.Version(subscription=name, columns={}, key=["a"])

    given: dict[str, Any] = {"service": "s", "active": 1, "versions": {1: version("s.a"), 2: version("s.a@2")}}
    return versions.Known(**{**given, **changes})


def test_what_may_become_of_a_view() -> None:
    assert versions.switched(known(), 1) is None
    second = versions.switched(known(), 2)
    assert second is not None
    assert (2, 1) == (second.active, second.previous)
    back = versions.rolled_back(second)
    assert (1, None, [2]) == (back.active, back.previous, back.rolled_back)
    assert versions.switched_by_itself(back, 2) is None
    again = versions.switched(back, 2)
    assert again is not None
    assert (2, []) == (again.active, again.rolled_back)
    assert versions.switched_by_itself(known(active=2), 1) is None
    assert versions.switched_by_itself(known(), 3) is None
    for refused in (lambda: versions.switched(known(), 3), lambda: versions.rolled_back(known())):
        with pytest.raises(SettingsError):
            refused()


async def test_a_view_that_others_change_all_the_time_is_a_conflict_and_no_mistake_of_who_asks(
    journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "TRIES", 3)
    async with Spine(journal(), service=publisher()) as spine:
        async with spine.running(both()):
            await until(lambda: is_active(spine, 2))
        quicker = spine.journal.commit

        async def commit(units: Any) -> Any:
            """Somebody else's change comes first, each time."""
            (note,) = await spine.journal.notes("", versions.KIND, [NAME])
            await quicker([Unit(notes=[Note("", versions.KIND, NAME, note.value, note.version)])])
            return await quicker(units)

        monkeypatch.setattr(spine.journal, "commit", commit)
        with pytest.raises(Conflict, match="changed by others all the time"):
            await versions.change(spine.journal, NAME, lambda now: now and versions.switched(now, 1))
        assert await active(spine) == 2


# --- code that has changed under a version ------------------------------------------------------------------------------


def _doubling(**options: Any) -> Service[Any]:
    """Another release, whose author forgot to raise the version."""
    reports = Service[Any]("reports")

    @reports.projection(OrdersByCustomer, OrderPlaced, name="count", **options)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        row = view.row(event.customer_id)
        row.orders += 2
        row.spent += event.amount

    return reports


def _only_written_otherwise(**options: Any) -> Service[Any]:
    reports = Service[Any]("reports")

    @reports.projection(OrdersByCustomer, OrderPlaced, name="count", timeout_s=7.0, **options)
    def tally(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        """Count them."""
        row = view.row(
            event.customer_id,
        )  # the customer
        row.orders += 1
        row.spent += event.amount

    return reports


async def test_a_projection_that_became_another_under_its_version_is_told_once(
    journal: Callable[[], Journal], caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for release in (counting, counting, _only_written_otherwise, _doubling, _doubling, counting):
        caplog.clear()
        async with Spine(journal(), service=publisher()) as spine, spine.running(release()):
            pass
        told.append(sum("is other code than version 1" in line for line in caplog.messages))
    assert [0, 0, 0, 1, 0, 1] == told


def test_a_default_that_became_another_is_other_code() -> None:
    from eventspine.state.code import code_of
    from eventspine.state.views import describe_view

    def made(default: int) -> str:
        cls = type(View)("Some", (View,), {"__annotations__": {"a": str, "n": int}, "n": default}, key="a")
        return code_of(describe_view(cls), _doubling)

    assert made(0) == made(0) != made(1)
    assert code_of(describe_view(OrdersByCustomer), lambda view, event: None) == ""
    assert code_of(describe_view(OrdersByCustomer), len) == ""


def test_two_projections_of_one_view_are_refused_with_both_ways_out() -> None:
    reports = counting()
    with pytest.raises(
        DeclarationError, match=r"count and again would both keep OrdersByCustomer.*@reports\.projection"
    ):

        @reports.projection(OrdersByCustomer, OrderPlaced)
        def again(view: View[OrdersByCustomer], event: OrderPlaced) -> None: ...
