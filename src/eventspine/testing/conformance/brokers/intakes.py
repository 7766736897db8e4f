"""The port of a feed by itself: what an intake fetches, settles, is assigned and seeks."""

from __future__ import annotations

import asyncio

from ....brokers.embedded import Features
from ....journal.port import Record
from ..running import needs
from .material import WAIT_S, fetched, record
from .site import EmbeddedSite

MIB = 1024 * 1024


class Intakes:
    async def test_a_broker_can_what_was_declared(self, site: EmbeddedSite, features: Features) -> None:
        assert features == site.broker().features

    async def test_nothing_is_fetched_where_nothing_is(self, site: EmbeddedSite) -> None:
        intake = site.broker().intake("email", ["talk"], [], after=0)
        assert [] == list((await intake.fetch(records_max=10)).records)
        await intake.close()

    async def test_it_goes_on_where_its_last_fetch_ended(self, site: EmbeddedSite) -> None:
        intake = site.broker().intake("email", ["talk"], [], after=0)
        sent = [record(n) for n in range(7)]
        await site.publish(*sent)
        first, rest = await fetched(intake, 3), await fetched(intake, 4)
        assert 3 == len(first)
        assert {one.id for one in sent} == {one.id for one in [*first, *rest]}
        assert [] == list((await intake.fetch(records_max=10)).records)
        await intake.close()

    async def test_a_fetch_gives_no_more_than_it_was_asked_for(self, site: EmbeddedSite) -> None:
        await site.publish(*(record(n) for n in range(9)))
        intake = site.broker().intake("email", ["talk"], [], after=0)
        seen = 0
        while seen < 9:
            page = await intake.fetch(records_max=2)
            assert len(page.records) <= 2
            seen += len(page.records)
        await intake.close()

    async def test_a_fetch_gives_some_megabytes_at_most(self, site: EmbeddedSite) -> None:
        sent = [record(n, data=bytes(MIB // 2)) for n in range(40)]
        await site.publish(*sent)
        intake = site.broker().intake("email", ["talk"], [], after=0)
        got: list[Record] = []
        while len(got) < len(sent):
            page = await intake.fetch(records_max=1000)
            assert sum(len(one.data) for one in page.records) <= 16 * MIB
            got += page.records
        await intake.close()
        assert [one.id for one in sent] == [one.id for one in got]

    async def test_it_has_its_channels_and_no_others(self, site: EmbeddedSite) -> None:
        await site.publish(record(1), record(2, channel="noise", type="noise.Shouted"), record(3))
        intake = site.broker().intake("email", ["talk"], [], after=0)
        assert {"talk"} == {one.channel for one in await fetched(intake, 2)}
        assert [] == list((await intake.fetch(records_max=10)).records)
        await intake.close()

    async def test_records_arrive_as_they_were_sent(self, site: EmbeddedSite) -> None:
        sent = record(
            1, key="Zoë/\u4f8b", data=b"\x00\xff" * 50, meta='{"tenant":"Zoë"}'.encode(), correlation="c", causation="d", hops=3
        )  # fmt: skip
        await site.publish(sent)
        intake = site.broker().intake("email", ["talk"], [], after=0)
        [got] = await fetched(intake, 1)
        assert sent == got._replace(position=sent.position, recorded_us=sent.recorded_us)
        assert got.position > 0
        await intake.close()

    @needs("ordered")
    async def test_records_of_a_slot_come_in_order(self, site: EmbeddedSite) -> None:
        sent = [record(n, slot=n % 5) for n in range(100)]
        for at in range(0, 100, 10):
            await site.publish(*sent[at : at + 10])
        intake = site.broker().intake("email", ["talk"], [], after=0)
        got = await fetched(intake, 100, records_max=7)
        for slot in range(5):
            assert [one.id for one in sent if one.slot == slot] == [one.id for one in got if one.slot == slot]
        await intake.close()

    @needs("one_feed")
    async def test_all_of_a_feed_comes_in_one_order_to_everybody(self, site: EmbeddedSite) -> None:
        await asyncio.gather(*(site.publish(record(n, slot=n)) for n in range(40)))
        orders = []
        for service in ("email", "billing"):
            intake = site.broker().intake(service, ["talk"], [], after=0)
            orders.append([one.id for one in await fetched(intake, 40)])
            await intake.close()
        assert orders[0] == orders[1]

    async def test_two_services_each_have_everything(self, site: EmbeddedSite) -> None:
        await site.publish(*(record(n) for n in range(5)))
        for service in ("email", "billing"):
            intake = site.broker().intake(service, ["talk"], [], after=0)
            got = await fetched(intake, 5)
            await intake.settle(got)
            await intake.close()

    async def test_what_was_released_is_not_lost(self, site: EmbeddedSite, features: Features) -> None:
        await site.publish(*(record(n) for n in range(3)))
        intake = site.broker().intake("email", ["talk"], [], after=0)
        got = await fetched(intake, 3)
        await intake.release(got)
        await intake.close()
        again = site.broker().intake("email", ["talk"], [], after=0)
        assert {one.id for one in got} == {one.id for one in await fetched(again, 3)}
        await again.close()

    @needs("settles")
    async def test_what_was_settled_does_not_come_again(self, site: EmbeddedSite) -> None:
        await site.publish(*(record(n, slot=1) for n in range(6)))
        intake = site.broker().intake("email", ["talk"], [], after=0)
        got = await fetched(intake, 6)
        await intake.settle(got[:4])
        await intake.close()
        again = site.broker().intake("email", ["talk"], [], after=0)
        assert {one.id for one in got[4:]} == {one.id for one in await fetched(again, 2)}
        assert [] == list((await again.fetch(records_max=10)).records)
        await again.close()

    @needs("rewinds")
    async def test_it_seeks_beside_another_that_reads_on(self, site: EmbeddedSite) -> None:
        broker = site.broker()
        await site.publish(*(record(n) for n in range(6)))
        live, replaying = (broker.intake("email", ["talk"], [], after=0) for _ in range(2))
        got = await fetched(live, 6)
        await fetched(replaying, 6)
        await replaying.seek(got[2].position)
        assert [one.id for one in got[3:]] == [one.id for one in await fetched(replaying, 3)]
        await site.publish(late := record(99))
        assert [late.id] == [one.id for one in await fetched(live, 1)]
        await live.close()
        await replaying.close()

    async def test_with_nothing_assigned_it_has_nothing(self, site: EmbeddedSite) -> None:
        await site.publish(record(1))
        intake = site.broker().intake("email", ["talk"], [], after=0)
        await intake.assign([])
        assert [] == list((await intake.fetch(records_max=10)).records)
        await intake.close()

    async def test_it_is_woken_when_there_is_more(self, site: EmbeddedSite) -> None:
        rung = asyncio.Event()
        stop = site.broker().watch(rung.set)
        await site.publish(record(1))
        await asyncio.wait_for(rung.wait(), WAIT_S)
        stop()

    async def test_an_envelope_without_key_data_or_extras_travels_too(self, site: EmbeddedSite) -> None:
        bare = record(1, key=None, data=b"", meta=None, correlation=None, causation=None)
        await site.publish(bare)
        intake = site.broker().intake("email", ["talk"], [], after=0)
        [got] = await fetched(intake, 1)
        await intake.close()
        assert bare == got._replace(position=0, recorded_us=0)
