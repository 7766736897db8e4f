"""Read your writes: a view is waited for until it has come to an event, and says what is in its way when it does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from eventspine import Event, Service, Spine, View
from eventspine.errors import SettingsError, ViewBehind, ViewRefused
from eventspine.journal.port import Journal, SetState

from .material import ONCE, OrderCancelled, OrderPlaced, OrdersByCustomer, counting, publisher, spent, until


async def test_trap_32_what_was_waited_for_is_read(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        for amount in range(1, 20):
            receipt = await spine.publish(OrderPlaced(amount=Decimal(1)))
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=20)
            assert await spent(spine) == amount


async def test_trap_32_an_event_that_the_view_does_not_want_is_passed_and_waited_for_as_well(
    journal: Callable[[], Journal],
) -> None:
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        receipts = [await spine.publish(event) for event in (OrderPlaced(), OrderCancelled())]
        await spine.view(OrdersByCustomer).wait(*receipts, receipts[-1].id, timeout_s=20)


async def test_behind_says_how_far_it_is(journal: Callable[[], Journal]) -> None:
    service = counting()
    async with Spine(journal(), service=publisher()) as spine:
        async with spine.running(service):
            await spine.view(OrdersByCustomer).wait(await spine.publish(OrderPlaced()), timeout_s=20)
        receipts = await spine.publish(*[OrderPlaced() for _ in range(3)])
        with pytest.raises(ViewBehind, match=r"is at position 1, and the event at 4 \(3 to go\)") as caught:
            await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=0.01)
        assert (3, 4, 1) == tuple(caught.value.details[name] for name in ("events", "position", "reached"))


async def test_a_projection_that_stands_at_a_poison_event_is_said_to_stand(journal: Callable[[], Journal]) -> None:
    service = Service("reports")

    @service.projection(OrdersByCustomer, OrderPlaced, retry=ONCE)
    def count(view: View[OrdersByCustomer], event: OrderPlaced) -> None:
        raise ValueError("not yet")

    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        receipt = await spine.publish(OrderPlaced())
        await until(lambda: spine.journal.deliveries(states=["dead"]))
        with pytest.raises(
            ViewBehind, match=r"stands at the event 1, which failed \(ValueError\) and is dead. See `spine dead show"
        ):
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=0.05)


async def test_a_paused_one_is_said_to_be_paused(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        (stored,) = await spine.journal.subscriptions("reports")
        await spine.journal.control([SetState(stored.number, "paused")])
        receipt = await spine.publish(OrderPlaced())
        with pytest.raises(ViewBehind, match=r"reports.count is paused"):
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=0.05)


async def test_nobody_keeps_it(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine:
        receipt = await spine.publish(OrderPlaced())
        with pytest.raises(ViewBehind, match="nobody has kept it on this journal yet"):
            await spine.view(OrdersByCustomer).wait(receipt, timeout_s=0.01)


async def test_an_event_that_is_not_here_is_said_not_to_be_here(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        with pytest.raises(ViewBehind, match="is not in this journal's feed"):
            await spine.view(OrdersByCustomer).wait("01a20a97-b5a7-7a67-9b35-6a1665294cb2", timeout_s=0.01)


async def test_what_can_not_be_waited_for_is_refused(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        view = spine.view(OrdersByCustomer)
        later = await spine.publish(OrderPlaced(), after=timedelta(hours=1))
        with pytest.raises(ViewRefused, match="is scheduled for"):
            await view.wait(later)
        for wrong in ((), (7,)):
            with pytest.raises(SettingsError, match="takes receipts"):
                await view.wait(*wrong)  # type: ignore[arg-type]


async def test_an_event_that_comes_over_a_broker_is_waited_for_in_the_same_words() -> None:
    """The receipt is of another journal; what it names is the event."""
    from eventspine.brokers.memory import MemoryBroker, Server
    from eventspine.journal.memory import MemoryJournal

    server = Server("waiting")
    async with (
        Spine(MemoryJournal(), service=publisher(), broker=MemoryBroker(server)) as there,
        Spine(MemoryJournal(), service=Service("reports"), broker=MemoryBroker(server)) as here,
        here.running(counting()),
    ):
        receipt = await there.publish(OrderPlaced(amount=Decimal(5)))
        await here.view(OrdersByCustomer).wait(receipt, timeout_s=20)
        assert await spent(here) == 5


# --- tenants ----------------------------------------------------------------------------------------------------------


class Bought(Event, context="orders", key="who", tenant="shop"):
    shop: str
    who: str


class Bills(View, key="who", tenant="shop"):
    shop: str
    who: str
    items: int = 0


def billing() -> Service[Any]:
    reports = Service[Any]("reports")

    @reports.projection(Bills, Bought)
    def count(view: View[Bills], event: Bought) -> None:
        view.row(event.who).items += 1

    return reports


async def test_trap_22_no_tenant_sees_another_s_rows(journal: Callable[[], Journal]) -> None:
    async with Spine(journal(), service=publisher()) as spine, spine.running(billing()):
        bought = [Bought(shop=shop, who="ann") for shop in ("a", "a", "b", "a:ann", "a")]
        await spine.view(Bills, tenant="a").wait(*await spine.publish(*bought), timeout_s=20)
        for shop, items in {"a": 3, "b": 1, "a:ann": 1}.items():
            view = spine.view(Bills, tenant=shop)
            assert [Bills(shop=shop, who="ann", items=items)] == await view.all()
            assert await view.get("ann") == Bills(shop=shop, who="ann", items=items)
            assert [Bills(shop=shop, who="ann", items=items)] == await view.all(
                shop="b"
            )  # it can't be asked for others
            if spine.journal.sql:
                assert [{"items": items}] == await view.query("select sum(items) as items from bills")
        with pytest.raises(ViewRefused, match=r"a reader sees those of one: spine.view\(Bills, tenant="):
            spine.view(Bills)


class Currency(Enum):
    EURO = "eur"
    POUND = "gbp"


@pytest.mark.parametrize(
    ("kind", "own", "other"),
    [(UUID, UUID(int=1), UUID(int=2)), (date, date(2026, 1, 1), date(2026, 1, 2)), (int, 1, 2), (Currency, *Currency)],
)
async def test_a_tenant_may_be_of_any_type_that_a_key_may_be_of(
    journal: Callable[[], Journal], kind: Any, own: Any, other: Any
) -> None:
    class Sold(Event, context="orders", key="who", tenant="shop"):
        shop: kind
        who: str = "ann"

    class Sales(View, key="who", tenant="shop"):
        shop: kind
        who: str
        items: int = 0

    reports = Service[Any]("reports")

    @reports.projection(Sales, Sold)
    def count(view: View[Sales], event: Sold) -> None:
        view.row(event.who).items += 1

    async with Spine(journal(), service=publisher()) as spine, spine.running(reports):
        view, row = spine.view(Sales, tenant=own), Sales(shop=own, who="ann", items=2)
        await view.wait(*await spine.publish(Sold(shop=own), Sold(shop=other), Sold(shop=own)), timeout_s=20)
        then = await view.as_of(await spine.journal.head())
        assert [await view.get("ann"), then.get("ann")] == [row, row]
        assert [await view.all(), then.all()] == [[row], [row]]
        if spine.journal.sql:
            assert [{"items": 2}] == await view.query("select sum(items) as items from sales")
        with pytest.raises(ViewRefused, match="its column keeps"):
            spine.view(Sales, tenant=0.5)
