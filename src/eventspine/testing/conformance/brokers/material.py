"""What the tests of brokers are made of: events, services that write down what they handle, and waiting for a condition.

Whoever publishes and whoever handles have a spine each, as processes of their own would: a site may give them journals of their
own. What was handled, what is dead and how far somebody has come is asked of the spine that handles."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ....brokers.embedded import Intake
from ....delivery import Delivery
from ....events import Event, describe
from ....journal.port import Append, Delivery as Row, Record, Subscription
from ....policies import Retry
from ....publishing import Receipt
from ....service import Service
from ....spine import Spine
from ..journals.material import event as record_like
from .site import BrokerSite

WAIT_S = 40.0  # the longest that a test waits for a condition; nothing waits that long unless it fails
SOON = Retry(attempts=6, immediate=0, first_s=0.05, factor=1.0, most_s=0.05)


class Said(Event, context="talk", key="who"):
    who: str
    number: int
    text: str = ""
    data: bytes = b""


class Shouted(Event, context="noise", key="who"):
    who: str
    number: int


class Heard(Event, context="hearing", key="who"):
    """What a handler publishes in its unit."""

    who: str
    number: int


def speaker() -> Service[None]:
    return Service("speaker", publishes=["talk", "noise"])


class Log:
    """What handlers did, in the order in which they did it: effects outside of a unit."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, int]] = []
        self.attempts: list[int] = []
        self.times: list[float] = []
        self.keys: list[str] = []
        self.positions: list[int] = []  # in the feed that the handler reads

    def note(self, event: Any, delivery: Delivery[Any] | None = None) -> None:
        self.handled.append((event.who, event.number))
        self.times.append(time.monotonic())
        if delivery is not None:
            self.attempts.append(delivery.attempt)
            self.keys.append(delivery.idempotency_key)
            self.positions.append(delivery.record.position)

    def of(self, who: str) -> list[int]:
        return [number for name, number in self.handled if name == who]

    def in_order(self) -> bool:
        """Of every key. Who loses a lease meanwhile may begin something once more, which is no effect of a unit."""
        return all(
            list(dict.fromkeys(numbers)) == sorted(set(numbers))
            for numbers in map(self.of, {who for who, _ in self.handled})
        )

    def once_in_order(self) -> bool:
        """As long as nobody vanishes in the middle of something."""
        return self.in_order() and len(self.handled) == len(set(self.handled))


def effect(delivery: Delivery[Any], event: Said, number: int | None = None) -> None:
    """A `Heard` that commits with the unit, under an id that is new in every run. What a handler returns has the same id each
    time, so the journal would take the effect of a second run for the first's."""
    heard = Heard(who=event.who, number=event.number if number is None else number)
    record = delivery._subscription.record_of(heard, uuid.uuid4().bytes, None, delivery)
    delivery._changeable().appends.append(Append([record]))


def listener(log: Log, name: str = "listener", **options: Any) -> Service[None]:
    """Writes down what it handles, with an effect for each."""
    service: Service[None] = Service(name, publishes="hearing")

    async def hear(event: Said, delivery: Delivery) -> None:
        log.note(event, delivery)
        effect(delivery, event)

    service.on(Said, **options)(hear)
    return service


async def say(spine: Spine, numbers: Sequence[int], who: str = "ann") -> list[Receipt]:
    said = [Said(who=who, number=number) for number in numbers]
    if len(said) == 1:
        return [await spine.publish(said[0])]
    return await spine.publish(said[0], said[1], *said[2:])


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, f"waited {WAIT_S:g} s in vain for {what}"
        await asyncio.sleep(0.005)  # between two looks


async def subscription(spine: Spine, name: str) -> Subscription:
    return next(row for row in await spine.journal.subscriptions() if row.name == name)


def in_memory(spine: Spine, service: str) -> int:
    """Bytes of events that its handlers have there."""
    services = [one for one in spine.health()["services"] if one["service"] == service]
    return sum(row["in_memory_bytes"] for one in services for row in one["subscriptions"])


async def rows(spine: Spine, state: Any) -> list[Row]:
    return await spine.journal.deliveries(states=[state])


async def until_rows(spine: Spine, state: Any, number: int) -> list[Row]:
    give_up = time.monotonic() + WAIT_S
    while len(found := await rows(spine, state)) != number:
        assert time.monotonic() < give_up, f"waited in vain for {number} {state} deliveries; there are {len(found)}"
        await asyncio.sleep(0.005)
    return found


async def heard(spine: Spine) -> Counter[tuple[str, int]]:
    """All effects that were committed."""
    found: Counter[tuple[str, int]] = Counter()
    after, more = 0, True
    kind = describe(Heard)
    while more:
        page = await spine.journal.feed(after, limit=500, types=[kind.name])
        events = [kind.decode(record.data) for record in page.records]
        found.update((event.who, event.number) for event in events)
        after, more = page.scanned, page.more
    return found


async def until_heard(spine: Spine, number: int) -> Counter[tuple[str, int]]:
    give_up = time.monotonic() + WAIT_S
    while sum((found := await heard(spine)).values()) < number:
        assert time.monotonic() < give_up, f"waited in vain for {number} effects; there are {sum(found.values())}"
        await asyncio.sleep(0.005)
    return found


@asynccontextmanager
async def speaking(site: BrokerSite) -> AsyncIterator[Spine]:
    """A process that publishes."""
    async with site.spine(speaker()) as spine:
        yield spine


@asynccontextmanager
async def listening(site: BrokerSite, *services: Service[Any], drain_s: float | None = None) -> AsyncIterator[Spine]:
    """A process in which these run."""
    async with site.spine(services[0]) as spine, spine.running(*services, drain_s=drain_s):
        yield spine


def record(number: int, **given: Any) -> Record:
    """One of a foreign producer."""
    plain = {"channel": "talk", "type": "talk.Said", "key": "ann", "source": "speaker", "slot": number % 960}
    data = b'{"who":"ann","number":%d}' % number
    return record_like(**{**plain, "data": data, **given})


async def fetched(intake: Intake, number: int, records_max: int = 100) -> list[Record]:
    """Until so many have come."""
    found: list[Record] = []
    give_up = time.monotonic() + WAIT_S
    while len(found) < number:
        page = await intake.fetch(records_max=min(records_max, number - len(found)))
        found += page.records
        assert time.monotonic() < give_up, f"{len(found)} of {number} records came"
        if not page.records:
            await asyncio.sleep(0.005)
    return found
