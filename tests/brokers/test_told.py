"""A journal that tells who watches of whatever comes next is not asked whether there is more: one look for an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from eventspine import Event, Service, Spine
from eventspine.brokers.memory import server
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Page


class Rung(Event, context="told", key="number"):
    number: int


class Telling(MemoryJournal):
    """Never knows the end of its feed, as SQLite's memory of what it has just committed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    async def feed(self, after: int, **wanted: Any) -> Page:
        page = await super().feed(after, **wanted)
        self.asked.append(after)
        if len(self.asked) > 1_000:
            raise AssertionError("it is asked again and again")
        return page._replace(more=True, told=True) if page.records else page


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


async def quiet() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_subscription_reads_no_further_than_it_was_told() -> None:
    service, handled, journal = Service("bells", publishes="told"), list[int](), Telling()

    @service.on(Rung, start="earliest")
    async def hear(event: Rung) -> None:
        handled.append(event.number)

    async with Spine(journal, service=service) as spine, spine.running(service):
        for number in range(3):
            await quiet()
            before = await journal.head()
            await spine.publish(Rung(number=number))
            await until(lambda wanted=number: len(handled) > wanted)  # type: ignore[misc]
            await quiet()
            assert await journal.head() not in journal.asked, "it was told that there is no need"
            assert before in journal.asked
    assert handled == [0, 1, 2]


async def test_a_relay_looks_no_further_than_it_was_told_but_once_before_it_ends() -> None:
    service, journal, broker = Service("bells", publishes="told"), Telling(), server(uuid4().hex)
    async with Spine(journal, service=service, broker=f"memory://{broker.name}") as spine:
        assert spine._carrying is not None
        for number in range(3):
            await spine.publish(Rung(number=number))
            await until(lambda wanted=number: broker.sent > wanted)  # type: ignore[misc]
            await quiet()
            if number:  # at first it looks at all that the last one may have sent
                assert await journal.head() not in journal.asked
        end = await journal.head()
    assert end in journal.asked, "what was published at the last moment would stay behind"
    assert broker.sent == 3
