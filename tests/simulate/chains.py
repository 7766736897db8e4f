"""Handlers that change something now and then: chains of what follows, with every way out at every place of a chain."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from eventspine import Batch, BatchDelivery, Dead, Delivery, Drop, Event, Reject, RetryAfter, Service
from eventspine.sync import Delivery as SyncDelivery
from eventspine.testing.simulate import World
from tests.simulate.kinds import QUICK, Dull, Refused, operate

SENT = 36


class Dropped(Event, context="post", key="to"):
    to: str
    number: int
    hops: int = 0


class Echo(Event, context="echo", key="to"):
    to: str
    number: int
    hops: int


class Due(Event, context="due", key="to"):
    to: str
    number: int


def tables(connection):
    connection.execute("create table seen (handler text not null, number integer not null)")


mix = Service("mix", publishes=["post", "echo", "due"], tables=tables)


@mix.on(Dropped, retry=QUICK)
async def some(event: Dropped, delivery: Delivery) -> Echo | None:
    """Plain, or an answer."""
    if event.number % 4 == 3:
        delivery.execute("insert into seen values ('some', :n)", n=event.number)
        return Echo(to=event.to, number=event.number, hops=2)
    return None


@mix.on(Dropped, retry=QUICK)
async def locks(event: Dropped, delivery: Delivery) -> None:
    if event.number % 5 == 2:
        async with delivery.transaction() as writing:
            await writing.execute("insert into seen values ('locks', :n)", n=event.number)
            if event.number % 10 == 7 and delivery.attempt == 1:
                raise ValueError("inside")
        if event.number % 15 == 2:
            await asyncio.sleep(0.01)


@mix.on(Dropped, timeout_s=3, retry=QUICK)
async def slow(event: Dropped, delivery: Delivery) -> Due | None:
    """Times out behind plain ones; swallows it now and then, and answers too late."""
    if delivery.attempt == 1 and event.number % 6 == 4:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if event.number % 12 == 4:
                return None
            raise
    if event.number % 6 == 5:
        delivery.publish(Due(to=event.to, number=event.number), after=timedelta(seconds=7))
    return None


@mix.on(Dropped, retry=QUICK, on_dead="waits")
async def insists(event: Dropped, delivery: Delivery) -> None:
    if event.number in (13, 20, 29) and not delivery.late:
        raise Reject("not now")
    if event.number % 9 == 8:
        delivery.execute("insert into seen values ('insists', :n)", n=event.number)


@mix.on(Dropped, retry=QUICK, order="feed", on_dead="waits")
async def feed_waits(event: Dropped, delivery: Delivery) -> None:
    if event.number == 17 and not delivery.late:
        raise Reject("not now")
    if event.number % 7 == 3 and delivery.attempt < 3:
        raise SystemExit(3)


@mix.on(Dropped, errors={Refused: Dead, Dull: Drop}, retry=QUICK)
async def ways(event: Dropped, delivery: Delivery) -> Echo | None:
    match event.number % 9:
        case 1:
            raise Refused
        case 2:
            raise Dull
        case 3 if delivery.attempt == 1:
            raise RetryAfter(5)
        case 4 if not delivery.late:
            raise Reject("not now")
        case 5 if delivery.attempt < 3:
            await asyncio.sleep(0)
            raise ValueError(event.number)
        case 6 if delivery.attempt < 2:
            raise asyncio.CancelledError
        case 7:
            await asyncio.sleep(0.2)
        case 8:
            return Echo(to=event.to, number=event.number, hops=0)
    return None


@mix.on(Echo)
async def again(event: Echo) -> Echo | None:
    """To itself."""
    return Echo(to=event.to, number=event.number, hops=event.hops - 1) if event.hops else None


@mix.on(Dropped, Echo, order="none", concurrency=2)
async def loose(event: Dropped | Echo) -> None: ...


@mix.on(Dropped, Echo, Due, order="feed")
async def all_of_it(event: Dropped | Echo | Due) -> None: ...


@mix.on(Dropped, concurrency=1, retry=QUICK)
async def one(event: Dropped, delivery: Delivery) -> None:
    """One at a time, of all keys."""
    if event.number % 3 == 1:
        delivery.execute("insert into seen values ('one', :n)", n=event.number)
    if event.number % 11 == 10 and delivery.attempt < 2:
        raise ValueError


@mix.on(Dropped, batch=Batch(6, within_ms=30), retry=QUICK)
async def bundle(events: list[Dropped], delivery: BatchDelivery) -> None:
    for event in events:
        if event.number == 8:
            delivery.dead(event, "too heavy")
        elif event.number % 6 == 5 and delivery.of(event).attempt == 1:
            delivery.retry(event, ValueError("again"))


@mix.on(Dropped, retry=QUICK)
def threaded(event: Dropped, delivery: SyncDelivery) -> None:
    if event.number % 4 == 1:
        with delivery.transaction() as writing:
            writing.execute("insert into seen values ('threaded', :n)", n=event.number)


async def bursts(world: World) -> None:
    await _send(world)
    await world.sleep(seconds=20)
    await world.replay_dead()
    await world.sleep(minutes=1)
    await world.replay_dead()
    await _send_late(world)
    await world.replay_dead()


async def bursts_beside_an_operator(world: World) -> None:
    await asyncio.gather(_send(world), operate(world))
    await asyncio.gather(_send_late(world), operate(world))


async def _send(world: World) -> None:
    number = 0
    while number < SENT:
        size = 1 + number % 8
        await world.publish(*[Dropped(to=f"r{n % 2}", number=n) for n in range(number, min(SENT, number + size))])
        number += size
        await world.sleep(seconds=0.7 * (number % 3 == 0))


async def _send_late(world: World) -> None:
    await world.publish(*[Dropped(to="r1", number=SENT + n) for n in range(8)])


def written_once(world: World) -> None:
    rows = world.query("select handler, number, count(*) as n from seen group by 1, 2")
    twice = [row for row in rows if row["n"] > 1]
    assert not twice, f"twice: {twice}"
    found = {(row["handler"], row["number"]) for row in rows}
    every = range(SENT + 8)
    dead = {one.handler for one in (*world.dead, *world.dropped)}
    for handler, wants in {
        "some": [n for n in every if n % 4 == 3],
        "locks": [n for n in every if n % 5 == 2],
        "one": [n for n in every if n % 3 == 1],
        "threaded": [n for n in every if n % 4 == 1],
        "insists": [n for n in every if n % 9 == 8],
    }.items():
        if f"mix.{handler}" not in dead:
            missing = [n for n in wants if (handler, n) not in found]
            assert not missing, f"{handler} left out {missing}"
