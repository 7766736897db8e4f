"""Archives: the past of a new consumer, and what was lost on the way."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from eventspine.brokers._eventbridge_topology import CATCH_UP
from eventspine.brokers.port import Needs
from eventspine.errors import BrokerError
from eventspine.testing.servers import Server

from .material import NEEDS, WAIT_S, begun, broker_at, fetch, message, number_of, raw, until

PAST = {"archive": "yes", "archive_delay_s": 0}


async def test_a_new_consumer_gets_the_past_from_the_archive_and_then_what_is_new(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(n) for n in range(1, 31)])
        await broker.apply(NEEDS)
        await broker.send([message(n) for n in range(31, 41)])
        intake = await begun(broker, start="earliest")
        numbers: list[int] = []
        async with asyncio.timeout(WAIT_S):
            while not set(range(1, 41)) <= set(numbers):
                found = await intake.fetch(100, 0.2)
                numbers += [number_of(one) for one in found]
                await intake.settle(found)
        firsts = list(dict.fromkeys(numbers))
        assert set(range(1, 31)) <= set(firsts[:40])
        sqs = raw(server, "sqs")
        queue = sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        await until(lambda: sqs.list_queue_tags(QueueUrl=queue)["Tags"][CATCH_UP] == "done")
        await intake.close()
        replays = len(raw(server, "events").list_replays()["Replays"])
        again = await begun(broker, start="earliest")
        await broker.send([message(41)])
        async with asyncio.timeout(WAIT_S):
            while 41 not in {number_of(one) for one in await again.fetch(100, 0.2)}:
                pass
        assert replays == len(raw(server, "events").list_replays()["Replays"])
        await again.close()


async def test_no_new_event_is_read_before_all_of_the_past(server: Server, bus: str):
    """Else its number would be taken for where its slot begins, and what came before for known."""
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(n) for n in range(1, 6)])
        await broker.apply(NEEDS)
        await broker.send([message(n) for n in range(6, 9)])
        intake = await begun(broker, start="earliest")
        past = await fetch(intake, 5)
        assert {1, 2, 3, 4, 5} <= {number_of(one) for one in past}
        assert [] == list(await intake.fetch(10, 1.5)), "what is in hand is not settled: the past is not over"
        await intake.settle(past)
        rest = await fetch(intake, 3)
        assert {6, 7, 8} <= {number_of(one) for one in [*past, *rest]}
        await intake.close()


async def test_another_process_goes_on_with_a_past_that_was_begun(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(n) for n in range(1, 6)])
        await broker.apply(NEEDS)
        first = await begun(broker, start="earliest")
        some = await fetch(first, 2)
        await first.close()
        second = await begun(broker, start="earliest")
        found = await fetch(second, 5)
        assert {1, 2, 3, 4, 5} == {number_of(one) for one in found}
        assert some
        await second.close()


async def test_a_handler_that_starts_now_has_no_past(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(1)])
        await broker.apply(NEEDS)
        intake = await begun(broker, start="now")
        await broker.send([message(2)])
        assert [2] == [number_of(one) for one in await fetch(intake, 1)]
        await intake.close()


async def test_the_past_waits_until_the_archive_has_what_was_sent_before(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), archive="yes", archive_delay_s=3) as broker:
        await broker.send([message(1)])
        await broker.apply(NEEDS)
        started = time.time()
        intake = await begun(broker, start="earliest")
        assert 1 == number_of((await fetch(intake, 1))[0])
        assert time.time() - started > 1.5
        await intake.close()


async def test_what_was_lost_on_the_way_can_be_replayed_from_the_archive(server: Server, bus: str):
    async with broker_at(server.url, bus, **PAST) as broker:
        await broker.send([message(n) for n in range(1, 4)])
        intake = await begun(broker)
        await intake.settle(await fetch(intake, 3))
        now = datetime.now(UTC)
        name = await broker.replay("orders", "stock.orders", now - timedelta(hours=1), now + timedelta(minutes=1))
        assert name
        assert {1, 2, 3} == {number_of(one) for one in await fetch(intake, 3)}
        await intake.close()
        with pytest.raises(BrokerError, match="archive=yes"):
            await broker.replay("mail", "stock.orders", now, now)
