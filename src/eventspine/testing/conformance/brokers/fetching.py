"""The port of a broker by itself: what an intake fetches, where it begins, and what comes again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from ....brokers.port import AHEAD_BYTES_MAX, FETCH_BYTES, Needs
from ..running import needs
from .carried import CarriedSite
from .reading import CHANNEL, ONE, OTHER, QUIET_S, ids, large, last, messages, opened, reading, sent


class Fetching:
    async def test_where_nothing_is_nothing_is_fetched_and_not_for_longer_than_asked(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert [] == await reader.fetch(10, QUIET_S)
            assert loop.time() - began < 10
            assert [] == await reader.fetch(10, 0)

    async def test_a_fetch_that_waits_is_woken_by_what_comes(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            waiting = asyncio.create_task(reader.fetch(10, 30))
            await asyncio.sleep(0.05)  # it waits by now, or will soon
            await sent(broker, *messages(broker, 1))
            async with asyncio.timeout(20):
                assert 1 == len(await waiting)

    async def test_a_fetch_gives_no_more_than_it_was_asked_for(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given = messages(broker, 30, slots=9)
            await sent(broker, *given)
            assert sorted(one.id for one in given) == sorted(ids(broker, await reader.read(30, most=2)))
            await reader.nothing()

    async def test_a_fetch_gives_some_megabytes_at_most(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given = large(broker, site.event_bytes_max, 3 * FETCH_BYTES)
            await sent(broker, *given)
            came, left = list[str](), len(given)
            while left:
                page = await reader.read_once()
                assert sum(len(one.data) for one in page[:-1]) < FETCH_BYTES
                came, left = came + ids(broker, page), left - len(page)
            assert sorted(one.id for one in given) == sorted(came)

    @needs("bytes", "cuts")
    async def test_what_it_takes_before_it_is_fetched_is_bounded_in_bytes(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            given = large(broker, site.event_bytes_max, 2 * AHEAD_BYTES_MAX)
            for at in range(0, len(given), 10):
                await sent(broker, *given[at : at + 10])
            began = site.came_bytes
            async with reading(broker) as reader:
                came = await reader.read(4, most=1)
                await _still(site)
                assert site.came_bytes - began < AHEAD_BYTES_MAX
                while len(came) < len(given):  # and goes on
                    came += (page := await reader.read_once())
                    await reader.intake.settle(page)
            assert sorted(one.id for one in given) == sorted(ids(broker, came))

    async def test_a_fetch_that_was_cancelled_has_taken_nothing(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given, came = messages(broker, 60, slots=9), list[str]()
            for at in range(0, 60, 3):
                waiting = asyncio.create_task(reader.fetch(100, 5))
                await sent(broker, *given[at : at + 3])
                for _ in range(at % 7):
                    await asyncio.sleep(0)
                waiting.cancel()
                for outcome in await asyncio.gather(waiting, return_exceptions=True):
                    came += ids(broker, outcome) if isinstance(outcome, list) else []
            came += await reader.ids(60 - len(came))
            assert sorted(one.id for one in given) == sorted(came)

    async def test_two_consumers_each_have_everything(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as one, reading(broker, OTHER) as two:
            given = messages(broker, 20, slots=9)
            await sent(broker, *given)
            for reader in (one, two):
                got = await reader.read(20)
                await reader.intake.settle(got)
                assert sorted(one.id for one in given) == sorted(ids(broker, got))

    async def test_what_two_consumers_read_is_the_same_feed_each_time(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            async with reading(broker) as reader:
                before = reader.intake.feed
            async with opened(site) as second, reading(second, OTHER) as reader:
                assert before == reader.intake.feed
        assert CHANNEL in before

    async def test_a_paused_intake_has_nothing_and_then_everything(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            reader.intake.pause()
            given = messages(broker, 10, slots=5)
            await sent(broker, *given)
            await reader.nothing()
            reader.intake.resume()
            assert sorted(one.id for one in given) == sorted(await reader.ids(10))

    async def test_of_a_partition_that_was_ended_nothing_more_comes(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            await sent(broker, *messages(broker, 20, slots=960))
            partition = (await reader.fetch(1, 10))[0].partition
            await reader.intake.end(partition)
            came = [one for _ in range(5) for one in await reader.intake.fetch(100, 0.1)]
            assert partition not in {one.partition for one in came}

    async def test_what_has_not_been_fetched_is_its_lag_if_it_can_say(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given = messages(broker, 10, slots=5)
            await sent(broker, *given)
            got = await reader.read(5, most=1)
            lag = await reader.intake.lag()
            assert lag is None or lag >= 0
            got += await reader.read(5)
            await reader.intake.settle(got)
            while await reader.intake.lag():  # noqa: ASYNC110 -- only the broker knows
                await asyncio.sleep(0.05)  # until the broker has counted it


async def _still(site: CarriedSite) -> None:
    """Until nothing more comes."""
    before = -1
    while before != site.came_bytes:
        before = site.came_bytes
        await asyncio.sleep(QUIET_S)


class Beginning:
    @needs("earliest")
    async def test_from_the_earliest_it_has_what_was_sent_before_it(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            given = messages(broker, 5)
            await sent(broker, *given)
            await broker.apply(Needs(consumes=[(CHANNEL, "late.talk")]))
            async with reading(broker, "late.talk", start="earliest") as reader:
                assert [one.id for one in given] == sorted(await reader.ids(5), key=[m.id for m in given].index)

    @needs("now")
    async def test_from_now_it_has_what_is_sent_after_it(self, site: CarriedSite) -> None:
        async with opened(site, ONE) as broker:
            await sent(broker, *messages(broker, 5))
            await broker.apply(Needs(consumes=[(CHANNEL, "late.talk")]))
            async with reading(broker, "late.talk", start="now") as reader:
                later = messages(broker, 3)
                await sent(broker, *later)
                assert sorted(one.id for one in later) == sorted(await reader.ids(3))

    @needs("time")
    async def test_from_a_time_it_has_what_was_sent_since(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            await sent(broker, *messages(broker, 5, slots=5))
            await asyncio.sleep(0.05)  # clocks of a broker go by milliseconds
            moment = datetime.now(UTC)
            await asyncio.sleep(0.05)
            later = messages(broker, 5, slots=5)
            await sent(broker, *later)
            async with reading(broker, start=moment) as reader:
                assert sorted(one.id for one in later) == sorted(await reader.ids(5))

    @needs("positions")
    async def test_after_a_position_it_reads_on(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            given = messages(broker, 30, slots=9)
            await sent(broker, *given)
            async with reading(broker) as reader:
                got = await reader.read(12, most=1)  # so that it ends there
            assert all(one.position > 0 for one in got)
            async with reading(broker, after=last(got)) as reader:
                rest = await reader.ids(18)
            assert sorted(one.id for one in given) == sorted([*ids(broker, got), *rest])

    @needs("positions")
    async def test_positions_of_a_partition_grow(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            await sent(broker, *messages(broker, 50, slots=9))
            got = await reader.read(50)
        for partition in {one.partition for one in got}:
            positions = [one.position for one in got if one.partition == partition]
            assert sorted(set(positions)) == positions

    @needs("positions")
    async def test_where_it_began_can_be_gone_back_to(self, site: CarriedSite) -> None:
        """So "now" stays where it was, although nothing had come yet when its process ended."""
        async with opened(site) as broker:
            await sent(broker, *messages(broker, 5, slots=5))
            async with reading(broker, start="now") as reader:
                begun = {partition: after for partition, after in reader.begun.items() if after is not None}
                assert begun.keys() == reader.begun.keys()
            later = messages(broker, 5, slots=5)
            await sent(broker, *later)
            async with reading(broker, after=begun, start="now") as reader:
                assert sorted(one.id for one in later) == sorted(await reader.ids(5))

    @needs("positions")
    async def test_one_reads_again_while_another_reads_on(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as live:
            given = messages(broker, 10)
            await sent(broker, *given)
            await live.read(10)
            async with reading(broker, OTHER) as again:
                assert [one.id for one in given] == await again.ids(10)
                more = messages(broker, 3)
                await sent(broker, *more)
                assert [one.id for one in more] == await live.ids(3)


class Settling:
    @needs("queue")
    async def test_what_was_not_settled_comes_again_and_what_was_does_not(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            given = messages(broker, 10, slots=5)
            async with reading(broker) as reader:
                await sent(broker, *given)
                got = await reader.read(10)
                await reader.intake.settle(got[:4])
            async with reading(broker) as reader:
                again = await reader.read(6)
                assert sorted(ids(broker, got[4:])) == sorted(ids(broker, again))
                await reader.intake.settle(again)
            async with reading(broker) as reader:
                await reader.nothing()

    @needs("queue")
    async def test_what_a_partition_had_in_hand_is_given_back_at_its_end(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            await sent(broker, *messages(broker, 10))
            got = await reader.read(10)
            partition = got[0].partition
            await reader.intake.end(partition)
            del reader.begun[partition]
            mine = [one for one in got if one.partition == partition]
            assert sorted(ids(broker, mine)) == sorted(await reader.ids(len(mine)))

    @needs("queue")
    async def test_what_was_in_hand_when_a_connection_ended_comes_again(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            given = messages(broker, 10, slots=5)
            async with opened(site) as dying, reading(dying) as reader:
                await sent(broker, *given)
                await reader.read(10)
                await dying.close()
            async with reading(broker) as reader:
                assert sorted(one.id for one in given) == sorted(await reader.ids(10))

    @needs("positions")
    async def test_settling_moves_nothing_of_a_log(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            given = messages(broker, 6)
            await sent(broker, *given)
            async with reading(broker) as reader:
                await reader.intake.settle(await reader.read(6))
            async with reading(broker) as reader:
                assert [one.id for one in given] == await reader.ids(6)
