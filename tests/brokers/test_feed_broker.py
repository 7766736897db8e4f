from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from eventspine.brokers.embedded import Broker, Intake
from eventspine.brokers.feed import FeedBroker
from eventspine.journal import open_journal
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Append, Journal, Record, Unit


@pytest.fixture
async def journal() -> AsyncIterator[Journal]:
    opened = MemoryJournal()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def broker(journal: Journal) -> Broker:
    return FeedBroker(journal)


def event(number: int, *, channel: str = "orders", type: str = "orders.OrderPlaced", slot: int = 0) -> Record:
    id = number.to_bytes(16, "big")
    return Record(0, id, channel, slot, None, type, 1, 0, 0, "storefront", None, None, 0, None, b"{}")


async def publish(journal: Journal, *records: Record) -> None:
    [verdict] = await journal.commit([Unit([Append(records)])])
    assert verdict.ok


async def fetched(intake: Intake, records_max: int = 100, upto: int | None = None) -> list[int]:
    return [record.position for record in (await intake.fetch(records_max=records_max, upto=upto)).records]


async def test_an_intake_goes_on_where_its_last_fetch_ended(journal: Journal, broker: Broker):
    intake = broker.intake("email", ["orders"], [], after=0)
    assert [] == await fetched(intake)
    await publish(journal, *(event(n) for n in range(5)))
    assert [1, 2] == await fetched(intake, 2)
    assert 2 == intake.position
    assert [3, 4, 5] == await fetched(intake)
    assert [] == await fetched(intake)


async def test_it_begins_after_a_position_and_ends_where_it_is_told(journal: Journal, broker: Broker):
    await publish(journal, *(event(n) for n in range(9)))
    intake = broker.intake("email", ["orders"], [], after=3)
    assert [4, 5, 6] == await fetched(intake, upto=6)
    assert 6 == intake.position


async def test_it_reads_the_channels_and_types_that_it_asked_for(journal: Journal, broker: Broker):
    await publish(journal, event(1), event(2, channel="billing"), event(3, type="orders.OrderShipped"))
    assert [1, 3] == await fetched(broker.intake("email", ["orders"], [], after=0))
    assert [1, 2] == await fetched(broker.intake("email", ["orders", "billing"], ["orders.OrderPlaced"], after=0))
    shipped = broker.intake("email", ["orders"], ["orders.OrderShipped"], after=0)
    assert [3] == await fetched(shipped)
    assert 3 == shipped.position


async def test_what_it_is_not_assigned_is_passed(journal: Journal, broker: Broker):
    await publish(journal, *(event(n, slot=n) for n in range(1, 9)))
    intake = broker.intake("email", ["orders"], [], after=0)
    await intake.assign([2, 4])
    assert [2, 4] == await fetched(intake)
    assert 8 == intake.position


async def test_with_nothing_assigned_it_stands_still(journal: Journal, broker: Broker):
    await publish(journal, event(1))
    intake = broker.intake("email", ["orders"], [], after=0)
    await intake.assign([])
    assert [] == await fetched(intake)
    assert 0 == intake.position


async def test_it_seeks_back_and_forth(journal: Journal, broker: Broker):
    await publish(journal, *(event(n) for n in range(5)))
    intake = broker.intake("email", ["orders"], [], after=0)
    await fetched(intake)
    await intake.seek(3)
    assert [4, 5] == await fetched(intake)


async def test_a_seek_while_it_fetches_is_not_lost(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    await publish(journal, *(event(n) for n in range(5)))
    intake = FeedBroker(journal).intake("email", ["orders"], [], after=0)
    read = journal.feed

    async def reads_while_sought(*given, **options):
        page = await read(*given, **options)
        await intake.seek(2)
        return page

    monkeypatch.setattr(journal, "feed", reads_while_sought)
    await fetched(intake)
    monkeypatch.undo()
    assert [3, 4, 5] == await fetched(intake)


async def test_settling_and_releasing_leave_it_to_the_cursor(journal: Journal, broker: Broker):
    await publish(journal, *(event(n) for n in range(3)))
    intake, another = (broker.intake("email", ["orders"], [], after=0) for _ in range(2))
    page = await intake.fetch(records_max=2)
    await intake.settle(page.records[:1])
    await intake.release(page.records[1:])
    await intake.close()
    assert [3] == await fetched(intake)
    assert [1, 2, 3] == await fetched(another), "several may read at once"


async def test_it_wakes_when_a_fetch_may_find_more(journal: Journal, broker: Broker):
    rung = asyncio.Event()
    stop = broker.watch(rung.set)
    await publish(journal, event(1))
    await asyncio.wait_for(rung.wait(), 20)
    stop()


def test_it_declares_what_it_can(broker: Broker, tmp_path):
    features = broker.features
    assert ("cursor", "journal") == (features.settles, features.assigns)
    assert features.ordered
    assert features.rewinds
    assert features.one_feed
    assert not features.persistent
    assert FeedBroker(open_journal(f"sqlite:///{tmp_path}/spine.db")).features.persistent
