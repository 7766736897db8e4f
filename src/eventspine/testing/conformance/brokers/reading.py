"""What the tests of the port by itself are made of: messages, a broker that is open, and a reader, which is the intake's owner."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from ....brokers.port import Broker, BrokerIntake, Fetched, Message, Needs, Start
from .carried import CarriedSite
from .material import WAIT_S

CHANNEL = "talk"
ONE, OTHER = f"listener.{CHANNEL}", f"other.{CHANNEL}"  # consumers
QUIET_S = 0.3  # without a message: there is none


def message(
    prefix: str, number: int, slot: int = 0, *, data: bytes | None = None, more: Mapping[str, str] | None = None
) -> Message:
    """`more`: other attributes, or other values of these."""
    plain = {"id": str(uuid.uuid4()), "specversion": "1.0", "source": "speaker", "type": "talk.Said"}
    given = {**plain, **(more or {})}
    named = {prefix + name: value for name, value in given.items()}
    body = b'{"number":%d}' % number if data is None else data
    return Message(CHANNEL, slot, f"key {slot}", given["id"], named, "application/json", body)


def messages(broker: Broker, number: int, slots: int = 1) -> list[Message]:
    return [message(broker.features.prefix, n, n % slots) for n in range(number)]


def large(broker: Broker, bytes_max: int, together: int) -> list[Message]:
    """So many bytes together, in messages of up to half a megabyte."""
    size = min(500_000, bytes_max)
    data = b'"%s"' % (b"x" * (size - 2))
    return [message(broker.features.prefix, n, n, data=data) for n in range(together // size + 1)]


@asynccontextmanager
async def opened(site: CarriedSite, *consumers: str) -> AsyncIterator[Broker]:
    """A connection of its own, with what these consumers need."""
    broker = site.broker()
    await broker.open()
    try:
        await broker.apply(Needs([CHANNEL], [(CHANNEL, consumer) for consumer in consumers or (ONE, OTHER)]))
        yield broker
    finally:
        await broker.close()


async def sent(broker: Broker, *given: Message) -> None:
    """All of them, whatever it takes."""
    rest = list(given)
    give_up = time.monotonic() + WAIT_S
    while rest:
        answers = await broker.send(rest)
        assert len(answers) == len(rest)
        assert time.monotonic() < give_up, f"it does not take them: {answers}"
        rest = [one for one, answer in zip(rest, answers, strict=True) if answer is not None]


class Reader:
    """Begins what is assigned to it, and checks what every fetch has to keep."""

    def __init__(self, broker: Broker, intake: BrokerIntake, start: Start, after: Mapping[int, int]) -> None:
        self.broker = broker
        self.intake = intake
        self.begun: dict[int, int | None] = {}  # with what begin() said
        self._start: Start = start
        self._after = after

    async def begin(self) -> None:
        assigned = self.intake.assigned()
        for partition in sorted(assigned - self.begun.keys()):
            after = self._after.get(partition)
            self.begun[partition] = await self.intake.begin(partition, after=after, start=self._start, epoch=1)

    async def fetch(self, most: int, wait_s: float = 0.25) -> list[Fetched]:
        await self.begin()
        found = list(await self.intake.fetch(most, wait_s))
        assert len(found) <= most
        assert {one.partition for one in found} <= self.begun.keys(), "only of partitions that were begun"
        return found

    async def read(self, number: int, most: int = 100) -> list[Fetched]:
        """Until so many have come."""
        found: list[Fetched] = []
        give_up = time.monotonic() + WAIT_S
        while len(found) < number:
            found += await self.fetch(most)
            assert time.monotonic() < give_up, f"{len(found)} of {number} messages came"
        assert len(found) == number
        return found

    async def read_once(self) -> list[Fetched]:
        """What one fetch gives, as soon as one gives something."""
        give_up = time.monotonic() + WAIT_S
        while not (found := await self.fetch(1000)):
            assert time.monotonic() < give_up, "nothing came"
        return found

    async def nothing(self) -> None:
        assert [] == await self.fetch(100, QUIET_S)

    async def ids(self, number: int) -> list[str]:
        return ids(self.broker, await self.read(number))


@asynccontextmanager
async def reading(
    broker: Broker, consumer: str = ONE, *, start: Start = "earliest", after: Mapping[int, int] | None = None
) -> AsyncIterator[Reader]:
    """A consumer that has something assigned and has begun it."""
    changed = asyncio.Event()
    intake = await broker.intake(CHANNEL, consumer, changed.set)
    reader = Reader(broker, intake, start, after or {})
    try:
        async with asyncio.timeout(WAIT_S):
            while not intake.assigned():
                await intake.fetch(1, 0.05)
        await reader.begin()
        yield reader
    finally:
        await intake.close()


def ids(broker: Broker, fetched: Sequence[Fetched]) -> list[str]:
    return [one.headers[broker.features.prefix + "id"] for one in fetched]


def last(fetched: Sequence[Fetched]) -> dict[int, int]:
    """The highest position of each partition."""
    found: dict[int, int] = {}
    for one in fetched:
        found[one.partition] = max(found.get(one.partition, 0), one.position)
    return found
