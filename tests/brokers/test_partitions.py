"""R12: the number of partitions is changed as docs/how-to/brokers.md says, and no key loses its order; otherwise it is refused.

A partition's messages of before and after are ordered by nothing at the broker, so all of before is brought in first. What is
parked is in the subscriber's journal by then, and the events of its key queue behind it, wherever they came from."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import aio_pika
import nats
import pytest
from nats.js.api import StreamConfig

from eventspine import Event, Retry, Service, Spine
from eventspine.brokers import _nats_intake, open_broker
from eventspine.brokers.port import Broker, Needs
from eventspine.testing.conformance.brokers.carried import apart
from eventspine.testing.servers import Server

BEFORE, AFTER = 4, 6
KEYS, EACH, FAILING = 30, 5, "c7"
WAIT_S = 90.0


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int


storefront = Service("storefront", publishes="orders")


@dataclass
class Books:
    """Each subscriber that runs counts into the same ones, as its process would in a database of its own."""

    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    failing: bool = True

    def service(self, start: Literal["earliest", "now"] = "earliest") -> Service[None]:
        inventory: Service[None] = Service("inventory")

        @inventory.on(
            Placed, start=start, errors={RuntimeError: Retry(attempts=1000, first_s=0.2, factor=1, most_s=0.2)}
        )
        async def count(event: Placed) -> None:
            if event.customer == FAILING and self.failing:
                raise RuntimeError("the shelf is locked")
            self.numbers[event.customer].append(event.number)

        return inventory

    @property
    def counted(self) -> int:
        return sum(map(len, self.numbers.values()))


async def nats_partitions(url: str, prefix: str) -> None:
    client = await nats.connect(url.partition("?")[0])
    try:
        js = client.jetstream()
        (name,) = [
            info.config.name for info in await js.streams_info() if f"{prefix}orders.p0" in (info.config.subjects or ())
        ]
        config: StreamConfig = (await js.stream_info(name)).config
        config.subjects = [f"{prefix}orders.p{number}" for number in range(AFTER)]
        await js.update_stream(config)
    finally:
        await client.close()


async def rabbitmq_partitions(url: str, prefix: str) -> None:
    connection = await aio_pika.connect(url.partition("?")[0])
    async with connection:
        channel = await connection.channel()
        for number in range(BEFORE):
            queue = await channel.declare_queue(f"{prefix}inventory.orders.p{number:03d}", passive=True)
            assert 0 == queue.declaration_result.message_count
            await queue.delete(if_unused=False, if_empty=False)
        await channel.exchange_delete(f"{prefix}inventory.orders.slots")


CHANGES: dict[str, Callable[[str, str], Awaitable[None]]] = {"nats": nats_partitions, "rabbitmq": rabbitmq_partitions}


@dataclass
class Place:
    url: str
    folder: Path
    change: Callable[[str, str], Awaitable[None]]

    def broker(self, partitions: int) -> str:
        return f"{self.url}&partitions={partitions}"

    @asynccontextmanager
    async def both(self, books: Books, partitions: int) -> AsyncIterator[Spine]:
        """A subscriber, then a publisher; ended the other way round, when nothing is on its way."""
        service, broker = books.service(), self.broker(partitions)
        async with (
            Spine(f"sqlite:///{self.folder}/inventory.db", broker=broker) as ours,
            ours.running(service),
            Spine(f"sqlite:///{self.folder}/storefront.db", service=storefront, broker=broker) as theirs,
            theirs.running(storefront),
        ):
            yield theirs


@pytest.fixture(params=CHANGES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    server = request.getfixturevalue(f"{request.param}_server")
    return Place(apart(server.url), tmp_path, CHANGES[request.param])


async def publish(spine: Spine, first: int) -> None:
    for number in range(first, first + EACH):
        await spine.publish(*(Placed(customer=f"c{customer}", number=number) for customer in range(KEYS)))


async def until(books: Books, count: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while books.counted < count:
            await asyncio.sleep(0.05)


async def test_r12_partitions_are_changed_as_the_procedure_says_and_every_key_keeps_its_order(place: Place):
    books = Books()
    async with place.both(books, BEFORE) as spine:
        await publish(spine, 0)
        await until(books, (KEYS - 1) * EACH)

    await place.change(place.url, place.url.rpartition("prefix=")[2])

    async with place.both(books, AFTER) as spine:
        await publish(spine, EACH)
        await until(books, (KEYS - 1) * EACH * 2)
        books.failing = False
        await until(books, KEYS * EACH * 2)
    assert {f"c{customer}": list(range(2 * EACH)) for customer in range(KEYS)} == dict(books.numbers)


async def test_r12_another_number_in_the_url_changes_nothing_at_the_broker_and_work_goes_on_with_what_is_there(
    place: Place,
):
    books = Books(failing=False)
    async with place.both(books, BEFORE) as spine:
        await publish(spine, 0)
        await until(books, KEYS * EACH)
    async with place.both(books, AFTER) as spine:
        await publish(spine, EACH)
        await until(books, KEYS * EACH * 2)
    assert {f"c{customer}": list(range(2 * EACH)) for customer in range(KEYS)} == dict(books.numbers)

    needs = Needs(["orders"], [("orders", "inventory.orders")])
    async with opened(place.broker(AFTER)) as broker:
        assert [] == await broker.apply(needs)
        (left,) = await broker.differences(needs)
        assert (f"{BEFORE} partitions", False) == (left.found.partition(",")[0], left.safe)
    async with opened(place.broker(BEFORE)) as broker:
        assert [] == await broker.differences(needs)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Broker]:
    broker = open_broker(url)
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


@pytest.mark.parametrize("at_work", [True, False], ids=["at work", "stopped"])
async def test_partitions_that_somebody_adds_are_read_from_their_first_message_on(
    nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_work: bool
):
    """By whoever reads at that moment, too, and whatever start= said of what there was before."""
    monkeypatch.setattr(_nats_intake, "LOOK_S", 0.2)
    url, books = apart(nats_server.url), Books(failing=False)
    broker = f"{url}&partitions={BEFORE}"

    @asynccontextmanager
    async def reading() -> AsyncIterator[None]:
        async with Spine(f"sqlite:///{tmp_path}/inventory.db", broker=broker) as ours:
            async with ours.running(books.service("now")):
                yield

    async def publishes(first: int) -> None:
        async with Spine(f"sqlite:///{tmp_path}/storefront.db", service=storefront, broker=broker) as theirs:
            await publish(theirs, first)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(reading())
        await publishes(0)
        await until(books, KEYS * EACH)
        if not at_work:
            await stack.aclose()
        await nats_partitions(url, url.rpartition("prefix=")[2])
        await publishes(EACH)
        if not at_work:
            await stack.enter_async_context(reading())
        await until(books, 2 * KEYS * EACH)
    assert {f"c{customer}": list(range(2 * EACH)) for customer in range(KEYS)} == dict(books.numbers)
