"""`eventspine.integrations.django` as a user's checker sees it. Each line that is wrong on purpose carries what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from eventspine import Aggregate, Command, Event, Receipt, Service, View
from eventspine.integrations.django import (
    apublish,
    asend,
    atomic_delivery,
    cancel,
    change,
    load,
    publish,
    save,
    send,
    view as view_of,
)
from eventspine.sync import Delivery


class Placed(Event, context="orders", key="sku"):
    sku: str


class Reserved(Event, context="warehouse", key="sku"):
    sku: str


warehouse = Service("warehouse")


@warehouse.on(Placed)
@atomic_delivery
def reserve(event: Placed) -> Reserved:
    return Reserved(sku=event.sku)


@warehouse.on(Placed)
@atomic_delivery
def pack(event: Placed, delivery: Delivery) -> None:
    delivery.publish(Reserved(sku=event.sku))


def test_the_decorator_leaves_the_handler_what_it_is() -> None:
    assert {"reserve", "pack"} == set(warehouse.handlers)


if TYPE_CHECKING:

    async def view() -> None:
        assert_type(publish(Placed(sku="a")), Receipt)
        assert_type(publish(Placed(sku="a"), Placed(sku="b")), list[Receipt])
        assert_type(await apublish(Placed(sku="a")), Receipt)
        assert_type(await apublish(Placed(sku="a"), Placed(sku="b")), list[Receipt])
        assert_type(reserve(Placed(sku="a")), Reserved)
        assert_type(cancel(publish(Placed(sku="a"))), int)

    @warehouse.on(Placed)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    @atomic_delivery
    def wrong(event: Reserved) -> None: ...

    class Place(Command[int], context="orders"):
        sku: str

    class Shelf(Aggregate):
        free: int = 0

    class Free(View, key="sku"):
        sku: str

    assert_type(send(Place(sku="a"), command_id="k"), int)
    assert_type(load(Shelf, "a", at_version=1), Shelf)
    assert_type(change(Shelf, "a", lambda shelf: None, new=True).aggregate, Shelf)
    assert_type(save(Shelf("a")), list[Receipt])
    assert_type(view_of(Free).get("a"), Free | None)

    async def sending() -> None:
        assert_type(await asend(Place(sku="a")), int)
