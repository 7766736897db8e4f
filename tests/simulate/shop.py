"""A small shop to simulate: two services that answer one another, with tables, a batch and a `def` handler."""

from __future__ import annotations

from eventspine import Batch, Delivery, Event, Service
from eventspine.sync import Delivery as SyncDelivery
from eventspine.testing.simulate import World

ORDERS = 12


class OrderPlaced(Event, context="orders", key="customer"):
    customer: str
    number: int


class StockReserved(Event, context="stock", key="customer"):
    customer: str
    number: int


def tables(connection):
    connection.execute("create table stock_taken (number integer not null)")


stock = Service("stock", tables=tables)
books = Service("books")


@stock.on(OrderPlaced)
async def reserve(event: OrderPlaced, delivery: Delivery) -> StockReserved:
    delivery.execute("insert into stock_taken values (:number)", number=event.number)
    return StockReserved(customer=event.customer, number=event.number)


@books.on(StockReserved)
async def enter(event: StockReserved) -> None: ...


@books.on(OrderPlaced, batch=Batch(5, within_ms=20))
async def tally(events: list[OrderPlaced]) -> None: ...


@books.on(StockReserved, on_dead="waits", order="feed")
def audit(event: StockReserved, delivery: SyncDelivery) -> None: ...


async def orders(world: World) -> None:
    for number in range(ORDERS):
        await world.publish(OrderPlaced(customer=f"c{number % 3}", number=number))
        await world.sleep(seconds=0.5 * (number % 4 == 0))


def each_order_takes_stock_once(world: World) -> str | None:
    taken = sorted(row["number"] for row in world.query("select number from stock_taken"))
    answered = world.published(StockReserved)
    dead = [dead for dead in world.dead if dead.handler == "stock.reserve"]
    if len(taken) != len(set(taken)) or len(taken) != len(answered) or len(taken) + len(dead) < ORDERS:
        return f"{ORDERS} orders, {len(taken)} times stock was taken, {len(answered)} answers"
    return None
