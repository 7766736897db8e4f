"""Every kind of handler there is, and every way out of one."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

from eventspine import Batch, BatchDelivery, Dead, Delivery, Drop, Event, Reject, Retry, RetryAfter, Service
from eventspine.sync import Delivery as SyncDelivery
from eventspine.testing.simulate import World

SENT = 14
SCHEDULED = 2
OPERATIONS = 20


class Sent(Event, context="post", key="to"):
    to: str
    number: int


class Stamped(Event, context="post", key="to"):
    to: str
    number: int


class Reminded(Event, context="reminders", key="to"):
    to: str
    number: int


class Hurried(Event, context="post", key="to"):
    to: str
    number: int


class Refused(Exception): ...


class Dull(Exception): ...


QUICK = Retry(attempts=4, immediate=1, first_s=1, most_s=5)


def tables(connection):
    connection.execute("create table letters (number integer primary key, stamps integer not null)")
    connection.execute("create table counted (receiver text primary key, letters integer not null)")


office = Service("office", publishes=["post", "reminders"], tables=tables)


@office.on(Sent)
async def stamp(event: Sent, delivery: Delivery) -> Stamped:
    """Writes, asks, publishes now and later."""
    delivery.execute("insert into letters values (:number, 1)", number=event.number)
    known = await delivery.query("select count(*) as n from letters")
    assert known[0]["n"] <= SENT + SCHEDULED
    if event.number % 5 == 0:
        delivery.publish(Reminded(to=event.to, number=event.number), after=timedelta(seconds=20))
    return Stamped(to=event.to, number=event.number)


@office.on(Sent)
async def count(event: Sent, delivery: Delivery) -> None:
    """Reads its own writes."""
    async with delivery.transaction() as writing:
        await writing.execute("insert or ignore into counted values (:to, 0)", to=event.to)
        (row,) = await writing.query("select letters from counted where receiver = :to", to=event.to)
        await writing.execute("update counted set letters = :n where receiver = :to", n=row["letters"] + 1, to=event.to)


@office.on(Stamped)
def weigh(event: Stamped, delivery: SyncDelivery) -> None:
    """In a thread, and asks."""
    (row,) = delivery.query("select stamps from letters where number = :number", number=event.number)
    assert row["stamps"] == 1
    with delivery.transaction() as writing:
        writing.execute("update letters set stamps = stamps where number = :number", number=event.number)


@office.on(Stamped)
def glance(event: Stamped) -> None: ...


@office.on(Sent, errors={Refused: Dead, Dull: Drop}, retry=QUICK)
async def sort(event: Sent, delivery: Delivery) -> None:
    """Each way to fail, by number."""
    match event.number % 7:
        case 1:
            raise Refused
        case 2:
            raise Dull
        case 3 if delivery.attempt == 1:
            raise RetryAfter(5)
        case 4 if not delivery.late:
            raise Reject("not now")
        case 5 if delivery.attempt < 3:
            raise ValueError(event.number)


@office.on(Sent, retry=QUICK, on_dead="waits")
async def insist(event: Sent, delivery: Delivery) -> None:
    """A dead one keeps its key waiting."""
    if event.number == 6 and not delivery.late:
        raise ValueError(event.number)


@office.on(Sent, batch=Batch(4, within_ms=50), retry=QUICK)
async def bundle(events: list[Sent], delivery: BatchDelivery) -> None:
    """A run of which some fail and one is given up."""
    for event in events:
        if event.number == 8:
            delivery.dead(event, "too heavy")
        elif event.number % 6 == 5 and delivery.of(event).attempt == 1:
            delivery.retry(event, ValueError("again"))


@office.on(Stamped, Reminded, order="none", concurrency=3)
async def scatter(event: Stamped | Reminded) -> None: ...


@office.on(Sent, Stamped, order="feed")
async def log(event: Sent | Stamped) -> None: ...


@office.on(Sent, timeout_s=4)
async def hurry(event: Sent) -> Hurried | None:
    """Runs out of time when the simulator slows it; changes something now and then, and may follow one that has not."""
    return Hurried(to=event.to, number=event.number) if event.number % 2 else None


@office.every(seconds=15)
async def sweep(delivery: Delivery) -> None: ...


async def letters(world: World) -> None:
    await _send(world)
    await world.sleep(minutes=1)
    await world.replay_dead()
    await world.sleep(minutes=1)
    await world.replay_dead()


async def letters_beside_an_operator(world: World) -> None:
    await asyncio.gather(_send(world), operate(world))


async def operate(world: World) -> None:
    """Replays all that is dead, or drops it: at any time, and more often than anybody would."""
    chance = random.Random(world.seed)
    for _ in range(OPERATIONS):
        await world.sleep(seconds=chance.choice((0.1, 2, 20)) * chance.random())
        await chance.choice((world.replay_dead, world.drop_dead))()


async def _send(world: World) -> None:
    for number in range(SENT):
        await world.publish(Sent(to=f"r{number % 3}", number=number))
        await world.sleep(seconds=1.5 * (number % 3 == 0))
    for number in range(SENT, SENT + SCHEDULED):
        await world.publish(Sent(to="r1", number=number), after=timedelta(seconds=10 * number))


def letters_are_counted_once(world: World) -> None:
    counted = sum(row["letters"] for row in world.query("select letters from counted"))
    done = {effect.position for effect in world.effects if effect.subscription == "office.count"}
    assert counted == len(done), f"{counted} letters were counted in {len(done)} deliveries"


def reminders_come_once(world: World) -> None:
    numbers = [event.number for event in world.published(Reminded)]
    assert len(numbers) == len(set(numbers)), numbers
