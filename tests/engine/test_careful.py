"""Careful mode (R16): an event that kills its process dies after three deaths alone, and takes no innocents along."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventspine import Batch, Service, Spine
from eventspine.engine import careful
from eventspine.observe.logs import CorrelationFilter

from .material import Broken, Placed, Store, Together, abandon, dead, host, rows, subscription, until

LEASE_S = 0.3
KILLER = 3


class Kitchen:
    """A service whose process dies (as far as the journal can tell) when it handles a certain event."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.deaths = 0
        self.together = Together()
        self.beside: list[int] = []  # how many others were at work when the killer began
        self.killed = asyncio.Event()
        self.service: Service[Any] = Service("mail")
        self.service.on(Placed)(self.note)

    async def note(self, event: Placed) -> None:
        with self.together:
            if event.number == KILLER:
                self.beside.append(self.together.inside - 1)
                self.deaths += 1
                self.killed.set()
                await asyncio.Event().wait()
            for _ in range(5):
                await asyncio.sleep(0)
        self.handled.append(event.number)

    async def run_until_it_dies(self, store: Store) -> None:
        self.killed.clear()
        async with store.spine(lease_s=LEASE_S) as spine:
            async with spine.running(self.service, drain_s=0.0):
                await until(self.killed.is_set)
                await abandon(spine)


async def until_given_up(store: Store, kitchen: Kitchen, deaths: int) -> list[Any]:
    for _ in range(deaths):
        await kitchen.run_until_it_dies(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(kitchen.service):
            found = await dead(spine)
            await spine.publish(Placed(customer="late", number=100))
            await until(lambda: 100 in kitchen.handled)
            await until(lambda: set(range(10)) - {KILLER} <= set(kitchen.handled))
            await until(lambda: subscription(spine).at_work == 0)
        assert await marks(spine) == {}
        return found


async def marks(spine: Spine) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for row in await spine.journal.subscriptions("mail"):
        found |= {position: mark for (_, position), mark in (await spine.journal.starts(row.number)).items()}
    return found


async def publish_ten(store: Store) -> None:
    async with store.spine() as spine:
        await spine.publish(*[Placed(customer=f"c{number}", number=number) for number in range(10)])


@pytest.mark.promise("poison")
async def test_r16_an_event_that_kills_its_process_dies_after_three_deaths_alone(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(CorrelationFilter())
    kitchen = Kitchen()
    await publish_ten(store)
    # Once unnoticed, once marked among others, then alone.
    (row,) = await until_given_up(store, kitchen, 2 + careful.DEATHS_MAX)
    assert row.record is not None
    assert (row.reason, b'"number":3' in row.record.data) == ("killed-its-process", True)
    (said,) = [record for record in caplog.records if "killed its process" in record.message]
    assert (said.levelname, said.__dict__["spine_key"]) == ("ERROR", row.key)
    assert kitchen.beside[2:] == [0, 0, 0], "then it ran alone"
    assert kitchen.deaths == 5


async def test_r16_fewer_deaths_are_not_enough(store: Store) -> None:
    kitchen = Kitchen()
    await publish_ten(store)
    for _ in range(1 + careful.DEATHS_MAX):
        await kitchen.run_until_it_dies(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        assert await rows(spine, "dead") == []
        assert max(alone for _, alone in (await marks(spine)).values()) == careful.DEATHS_MAX - 1


async def test_r16_without_start_marks_it_would_kill_for_ever(store: Store, monkeypatch: Any) -> None:
    async def unmarked(subscription: Any, item: Any) -> None:
        item.suspect = False
        await subscription.call(item)

    monkeypatch.setattr("eventspine.engine.subscription.run_marked", unmarked)
    kitchen = Kitchen()
    await publish_ten(store)
    for _ in range(3 + careful.DEATHS_MAX):
        await kitchen.run_until_it_dies(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        assert await rows(spine, "dead") == []


async def test_r16_random_kills_never_make_an_innocent_event_dead(store: Store) -> None:
    """All are at work whenever the process dies; each gets its turn alone, and returns."""
    service = Service("mail")
    go, began, handled = asyncio.Event(), 0, list[int]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        nonlocal began
        began += 1
        if not go.is_set():
            await go.wait()
        handled.append(event.number)

    await publish_ten(store)
    for life in range(6):
        began = 0
        async with store.spine(lease_s=LEASE_S) as spine:
            async with spine.running(service, drain_s=0.0):
                await until(lambda: began == (10 if life < 2 else 1), f"in life {life}")  # noqa: B023
                await abandon(spine)
    go.set()
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(service):

            async def settled() -> bool:
                return len(handled) + len(await rows(spine, "dead")) == 10

            await until(settled)
            await until(lambda: subscription(spine).at_work == 0)
        # The one that was alone each time can't be told from a killer; nobody else may be taken for one.
        assert len(await rows(spine, "dead")) <= 1
        assert len(handled) >= 9
        assert await marks(spine) == {}


async def test_r16_whatever_kills_processes_as_they_start_is_not_put_down_to_an_event(store: Store) -> None:
    """After a death alone the next attempt waits a moment: a process that dies meanwhile has not died of it."""
    assert await deaths_alone(store, lambda spine, _: subscription(spine).at_work == 1) == [0, 0, 1, 1, 1, 1]


async def test_r16_without_the_pause_it_would_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(careful, "PAUSE_S", 0.0)
    assert await deaths_alone(store, lambda _, begun: begun) == [0, 0, 1, 2, 3, 0]


async def deaths_alone(store: Store, dies_when: Callable[[Spine, bool], bool]) -> list[int]:
    """Counted after each life of a process: the first three die while the handler runs."""
    service, began, counted = Service("mail"), asyncio.Event(), list[int]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        began.set()
        await asyncio.Event().wait()

    async with store.spine() as spine:
        await spine.publish(Placed(number=1))
    for life in range(6):
        began.clear()
        async with store.spine(lease_s=LEASE_S) as spine:
            async with spine.running(service, drain_s=0.0):
                if counted and max(counted) == careful.DEATHS_MAX:
                    await dead(spine)
                elif life < 3:
                    await until(began.is_set, f"in life {life}")
                else:
                    await until(lambda: dies_when(spine, began.is_set()), f"in life {life}")
                await abandon(spine)
            counted += [alone for _, alone in (await marks(spine)).values()] or [0]
    return counted


async def test_a_clean_end_leaves_no_suspicion(store: Store) -> None:
    service, handled = Service("mail"), list[int]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.number)

    await publish_ten(store)
    async with store.spine() as spine:
        async with spine.running(service):
            await until(lambda: len(handled) == 10)
        async with spine.running(service):
            assert [part.careful for part in subscription(spine).parts.values()] == [0] * 16
            assert host(spine).subscriptions[0].marks == {}


@pytest.mark.parametrize("drains", [1, 4])
async def test_being_cancelled_at_the_drains_deadline_is_no_death(store: Store, drains: int) -> None:
    """A suspect that is slow, not deadly: processes that leave in order have not died of it."""
    service, began, handled = Service("mail"), asyncio.Event(), list[int]()
    go = asyncio.Event()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        began.set()
        await go.wait()
        handled.append(event.number)

    async with store.spine(lease_s=LEASE_S) as spine:
        await spine.publish(Placed(number=1))
        for life in range(2):
            began.clear()
            async with spine.running(service, drain_s=0.0):
                await until(began.is_set, f"in life {life}")
                await abandon(spine)
        for _ in range(drains):
            began.clear()
            async with spine.running(service, drain_s=0.0):
                await until(began.is_set)
        go.set()
        async with spine.running(service):
            await until(lambda: handled == [1])
        assert await rows(spine, "dead") == []


@pytest.mark.parametrize("batch", [None, Batch(10)], ids=["alone", "run"])
async def test_a_suspect_whose_partition_is_given_up_while_it_is_handled_leaves_no_mark(
    store: Store, batch: Batch | None
) -> None:
    service, began, go = Service("mail"), asyncio.Event(), asyncio.Event()

    async def note(given: Any) -> None:
        began.set()
        await go.wait()
        raise Broken

    service.on(Placed, batch=batch)(note)
    async with store.spine(lease_s=LEASE_S) as spine:
        await spine.publish(Placed(number=1))
        async with spine.running(service, drain_s=0.0):
            await until(began.is_set)
            await abandon(spine)
    began.clear()
    async with store.spine(lease_s=LEASE_S) as spine, spine.running(service, drain_s=0.0):
        await until(began.is_set)
        assert list((await marks(spine)).values()) == [(1, 0)]
        for number in list(subscription(spine).parts):
            subscription(spine).drop(number)
        go.set()
        await until(lambda: subscription(spine).at_work == 0)
        await until_unmarked(spine)


async def until_unmarked(spine: Spine) -> None:
    async with asyncio.timeout(20):
        while await marks(spine):
            await asyncio.sleep(0.01)


async def test_r16_an_orderly_end_in_between_does_not_forgive_the_deaths_before(store: Store) -> None:
    """Cancelled while it runs alone, and while it waits to: the deaths of before count on."""
    kitchen = Kitchen()
    await publish_ten(store)
    for _ in range(4):  # once unnoticed, once marked among others, twice alone
        await kitchen.run_until_it_dies(store)
    counted = await died_alone(store)
    assert [2] == [alone for _, alone in counted.values()]
    kitchen.killed.clear()
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(kitchen.service, drain_s=0.0):
            await until(kitchen.killed.is_set)
    assert counted == await died_alone(store)
    (row,) = await until_given_up(store, kitchen, 1)
    assert (row.reason, kitchen.deaths) == ("killed-its-process", 6)


async def died_alone(store: Store) -> dict[int, tuple[int, int]]:
    async with store.spine() as spine:
        return {position: mark for position, mark in (await marks(spine)).items() if mark[1]}
