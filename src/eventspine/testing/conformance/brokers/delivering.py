"""Delivery: everything published reaches every subscription, whoever publishes and however many listen."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest

from ....brokers.embedded import Features
from ....delivery import Delivery
from ....errors import EventRefused
from ....service import Service
from .material import (
    SOON,
    Heard,
    Log,
    Said,
    Shouted,
    effect,
    heard,
    listener,
    listening,
    record,
    say,
    speaking,
    until,
    until_heard,
)
from .site import BrokerSite


class Delivering:
    async def test_what_was_published_before_anybody_listened_is_delivered(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine:
            await say(spine, range(50))
            async with listening(site, listener(log)):
                await until(lambda: len(log.handled) == 50)
        assert list(range(50)) == log.of("ann")

    async def test_what_is_published_while_they_listen_is_delivered(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            for number in range(20):
                await say(spine, [number])
            await until(lambda: len(log.handled) == 20)
        assert list(range(20)) == log.of("ann")

    async def test_many_publishers_and_many_listeners_at_once(self, site: BrokerSite) -> None:
        logs = [Log() for _ in range(4)]
        services = [listener(log, f"listener{n}") for n, log in enumerate(logs)]
        async with speaking(site) as one, speaking(site) as two, listening(site, *services):
            await asyncio.gather(
                *(say(each, range(20), f"{n} {i}") for n, each in enumerate([one, two]) for i in range(5))
            )
            await until(lambda: all(len(log.handled) == 200 for log in logs))
        assert all(log.once_in_order() for log in logs)

    async def test_channels_do_not_mix(self, site: BrokerSite) -> None:
        said: list[int] = []
        shouted: list[int] = []
        service: Service[None] = Service("listener")

        @service.on(Said)
        async def on_said(event: Said) -> None:
            said.append(event.number)

        @service.on(Shouted)
        async def on_shouted(event: Shouted) -> None:
            shouted.append(event.number)

        async with speaking(site) as spine, listening(site, service):
            for number in range(10):
                await spine.publish(Said(who="ann", number=number), Shouted(who="ann", number=100 + number))
            await until(lambda: len(said) == len(shouted) == 10)
        assert (list(range(10)), list(range(100, 110))) == (said, shouted)

    async def test_two_processes_of_a_service_share_its_work(self, site: BrokerSite) -> None:
        logs = Log(), Log()
        said = 0
        async with speaking(site) as spine, listening(site, listener(logs[0])) as one:
            async with listening(site, listener(logs[1])):
                while said < 40 or not all(log.handled for log in logs):  # the second may need a while to get its share
                    await say(spine, range(5), f"w{said}")
                    said += 1
                    await asyncio.sleep(0.005)  # not to publish thousands meanwhile
                found = await until_heard(one, 5 * said)
        assert {1} == set(found.values())
        assert set(logs[0].handled) | set(logs[1].handled) == set(found)

    async def test_a_service_that_comes_later_has_all_from_the_beginning(self, site: BrokerSite) -> None:
        first, second = Log(), Log()
        async with speaking(site) as spine:
            async with listening(site, listener(first)):
                await say(spine, range(10))
                await until(lambda: len(first.handled) == 10)
            async with listening(site, listener(first), listener(second, "newcomer")):
                await say(spine, [10])
                await until(lambda: len(second.handled) == 11 and len(first.handled) == 11)
        assert list(range(11)) == first.of("ann") == second.of("ann")

    async def test_types_that_nobody_wants_are_passed(self, site: BrokerSite) -> None:
        log = Log()
        await site.publish(*(record(n, type="talk.Whispered") for n in range(20)), record(7))
        async with listening(site, listener(log)):
            await until(lambda: log.of("ann") == [7])


class Publishing:
    async def test_the_same_event_published_twice_is_handled_once(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            given = str(uuid.uuid4())
            for _ in range(3):
                await spine.publish(Said(who="ann", number=1), id=given)
            await say(spine, [2])
            await until(lambda: log.of("ann")[-1:] == [2])
        assert [1, 2] == log.of("ann")

    async def test_also_when_both_are_published_at_once_and_by_two(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as one, speaking(site) as two, listening(site, listener(log)) as there:
            given = [str(uuid.uuid4()) for _ in range(10)]
            await asyncio.gather(
                *(each.publish(Said(who="ann", number=n), id=id) for n, id in enumerate(given) for each in (one, two))
            )
            await say(one, [99])
            found = await until_heard(there, 11)
        assert {1} == set(found.values())
        assert sorted([*range(10), 99]) == sorted(log.of("ann"))

    async def test_of_a_batch_with_an_event_that_is_refused_nothing_is_published(
        self, site: BrokerSite, features: Features
    ) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            with pytest.raises(EventRefused):
                await spine.publish(
                    Said(who="ann", number=1), Said(who="ann", number=2, text="x" * features.event_bytes_max)
                )
            await say(spine, [3])
            await until(lambda: log.handled)
        assert [3] == log.of("ann")

    async def test_what_a_handler_publishes_is_published_once_for_all_its_attempts(self, site: BrokerSite) -> None:
        service: Service[None] = Service("listener", publishes="hearing")
        tries: list[int] = []

        @service.on(Said, retry=SOON)
        async def hear(event: Said, delivery: Delivery) -> Heard:
            tries.append(event.number)
            effect(delivery, event, 100 + len(tries))
            if len(tries) < 3:
                raise ConnectionError("not yet")
            return Heard(who=event.who, number=event.number)

        async with speaking(site) as spine, listening(site, service) as there:
            await say(spine, [1])
            await until_heard(there, 2)
            assert {("ann", 103): 1, ("ann", 1): 1} == await heard(there), "nothing of the attempts that failed"

    async def test_an_answer_is_durable_when_publish_returns(self, site: BrokerSite) -> None:
        async with speaking(site) as spine:
            [receipt] = await say(spine, [1])
            assert receipt.durable
            later = await spine.publish(Said(who="ann", number=2), after=timedelta(hours=1))
            assert later.due is not None
        log = Log()
        async with listening(site, listener(log)):
            await until(lambda: log.of("ann") == [1])
