"""Order: many keys at once, one event of a key at a time, and nothing that a hot key can do to a quiet one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from eventspine import Delivery, Service, Spine
from eventspine.engine import subscription as engine
from eventspine.engine.lanes import Lanes

from .material import FOR_EVER, Broken, Paid, Placed, Store, Together, host, rows, subscription, until


async def test_events_of_a_key_are_handled_in_order_beside_many_other_keys(spine: Spine) -> None:
    service = Service("mail")
    handled: dict[str, list[int]] = defaultdict(list)

    @service.on(Placed)
    async def note(event: Placed) -> None:
        for _ in range(event.number % 3):
            await asyncio.sleep(0)
        handled[event.customer].append(event.number)

    await spine.publish(*[Placed(customer=f"c{number % 50}", number=number) for number in range(500)])
    async with spine.running(service):
        await spine.publish(*[Placed(customer=f"c{number % 50}", number=number) for number in range(500, 1000)])
        await until(lambda: sum(map(len, handled.values())) == 1000)

    assert {f"c{key}": list(range(key, 1000, 50)) for key in range(50)} == handled


async def one_key_at_a_time(spine: Spine) -> tuple[int, int]:
    """The most that were at work at once, of one key and of all."""
    service = Service("mail")
    by_key: dict[str, Together] = defaultdict(Together)
    together, done = Together(), 0

    @service.on(Placed)
    async def note(event: Placed) -> None:
        nonlocal done
        with by_key[event.customer], together:
            for _ in range(20):
                await asyncio.sleep(0)
        done += 1

    await spine.publish(*[Placed(customer=f"c{number % 5}") for number in range(100)])
    async with spine.running(service):
        await until(lambda: done == 100)
    return max(each.most for each in by_key.values()), together.most


async def test_a_key_is_with_one_handler_at_a_time_and_several_keys_with_several(spine: Spine) -> None:
    assert await one_key_at_a_time(spine) == (1, 5)


async def test_without_lanes_by_key_two_events_of_a_key_would_meet(memory: Spine, monkeypatch: Any) -> None:
    add = Lanes.add
    monkeypatch.setattr(Lanes, "add", lambda lanes, item, key: add(lanes, item, object()))
    of_one_key, _ = await one_key_at_a_time(memory)
    assert of_one_key > 1


async def where_quiet_keys_come(spine: Spine) -> list[int]:
    service = Service("mail")
    handled: list[str] = []

    @service.on(Placed, concurrency=1)
    async def note(event: Placed) -> None:
        handled.append(event.customer)

    await spine.publish(*[Placed(customer="hot") for _ in range(300)], *[Placed(customer=f"q{n}") for n in range(5)])
    async with spine.running(service):
        await until(lambda: len(handled) == 305)
    return [at for at, customer in enumerate(handled) if customer != "hot"]


async def test_a_hot_key_does_not_starve_quiet_ones(spine: Spine) -> None:
    assert max(await where_quiet_keys_come(spine)) <= 10


async def test_in_one_queue_for_all_keys_the_quiet_ones_would_come_last(memory: Spine, monkeypatch: Any) -> None:
    add = Lanes.add
    monkeypatch.setattr(Lanes, "add", lambda lanes, item, key: add(lanes, item, "all"))
    assert max(await where_quiet_keys_come(memory)) == 304


async def test_order_none_lets_events_of_one_key_run_together(spine: Spine) -> None:
    service = Service("mail")
    together = Together()

    @service.on(Placed, order="none")
    async def note(event: Placed) -> None:
        with together:
            await until(lambda: together.most == 4)

    await spine.publish(*[Placed() for _ in range(4)])
    async with spine.running(service):
        await until(lambda: together.most == 4)


async def test_order_feed_keeps_the_order_of_all_keys_and_runs_one_at_a_time(spine: Spine) -> None:
    service = Service("mail")
    together, handled = Together(), list[int]()

    @service.on(Placed, Paid, order="feed")
    async def note(event: Placed | Paid) -> None:
        with together:
            await asyncio.sleep(0)
        handled.append(event.number)

    for number in range(0, 60, 2):
        await spine.publish(Placed(customer=f"c{number}", number=number), Paid(customer="x", number=number + 1))
    async with spine.running(service):
        await until(lambda: len(handled) == 60)
    assert handled == list(range(60))
    assert together.most == 1


async def test_order_feed_stands_at_the_failing_event_and_never_parks_behind(spine: Spine) -> None:
    service = Service("mail")
    broken, tried, handled = True, 0, list[int]()

    @service.on(Placed, order="feed", retry=FOR_EVER)
    async def note(event: Placed) -> None:
        nonlocal tried
        if event.number == 1 and broken:
            tried += 1
            raise Broken
        handled.append(event.number)

    await spine.publish(*[Placed(customer=f"c{number}", number=number) for number in range(4)])
    async with spine.running(service):
        await until(lambda: tried > 5)
        assert handled == [0]
        (row,) = await rows(spine)
        assert (row.reason, row.state) == ("Broken", "parked")
        broken = False
        await until(lambda: len(handled) == 4)
    assert handled == [0, 1, 2, 3]
    assert [row.state for row in await rows(spine)] == ["settled"]


async def test_order_feed_goes_on_counting_attempts_after_a_restart(spine: Spine) -> None:
    service = Service("mail")
    attempts, handled, broken = list[int](), list[int](), True

    @service.on(Placed, order="feed", retry=FOR_EVER)
    async def note(event: Placed, delivery: Delivery) -> None:
        if event.number == 0 and broken:
            attempts.append(delivery.attempt)
            raise Broken
        handled.append(event.number)

    await spine.publish(Placed(number=0), Placed(customer="bob", number=1))
    async with spine.running(service):
        await until(lambda: len(attempts) >= 3)
    before = len(attempts)
    async with spine.running(service):
        await until(lambda: len(attempts) >= before + 2)
        assert handled == []
        broken = False
        await until(lambda: len(handled) == 2)
    assert attempts == list(range(1, len(attempts) + 1))
    assert handled == [0, 1]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_handlers_are_at_work_than_concurrency_allows(spine: Spine, concurrency: int) -> None:
    service = Service("mail")
    together, done = Together(), 0

    @service.on(Placed, concurrency=concurrency)
    async def note(event: Placed) -> None:
        nonlocal done
        with together:
            for _ in range(5):
                await asyncio.sleep(0)
        done += 1

    await spine.publish(*[Placed(customer=f"c{number}") for number in range(40)])
    async with spine.running(service):
        await until(lambda: done == 40)
    assert together.most == concurrency


async def test_a_slow_handler_with_a_long_backlog_holds_no_more_than_the_window(spine: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "WINDOW", 600)
    service = Service("mail")
    go, done, most = asyncio.Event(), 0, 0

    @service.on(Placed)
    async def note(event: Placed) -> None:
        nonlocal done, most
        await go.wait()
        done += 1
        most = max(most, subscription(spine).lanes.size)

    for _ in range(3):
        await spine.publish(*[Placed(customer=f"c{number % 100}") for number in range(1000)])
    async with spine.running(service):
        await until(lambda: subscription(spine).capacity < 256)
        assert subscription(spine).lanes.size <= 600
        go.set()
        await until(lambda: done == 3000)
        await until(lambda: subscription(spine).lanes.size == 0)
        assert subscription(spine).bytes == 0
    assert most <= 600


async def test_large_events_are_bounded_by_their_bytes(spine: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "BYTES_MAX", 1_000_000)
    service = Service("mail")
    go, done, most = asyncio.Event(), 0, 0

    @service.on(Placed)
    async def note(event: Placed) -> None:
        nonlocal done, most
        await go.wait()
        done += 1
        most = max(most, subscription(spine).bytes)

    for _ in range(10):
        await spine.publish(*[Placed(customer=f"c{number}", note="x" * 200_000) for number in range(10)])
    async with spine.running(service):
        await until(lambda: subscription(spine).capacity == 0)
        go.set()
        await until(lambda: done == 100)
        await until(lambda: subscription(spine).bytes == 0)
    assert most < 1_000_000 + 9 * 1024 * 1024, "the bound and one page of the feed"


async def test_r18_two_channels_of_one_key_are_not_ordered_with_one_another(spine: Spine) -> None:
    """Each waits for the other's second event: with one lane for both this would never end."""
    service = Service("mail")
    handled: list[tuple[str, int]] = []

    @service.on(Placed, Paid)
    async def note(event: Placed | Paid) -> None:
        if isinstance(event, Placed) and event.number == 0:
            await until(lambda: ("Paid", 1) in handled)
        if isinstance(event, Paid) and event.number == 2:
            await until(lambda: ("Placed", 3) in handled)
        handled.append((type(event).__name__, event.number))

    await spine.publish(Placed(number=0), Paid(number=0), Placed(number=1), Paid(number=1), Paid(number=2))
    await spine.publish(Placed(number=2), Placed(number=3), Paid(number=3))
    async with spine.running(service):
        await until(lambda: len(handled) == 8)
    assert [number for name, number in handled if name == "Placed"] == [0, 1, 2, 3]
    assert [number for name, number in handled if name == "Paid"] == [0, 1, 2, 3]


async def test_events_without_a_key_have_no_order(spine: Spine) -> None:
    from eventspine import Event

    class Pinged(Event, context="orders", key=None):
        number: int

    service = Service("mail")
    together = Together()

    @service.on(Pinged)
    async def note(event: Pinged) -> None:
        with together:
            await until(lambda: together.most == 3)

    await spine.publish(*[Pinged(number=number) for number in range(3)])
    async with spine.running(service):
        await until(lambda: together.most == 3)


async def test_handlers_of_one_service_keep_their_own_pace_and_all_see_everything(store: Store) -> None:
    service = Service("mail")
    quick, slow = list[int](), list[int]()
    go = asyncio.Event()

    @service.on(Placed)
    async def at_once(event: Placed) -> None:
        quick.append(event.number)

    @service.on(Placed, concurrency=1)
    async def later(event: Placed) -> None:
        await go.wait()
        slow.append(event.number)

    async with store.spine() as spine:
        async with spine.running(service):
            for start in range(0, 6000, 1000):
                await spine.publish(
                    *[Placed(customer=f"c{number}", number=number) for number in range(start, start + 1000)]
                )
            await until(lambda: len(quick) == 6000, "for the quick one")
            assert slow == []
            assert len(host(spine).readers._readers) == 2, "who has no room reads alone"
            go.set()
            await until(lambda: len(slow) == 6000, "for the slow one")
            await until(lambda: len(host(spine).readers._readers) == 1, "until they read together again")
    assert sorted(quick) == sorted(slow) == list(range(6000))
