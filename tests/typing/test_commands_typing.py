"""Commands as a user's checker sees them: the result of `send` is what the command says.

Each line that is wrong on purpose carries what the checkers say; an ignore that nothing needs is itself an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NewType, assert_type

from eventspine import Command, Delivery, Event, Service, Spine, sync

OrderId = NewType("OrderId", str)


class Placed(Event, context="orders"):
    order_id: str


class PlaceOrder(Command[OrderId], context="orders", key="customer_id", version=2):
    customer_id: str
    units: int = 1


class Cancel(Command[None], context="orders"):
    order_id: str


class Clients:
    name: str = "mailer"


@asynccontextmanager
async def clients() -> AsyncGenerator[Clients, None]:
    yield Clients()


orders = Service("orders", lifespan=clients)


@orders.command(PlaceOrder, timeout_s=5, conflict_tries=3)
async def place(command: PlaceOrder, delivery: Delivery[Clients]) -> OrderId:
    assert_type(command.units, int)
    assert_type(delivery.resources, Clients)
    delivery.publish(Placed(order_id="1"))
    return OrderId("1")


assert_type(place, Callable[[PlaceOrder, Delivery[Clients]], Coroutine[Any, Any, OrderId]])

included = Service("orders")


@included.command(Cancel)
def cancel(command: Cancel) -> None: ...


@included.command(PlaceOrder)
def blocking(command: PlaceOrder, delivery: sync.Delivery) -> OrderId:
    return OrderId(command.customer_id)


async def sending(spine: Spine) -> None:
    assert_type(await spine.send(PlaceOrder(customer_id="a")), OrderId)
    assert_type(await spine.send(PlaceOrder(customer_id="a", units=2), command_id="k"), OrderId)
    await spine.send(Cancel(order_id="1"))


def sending_without_a_loop(spine: sync.Spine) -> None:
    assert_type(spine.send(PlaceOrder(customer_id="a"), command_id="k"), OrderId)


def what_is_wrong(spine: sync.Spine) -> None:
    PlaceOrder("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    PlaceOrder(customer_id=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    PlaceOrder(customer_id="a").units = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    spine.send(Placed(order_id="1"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    wrong = Service("orders")

    @wrong.command(PlaceOrder)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def number(command: PlaceOrder) -> int:
        return 1

    @wrong.command(Cancel)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    async def other(command: PlaceOrder) -> None: ...
