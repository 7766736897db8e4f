"""A relay sends on while the journal stores how far it has come; so it, or whoever takes over, may have to send that again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

import pytest

from eventspine import Event, Service, Spine
from eventspine.brokers import open_broker
from eventspine.brokers.memory import Server, server
from eventspine.brokers.port import Message
from eventspine.clock import SystemClock
from eventspine.engine import numbering, relay as relays
from eventspine.engine.relay import Relay
from eventspine.ids import IdSource
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Control, Replay, Rewind, SetState, Unit, Verdict
from eventspine.keys import slot_of_key

storefront = Service("storefront", publishes="ahead")


class Placed(Event, context="ahead", key="customer"):
    customer: str
    number: int


class Slow(MemoryJournal):
    """Stores no numbers while it is held up."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.free.set()

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        if any(unit.marks for unit in units):
            await self.free.wait()
        return await super().commit(units)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbering, "PAGE", 10)
    monkeypatch.setattr(numbering, "AHEAD_MAX", 20)
    monkeypatch.setattr(relays, "PAGE", 10)
    monkeypatch.setattr(relays, "AHEAD_MAX", 20)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


async def published(journal: MemoryJournal, *events: Placed) -> None:
    async with Spine(journal, service=storefront) as spine:
        await spine.publish(*events)


async def relaying(journal: MemoryJournal, name: str) -> Relay:
    clock = SystemClock()
    broker = open_broker(f"memory://{name}")
    relay = Relay("ahead", broker, journal, clock, IdSource(clock), 0.6)
    relay.start()
    return relay


async def killed(relay: Relay) -> None:
    """Without a word to anybody."""
    tasks = [task for task in (relay._task, relay._numbering._storing) if task is not None]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def messages_of(broker: Server) -> list[Message]:
    return [message for partition in broker.topic("ahead") for message in partition]


@pytest.mark.usefixtures("small_pages")
async def test_pages_go_out_while_the_journal_stores_the_one_before_and_no_more_than_may_be_in_use() -> None:
    broker, journal = server(uuid4().hex), Slow()
    await journal.open()
    await published(journal, *[Placed(customer=f"c{n % 7}", number=n) for n in range(100)])
    journal.free.clear()
    relay = await relaying(journal, broker.name)
    await until(lambda: relay._numbering.ahead == 20)
    for _ in range(200):
        await asyncio.sleep(0)
    assert broker.sent == 20, "two pages are on their way, and no third before the first is stored"
    journal.free.set()
    await until(lambda: broker.sent == 100)
    await relay.stop(10)
    (row,) = await journal.subscriptions("relay:ahead")
    assert max(one.position for one in await journal.cursors([row.number])) == await journal.head()
    again = await relaying(journal, broker.name)
    await again.stop(10)
    assert broker.sent == 100, "all of it is stored when it stops"
    await journal.close()


async def sent_by_two(broker: Server) -> dict[tuple[int, int], set[str]]:
    """The ids sent under each number of a slot: by one that is killed before it has stored how far it came, with a row
    that is replayed meanwhile, and by the one that takes over."""
    journal = Slow()
    await journal.open()
    one, other = two_keys_of_one_slot()
    broker.refuse = lambda message: "no" if message.key == one and message.data != b"{}" else ""
    await published(journal, Placed(customer=one, number=0))
    first = await relaying(journal, broker.name)
    await until(lambda: broker.sent == 1 and first._numbering._stored > 0)  # its tombstone
    broker.refuse = lambda _: ""
    journal.free.clear()
    await published(journal, *[Placed(customer=other, number=n) for n in range(20)])
    first.wake()
    await until(lambda: broker.sent == 21)
    await killed(first)
    journal.free.set()
    (row,) = await journal.subscriptions("relay:ahead")
    dead = await journal.deliveries(subscriptions=[row.number], states=["dead"])
    await journal.control([Replay([delivery.number for delivery in dead])])
    second = await relaying(journal, broker.name)
    await until(lambda: any(message.key == one and message.data != b"{}" for message in messages_of(broker)))
    await second.stop(10)
    await journal.close()
    found: dict[tuple[int, int], set[str]] = {}
    for message in messages_of(broker):
        found.setdefault((message.slot, int(message.headers["ce_sequence"])), set()).add(message.id)
    return found


def two_keys_of_one_slot() -> tuple[str, str]:
    keys: dict[int, str] = {}
    for n in range(10_000):
        key = f"c{n}"
        if (slot := slot_of_key(key)) in keys:
            return keys[slot], key
        keys[slot] = key
    raise AssertionError("there are 960 slots")


@pytest.mark.usefixtures("small_pages")
async def test_who_takes_over_sends_again_what_may_be_on_its_way_before_a_replayed_row_takes_a_number() -> None:
    found = await sent_by_two(server(uuid4().hex))
    assert len(found) == 22
    assert all(len(ids) == 1 for ids in found.values())


@pytest.mark.usefixtures("small_pages")
async def test_else_two_events_have_one_number_and_the_second_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "AHEAD_MAX", 10)  # a page only
    found = await sent_by_two(server(uuid4().hex))
    assert any(len(ids) > 1 for ids in found.values())


async def changed(broker: Server, *operations: Callable[[int], Control]) -> dict[tuple[int, int], list[str]]:
    """The ids sent under each number of a slot, where a relay is changed after it has sent twenty and stored ten."""
    journal = Slow()
    await journal.open()
    await published(journal, *[Placed(customer=f"c{n % 3}", number=n) for n in range(10)])
    relay = await relaying(journal, broker.name)
    await until(lambda: relay._numbering._stored >= 10)
    journal.free.clear()
    await published(journal, *[Placed(customer=f"c{n % 3}", number=n) for n in range(10, 20)])
    relay.wake()
    await until(lambda: broker.sent == 20)
    for operation in operations:
        assert await journal.control([operation(relay._member.row.number)])
    journal.free.set()
    await published(journal, Placed(customer="last", number=20))
    await until(lambda: any(message.key == "last" for message in messages_of(broker)))
    await relay.stop(10)
    await journal.close()
    found: dict[tuple[int, int], list[str]] = {}
    for message in messages_of(broker):
        found.setdefault((message.slot, int(message.headers["ce_sequence"])), []).append(message.id)
    return found


@pytest.mark.usefixtures("small_pages")
async def test_what_a_rewound_relay_had_sent_and_not_stored_keeps_its_numbers() -> None:
    """Under them readers would take what it sends again for known, and drop the very event that they lack."""
    broker = server(uuid4().hex)
    found = await changed(broker, lambda number: Rewind(number, 0))
    assert broker.sent == 41
    assert all(len(set(ids)) == 1 for ids in found.values())
    assert len(found) == 41, "nothing is sent again under its number of before"
    last: dict[int, int] = {}
    for slot, number in found:
        last[slot] = max(number, last.get(slot, 0))
    assert sum(last.values()) == 41, "the numbers have no hole"


@pytest.mark.usefixtures("small_pages")
async def test_what_a_paused_relay_had_sent_and_not_stored_is_not_sent_again() -> None:
    broker = server(uuid4().hex)
    found = await changed(broker, lambda number: SetState(number, "paused"), lambda number: SetState(number, "active"))
    assert [1] * 21 == [len(ids) for ids in found.values()]
