"""A view as it was: at a position, by what had happened, by what had been recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from eventspine import Service, Spine, View
from eventspine.errors import SettingsError, ViewRefused
from eventspine.journal.port import Journal

from .material import OrderPlaced, OrdersByCustomer, counting, publisher


def day(number: int) -> datetime:
    return datetime(1997, 6, number, tzinfo=UTC)


@pytest.fixture
async def spine(journal: Callable[[], Journal]) -> AsyncIterator[Spine]:
    """Orders of the 1st, the 3rd and the 2nd of June, in this order."""
    service = counting()
    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        for number, amount in ((1, 1), (3, 10), (2, 100)):
            await spine.publish(OrderPlaced(amount=Decimal(amount)), time=day(number))
        await spine.publish(OrderPlaced(customer_id="bob"), time=day(5))
        yield spine


async def test_at_each_position(spine: Spine) -> None:
    view = spine.view(OrdersByCustomer)
    rows = [(await view.as_of(position)).get("ann") for position in (0, 1, 2, 3, 4)]
    assert [None, 1, 11, 111, 111] == [None if row is None else row.spent for row in rows]
    assert 4 == (await view.as_of(4)).position


async def test_a_position_that_is_yet_to_come_is_no_past(spine: Spine) -> None:
    with pytest.raises(ViewRefused, match="no position 99 yet: the feed ends at 4"):
        await spine.view(OrdersByCustomer).as_of(99)


async def test_by_what_had_happened_whenever_it_was_recorded(spine: Spine) -> None:
    view = spine.view(OrdersByCustomer)
    rows = [(await view.as_of(day(number))).get("ann") for number in (1, 2, 3)]
    assert [1, 101, 111] == [row.spent for row in rows if row is not None]
    assert 0 == len(await view.as_of(datetime(1997, 5, 31, tzinfo=UTC)))


async def test_by_what_had_been_recorded(spine: Spine) -> None:
    view = spine.view(OrdersByCustomer)
    assert 0 == len(await view.as_of(day(9), by="recorded"))  # nothing of it had been written down in 1997
    assert 2 == len(await view.as_of(datetime.now(UTC) + timedelta(minutes=1), by="recorded"))


async def test_it_equals_the_view_that_is_kept(spine: Spine) -> None:
    view = spine.view(OrdersByCustomer)
    await view.wait(*[one.id for one in await _events(spine)], timeout_s=20)
    then = await view.as_of(await spine.journal.head())
    assert await view.all() == then.all()
    assert await view.all(orders=3, order_by="-spent", limit=1) == then.all(orders=3, order_by="-spent", limit=1)


async def _events(spine: Spine) -> list[Any]:
    from eventspine import Envelope

    return [Envelope(record) for record in (await spine.journal.feed(0, limit=10)).records]


@pytest.mark.parametrize(("when", "by"), [(-1, "happened"), (True, "happened"), ("1997", "happened"), (datetime(1997, 6, 1), "happened"), (1, "written")])  # noqa: DTZ001  # fmt: skip
async def test_what_is_no_point_in_time_is_refused(spine: Spine, when: Any, by: Any) -> None:
    with pytest.raises(SettingsError):
        await spine.view(OrdersByCustomer).as_of(when, by=by)


async def test_a_view_whose_projection_is_not_known_here_says_so(spine: Spine) -> None:
    class Elsewhere(View, key="a"):
        a: int

    with pytest.raises(ViewRefused, match="Import the module that declares it"):
        await spine.view(Elsewhere).as_of(1)


async def test_trap_28_the_past_is_not_told_without_what_retention_has_deleted(database: Callable[[], Journal]) -> None:
    async with Spine(database(), service=publisher()) as spine, spine.running(counting()):
        receipts = await spine.publish(*[OrderPlaced() for _ in range(10)])
        await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=20)
        await spine.journal.sweep("orders", after=0, upto=5, limit=100)
        with pytest.raises(ViewRefused, match="were deleted"):
            await spine.view(OrdersByCustomer).as_of(8)


async def test_a_value_that_its_column_can_t_keep_is_refused_as_it_is_of_the_view_that_is_kept(spine: Spine) -> None:
    class Wrong(View, key="customer_id"):
        customer_id: str
        orders: int = 0

    service = Service[Any]("wrong")

    @service.projection(Wrong, OrderPlaced)
    def count(view: View[Wrong], event: OrderPlaced) -> None:
        view.row(event.customer_id).orders = "many"  # type: ignore[assignment]

    with pytest.raises(ViewRefused, match="orders"):
        await spine.view(Wrong).as_of(1)
    then = await spine.view(OrdersByCustomer).as_of(1)
    with pytest.raises(ViewRefused, match="orders"):
        then.all(orders="many")
