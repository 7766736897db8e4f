"""The port of a broker by itself: what is sent comes as it was sent, each has its answer, and a place has one owner."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ....brokers.binding import size_of
from ....brokers.port import Features, Needs
from ....errors import MessageRefused
from ..running import needs
from .carried import CarriedSite
from .reading import CHANNEL, ONE, OTHER, ids, message, messages, opened, reading, sent

ODD = {
    "tenant": "Zoë & Søn \u4f8b",
    "emoji": "\U0001f600",
    "quoted": "\"a\" 'b' \\c `d`",
    "percent": "100% %41 %",
    "spaces": "  before, between and after  ",
    "json": '{"a": [1, null]}',
    "long": "x" * 1000,
}


class Sending:
    async def test_a_broker_can_what_was_declared(self, site: CarriedSite, features: Features) -> None:
        async with opened(site) as broker:
            limit = broker.features.message_bytes_max  # a server may have another than is usual
            assert limit > 0
            assert replace(features, message_bytes_max=limit) == broker.features

    async def test_what_is_sent_comes_as_it_was_sent(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            prefix = broker.features.prefix
            given = [
                message(prefix, 1, data=bytes(range(256)) * 10),
                message(prefix, 2, data=b""),
                message(prefix, 3, more=ODD),
                message(prefix, 4)._replace(key=None),
                message(prefix, 5)._replace(key="Zoë/\u4f8b", content_type="application/octet-stream"),
                message(prefix, 6, data=b"\x00\xff")._replace(content_type="text/plain; charset=utf-8"),
                message(prefix, 7, data=b"x" * 200_000),
            ]
            await sent(broker, *given)
            came = {ids(broker, [one])[0]: one for one in await reader.read(len(given))}
        for one in given:
            got = came[one.id]
            assert one.data == got.data
            assert one.content_type == got.content_type
            assert one.headers == {name: value for name, value in got.headers.items() if name.startswith(prefix)}
            assert got.key in (None, (one.key or "").encode()), "as it was sent, where the broker has a place for it"

    async def test_messages_of_a_slot_take_one_way(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given = [message(broker.features.prefix, n, n % 20, more={"way": str(n % 20)}) for n in range(60)]
            await sent(broker, *given)
            partitions: dict[str, set[int]] = {}
            for one in await reader.read(60):
                partitions.setdefault(one.headers[broker.features.prefix + "way"], set()).add(one.partition)
        assert {1} == {len(used) for used in partitions.values()}

    @needs("ordered")
    async def test_messages_of_a_slot_come_in_order(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given = [message(broker.features.prefix, n, n % 5) for n in range(200)]
            for at in range(0, 200, 25):
                await sent(broker, *given[at : at + 25])
            came = ids(broker, await reader.read(200, most=7))
        for slot in range(5):
            mine = [one.id for one in given if one.slot == slot]
            assert mine == [id for id in came if id in set(mine)]

    async def test_each_message_has_its_answer_and_one_that_is_too_large_takes_none_with_it(
        self, site: CarriedSite
    ) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            given = messages(broker, 5)
            given[2] = message(broker.features.prefix, 2, data=b"x" * 2 * broker.features.message_bytes_max)
            answers = await broker.send(given)
            assert isinstance(answers[2], MessageRefused), answers[2]
            assert [None] * 4 == [*answers[:2], *answers[3:]]
            assert sorted(one.id for n, one in enumerate(given) if n != 2) == sorted(await reader.ids(4))
            await reader.nothing()

    async def test_one_as_large_as_was_declared_comes_through(self, site: CarriedSite) -> None:
        async with opened(site) as broker, reading(broker) as reader:
            small = message(broker.features.prefix, 1, data=b"")
            largest = small._replace(data=b"x" * (broker.features.message_bytes_max - size_of(small)))
            await sent(broker, largest)
            [got] = await reader.read(1)
        assert largest.data == got.data

    async def test_what_is_sent_again_is_not_lost(self, site: CarriedSite) -> None:
        """It comes once or twice; those above the port know it again by its number."""
        async with opened(site) as broker, reading(broker) as reader:
            one, two = messages(broker, 2)
            await sent(broker, one)
            await sent(broker, one)
            await sent(broker, two)
            came: set[str] = set()
            while two.id not in came or one.id not in came:
                came |= set(ids(broker, await reader.fetch(10)))

    async def test_many_at_once_from_two_connections(self, site: CarriedSite) -> None:
        async with opened(site) as broker, opened(site) as second, reading(broker) as reader:
            given = messages(broker, 400, slots=50)
            await asyncio.gather(sent(broker, *given[:200]), sent(second, *given[200:]))
            assert sorted(one.id for one in given) == sorted(await reader.ids(400))

    @needs("topology")
    async def test_what_is_needed_is_made_and_then_there_is_no_difference(self, site: CarriedSite) -> None:
        broker = site.broker()
        await broker.open()
        asked = Needs(["talk", "fresh"], [("talk", ONE), ("fresh", "listener.fresh")])
        assert list(await broker.differences(asked))
        assert all(one.safe for one in await broker.differences(asked))
        assert list(await broker.apply(asked))
        assert [] == list(await broker.differences(asked))
        assert [] == list(await broker.apply(asked))
        assert [] == list(await broker.apply(Needs(["talk"]))), "what others need stays"
        assert [] == list(await broker.differences(asked))
        await broker.close()

    async def test_findings_are_of_the_live_broker_and_hold_no_secret(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            found = list(await broker.findings(Needs([CHANNEL], [(CHANNEL, ONE)])))
        assert found
        assert all(one.level in ("ok", "warning", "danger") and one.what and one.says for one in found)


class Claiming:
    @needs("claims")
    async def test_who_claims_first_has_it_and_the_second_is_told_whose_it_is(self, site: CarriedSite) -> None:
        async with opened(site) as broker, opened(site) as second:
            assert "one" == await broker.claim("publisher", CHANNEL, "one", force=False)
            assert "one" == await second.claim("publisher", CHANNEL, "two", force=False)
            assert "one" == await broker.claim("publisher", CHANNEL, "one", force=False), "asked again it is ours"

    @needs("claims")
    async def test_roles_and_names_are_claimed_apart(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            assert "one" == await broker.claim("publisher", CHANNEL, "one", force=False)
            assert "two" == await broker.claim("consumer", ONE, "two", force=False)
            assert "three" == await broker.claim("consumer", OTHER, "three", force=False)
            assert "two" == await broker.claim("consumer", ONE, "four", force=False)

    @needs("claims")
    async def test_a_claim_can_be_taken_by_force_and_outlives_who_made_it(self, site: CarriedSite) -> None:
        async with opened(site) as broker:
            await broker.claim("consumer", ONE, "one", force=False)
            assert "two" == await broker.claim("consumer", ONE, "two", force=True)
        async with opened(site) as broker:
            assert "two" == await broker.claim("consumer", ONE, "one", force=False)

    @needs("claims")
    async def test_of_many_that_claim_at_once_one_has_it(self, site: CarriedSite) -> None:
        async with opened(site) as broker, opened(site) as second:
            asked = [one.claim("publisher", CHANNEL, f"{n}", force=False) for n in range(5) for one in (broker, second)]
            assert 1 == len(set(await asyncio.gather(*asked)))
