"""Order per key, through retries, restarts and processes that come and go; and bounds on what is in hand at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ....delivery import Delivery
from ....engine import subscription
from ....policies import Batch, Dead
from ....runs import BatchDelivery
from ....service import Service
from ..running import needs
from .material import (
    SOON,
    Log,
    Said,
    effect,
    in_memory,
    listener,
    listening,
    say,
    speaking,
    until,
    until_heard,
    until_rows,
)
from .site import BrokerSite

KEYS = [f"key {n}" for n in range(12)]
KIB = 1024


class Order:
    async def test_events_of_a_key_are_handled_in_order_one_at_a_time(self, site: BrokerSite) -> None:
        log, at_work, together = Log(), set[str](), list[str]()
        service: Service[None] = Service("listener")

        @service.on(Said)
        async def hear(event: Said) -> None:
            together.extend({event.who} & at_work)
            at_work.add(event.who)
            for _ in range(3):
                await asyncio.sleep(0)
            at_work.discard(event.who)
            log.note(event)

        async with speaking(site) as spine:
            for number in range(0, 10, 2):
                await asyncio.gather(*(say(spine, [number, number + 1], who) for who in KEYS))
            async with listening(site, service):  # all of a key is there to be begun at once
                await until(lambda: len(log.handled) == 120)
        assert log.once_in_order()
        assert [] == together

    async def test_a_key_stays_in_order_when_its_events_are_tried_again(self, site: BrokerSite) -> None:
        log = Log()
        service: Service[None] = Service("listener")

        @service.on(Said, retry=SOON)
        async def hear(event: Said, delivery: Delivery) -> None:
            if event.number % 3 == 0 and delivery.attempt < 3:
                raise ConnectionError("not yet")
            log.note(event)

        async with speaking(site) as spine, listening(site, service):
            await asyncio.gather(*(say(spine, range(9), who) for who in KEYS[:4]))
            await until(lambda: len(log.handled) == 36)
        assert log.once_in_order()

    async def test_other_keys_go_on_while_one_waits_for_its_next_attempt(self, site: BrokerSite) -> None:
        log, let_go = Log(), asyncio.Event()
        service: Service[None] = Service("listener")

        @service.on(Said, retry=replace(SOON, attempts=10_000))
        async def hear(event: Said) -> None:
            if event.who == "bad" and not let_go.is_set():
                raise ConnectionError("not yet")
            log.note(event)

        async with speaking(site) as spine, listening(site, service):
            await say(spine, range(3), "bad")
            await asyncio.gather(*(say(spine, range(5), who) for who in KEYS))
            await until(lambda: len(log.handled) == 60)
            assert [] == log.of("bad")
            let_go.set()
            await until(lambda: log.of("bad") == [0, 1, 2])

    async def test_order_holds_across_a_restart(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine:
            for start in range(0, 30, 10):
                async with listening(site, listener(log)):
                    await asyncio.gather(*(say(spine, range(start, start + 10), who) for who in KEYS[:3]))
                    await until(lambda: len(log.handled) > 3 * start)  # noqa: B023 -- waited for within the loop
            async with listening(site, listener(log)):
                await until(lambda: len(log.handled) == 90)
        assert log.once_in_order()

    async def test_order_holds_while_processes_come_and_go(self, site: BrokerSite) -> None:
        """Each joins and leaves in order, so that partitions change hands under load."""
        log = Log()

        async def passing_by() -> None:
            for _ in range(3):
                async with listening(site, listener(log)):
                    before = len(log.handled)
                    await until(lambda: len(log.handled) > before + 20 or len(log.handled) == 600)  # noqa: B023

        async with speaking(site) as spine, listening(site, listener(log)) as there:
            passing = asyncio.create_task(passing_by())
            for number in range(50):
                await asyncio.gather(*(say(spine, [number], who) for who in KEYS))
            await until(lambda: len(log.handled) >= 600)
            await passing
            found = await until_heard(there, 600)
        assert {1} == set(found.values())
        assert log.in_order()

    @needs("one_feed")
    async def test_a_handler_of_the_whole_feed_sees_one_order(self, site: BrokerSite) -> None:
        logs = [Log(), Log()]
        services = [listener(log, f"listener{n}", order="feed") for n, log in enumerate(logs)]
        async with speaking(site) as spine, listening(site, *services):
            await asyncio.gather(*(say(spine, range(5), who) for who in KEYS))
            await until(lambda: all(len(log.handled) == 60 for log in logs))
        assert logs[0].handled == logs[1].handled
        assert logs[0].once_in_order()

    async def test_r3_nothing_passes_an_event_that_is_not_finished(self, site: BrokerSite) -> None:
        """The watermark: of ten keys the first is stuck, all others finish; who starts anew has that one, and no other."""
        log, stuck = Log(), asyncio.Event()
        service: Service[None] = Service("listener", publishes="hearing")

        @service.on(Said)
        async def hear(event: Said, delivery: Delivery) -> None:
            if event.who == KEYS[0]:
                stuck.set()
                await asyncio.Event().wait()
            effect(delivery, event)

        async with speaking(site) as spine:
            async with listening(site, service, drain_s=0) as there:
                for who in KEYS:
                    await say(spine, [1], who)
                await until_heard(there, len(KEYS) - 1)
                await stuck.wait()
            async with listening(site, listener(log)) as there:
                found = await until_heard(there, len(KEYS))
        assert [(KEYS[0], 1)] == log.handled
        assert {1} == set(found.values())


class Bounds:
    async def test_no_more_are_at_work_than_the_handler_allows(self, site: BrokerSite) -> None:
        at_work, most, done = 0, 0, 0
        service: Service[None] = Service("listener")

        @service.on(Said, concurrency=3)
        async def hear(event: Said) -> None:
            nonlocal at_work, most, done
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.002)
            at_work -= 1
            done += 1

        async with speaking(site) as spine, listening(site, service):
            await asyncio.gather(*(say(spine, range(5), who) for who in KEYS))
            await until(lambda: done == 60)
        assert most == 3

    async def test_a_backlog_far_beyond_what_fits_in_hand_is_worked_off(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine:
            for start in range(0, 5000, 500):
                await say(spine, range(start, start + 500), f"key {start}")
            async with listening(site, listener(log, concurrency=8)):
                await until(lambda: len(log.handled) == 5000)
        assert log.once_in_order()

    async def test_what_a_handler_has_in_memory_is_bounded_in_bytes(
        self, site: BrokerSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the bound, here a lower one, and a page of the feed. Another handler goes on, and shows that there is more."""
        monkeypatch.setattr(subscription, "BYTES_MAX", KIB * KIB)
        log, let_go, numbers = Log(), asyncio.Event(), range(80)
        slow: Service[None] = Service("slow", publishes="hearing")

        @slow.on(Said)
        async def wait(event: Said, delivery: Delivery) -> None:
            await let_go.wait()
            effect(delivery, event, 1000 + event.number)

        async with speaking(site) as spine:
            for number in numbers:
                await spine.publish(Said(who=f"key {number % 10}", number=number, text="x" * 256 * KIB))
            async with listening(site, slow, listener(log), drain_s=2.0) as there:
                await until(lambda: len(log.handled) == len(numbers) and in_memory(there, "slow") >= KIB * KIB)
                assert in_memory(there, "slow") < 10 * KIB * KIB
                let_go.set()
                found = await until_heard(there, 2 * len(numbers))
        assert {1} == set(found.values())
        assert log.once_in_order()

    async def test_a_slow_handler_holds_up_no_other(self, site: BrokerSite) -> None:
        log, let_go = Log(), asyncio.Event()
        slow: Service[None] = Service("slow")

        @slow.on(Said)
        async def wait(event: Said) -> None:
            await let_go.wait()

        async with speaking(site) as spine, listening(site, slow, listener(log)):
            for number in range(4):
                await say(spine, range(number * 500, number * 500 + 500), f"key {number}")
            await until(lambda: len(log.handled) == 2000)
            let_go.set()

    async def test_of_a_batch_with_one_that_fails_the_others_are_done_once(self, site: BrokerSite) -> None:
        service: Service[None] = Service("listener", publishes="hearing")

        @service.on(Said, batch=Batch(10, within_ms=50), errors={ValueError: Dead})
        async def hear(events: list[Said], delivery: BatchDelivery) -> None:
            assert len(events) <= 10
            if any(event.number == 13 for event in events):
                raise ValueError("unlucky")
            for event in events:
                effect(delivery.of(event), event)

        async with speaking(site) as spine, listening(site, service) as there:
            for number in range(30):
                await say(spine, [number], f"key {number}")
            [dead] = await until_rows(there, "dead", 1)
            found = await until_heard(there, 29)
        assert dead.key == "key 13"
        assert {1} == set(found.values())
        assert ("key 13", 13) not in found
