"""A broker with a server of its own: killed and started again, cut off without a word, and what is set up on it."""

from __future__ import annotations

import asyncio

from ....engine.health import is_ready
from ....errors import OutcomeUnknown, SpineError
from ....events import Event
from ....service import Service
from ....spine import Spine
from ..running import needs
from .material import WAIT_S, Log, Said, listener, listening, say, speaker, speaking, until, until_heard
from .site import BrokerSite


async def say_somehow(spine: Spine, number: int, id: str) -> int:
    """As a program does that waits for its broker; how often it was told that this failed."""
    failures, give_up = 0, asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            await spine.publish(Said(who=f"key {number % 7}", number=number), id=id)
        except SpineError:
            assert asyncio.get_running_loop().time() < give_up, "publishing never worked again"
            failures += 1
            await asyncio.sleep(0.05)  # before another try
        else:
            return failures


def id_of(number: int) -> str:
    return f"018c0000-0000-7000-8000-{number:012x}"


class Server:
    @needs("server")
    async def test_a_server_that_is_killed_and_started_again_loses_and_repeats_nothing(self, site: BrokerSite) -> None:
        log, starting = Log(), asyncio.create_task(asyncio.sleep(0))
        async with speaking(site) as spine, listening(site, listener(log)) as there:
            for number in range(120):
                if number in (40, 80):
                    await starting
                    await site.kill_server()
                    starting = asyncio.create_task(_start_soon(site))
                await say_somehow(spine, number, id_of(number))
            await starting
            found = await until_heard(there, 120)
        assert {1} == set(found.values())
        assert log.in_order()

    @needs("server")
    async def test_publishing_to_a_server_that_is_away_is_stored_or_says_so(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            await say(spine, [1])
            await until(lambda: log.of("ann") == [1])
            await site.kill_server()
            stored, perhaps = [1], []
            for number in range(2, 5):
                try:
                    await say(spine, [number])
                    stored.append(number)
                except OutcomeUnknown:
                    perhaps.append(number)
                except SpineError:
                    pass  # it said that nothing is stored
            await site.start_server()
            await say_somehow(spine, 100, id_of(100))
            await until(lambda: ("key 2", 100) in log.handled and {*stored} <= {*log.of("ann")})
        assert [] == [number for number in log.of("ann") if number not in (*stored, *perhaps)]

    @needs("server")
    async def test_who_starts_while_the_server_is_away_begins_when_it_is_back(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine:
            await say(spine, range(5))
            async with listening(site, listener(log)):
                await until(lambda: len(log.handled) == 5)
                await site.kill_server()
                await asyncio.sleep(0.2)  # a while without it
                await site.start_server()
                await say_somehow(spine, 6, id_of(6))
                await until(lambda: len(log.handled) == 6)


class Cuts:
    @needs("cuts")
    async def test_a_consumer_that_was_cut_off_without_a_word_comes_back_by_itself(self, site: BrokerSite) -> None:
        """The failure that users meet most: everything looks alive, and nothing arrives any more."""
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            await say(spine, [1])
            await until(lambda: log.of("ann") == [1])
            await site.cut()
            await asyncio.sleep(0.5)  # a while in which nothing passes
            await site.mend()
            await say_somehow(spine, 2, id_of(2))
            await until(lambda: len(log.handled) == 2)

    @needs("cuts")
    async def test_its_health_says_that_nothing_passes(self, site: BrokerSite) -> None:
        async with speaking(site) as spine, listening(site, listener(Log())) as there:
            await say(spine, [1])
            await until_heard(there, 1)
            await site.cut()
            try:
                await until(lambda: there.health()["status"] != "ok", "health to say so")
            finally:
                await site.mend()
            await until(
                lambda: there.health()["status"] == "ok" and is_ready(there.health()), "health to be well again"
            )


class Topology:
    @needs("topology")
    async def test_applied_twice_it_changes_nothing_the_second_time(self, site: BrokerSite) -> None:
        made: list[list[str]] = []
        for _ in range(2):  # who publishes and who reads, each as on a journal of its own
            told = [await site.apply_topology(one) for one in (Service("teller", publishes="tales"), _reader())]
            made.append([what for some in told for what in some])
        assert made[0], "the first time there was something to do"
        assert [] == made[1]

    @needs("topology")
    async def test_applied_to_what_runs_it_loses_nothing(self, site: BrokerSite) -> None:
        log = Log()
        one = listener(log)
        await site.apply_topology(speaker(), one)
        async with speaking(site) as spine, listening(site, one):
            await say(spine, range(5))
            await site.apply_topology(speaker(), one, listener(Log(), "newcomer"))
            await say(spine, range(5, 10))
            await until(lambda: len(log.handled) == 10)
        assert log.in_order()


class Told(Event, context="tales", key="who"):
    """Of a channel that nobody has asked for yet."""

    who: str


def _reader() -> Service[None]:
    service: Service[None] = Service("reader")

    @service.on(Told)
    async def read(event: Told) -> None:
        """Nothing."""

    return service


async def _start_soon(site: BrokerSite) -> None:
    await asyncio.sleep(0.1)  # long enough for somebody to notice
    await site.start_server()
