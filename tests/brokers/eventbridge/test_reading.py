"""Reading queues: settled, in our hands, given back, or seen again when a process died."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from eventspine.brokers.port import Needs
from eventspine.errors import BrokerError
from eventspine.testing.servers import Server

from .faults import FaultyWay, failing_batches
from .material import begun, broker_at, fetch, message, number_of, raw


async def test_what_is_settled_does_not_come_again_and_what_fails_to_settle_is_tried_again(
    server: Server, way: FaultyWay, bus: str
):
    async with broker_at(way.url, bus, visibility_s=3) as broker:
        intake = await begun(broker)
        await broker.send([message(n) for n in range(1, 26)])
        found = await fetch(intake, 25)
        way.faults = [failing_batches("DeleteMessageBatch", "InternalError", 4)]
        await intake.settle(found)
        deleted = [entry["ReceiptHandle"] for body in way.of("DeleteMessageBatch") for entry in body["Entries"]]
        assert 25 + 4 == len(deleted)
        assert 25 == len(set(deleted))
        await intake.close()
        queue = raw(server, "sqs").get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        left = raw(server, "sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=counts)["Attributes"]
        assert {"0"} == set(left.values())


async def test_what_can_not_be_settled_is_said_and_comes_again(server: Server, way: FaultyWay, bus: str):
    async with broker_at(way.url, bus, visibility_s=3) as broker:
        intake = await begun(broker)
        await broker.send([message(n) for n in range(1, 4)])
        found = await fetch(intake, 3)
        way.faults = [failing_batches("DeleteMessageBatch", "InternalError", 1000)]
        with pytest.raises(BrokerError, match="did not delete 1 message"):
            await intake.settle(found)
        await intake.close()
        way.faults = []
        again = await begun(broker)
        assert [1] == [number_of(one) for one in await fetch(again, 1)]
        await again.close()


async def test_what_was_deleted_already_is_no_failure(server: Server, bus: str):
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        await broker.send([message(1)])
        found = await fetch(intake, 1)
        await intake.settle(found)
        await intake.settle(found)
        await intake.close()


async def test_what_is_in_our_hands_stays_ours_for_longer_than_its_time(server: Server, bus: str):
    async with broker_at(server.url, bus, visibility_s=3) as broker:
        intake = await begun(broker)
        await broker.send([message(1)])
        found = await fetch(intake, 1)
        queue = raw(server, "sqs").get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        seen: list[Any] = []
        until_s = time.monotonic() + 5
        while time.monotonic() < until_s:
            seen += await intake.fetch(10, 0.5)
            seen += raw(server, "sqs").receive_message(QueueUrl=queue, VisibilityTimeout=0).get("Messages", [])
        assert [] == seen
        await intake.settle(found)
        await intake.close()


async def test_what_a_dead_process_had_comes_again_after_its_time(server: Server, bus: str):
    async with (
        broker_at(server.url, bus, visibility_s=3) as other,
        broker_at(server.url, bus, visibility_s=3) as broker,
    ):
        dying = await begun(broker)
        await broker.send([message(1)])
        await fetch(dying, 1)
        dying._keeping.cancel()  # a process that was killed renews nothing, and gives nothing back
        for task in list(broker._polls):
            task.cancel()
        intake = await begun(other)
        assert [] == list(await intake.fetch(10, 0.5))
        assert [1] == [number_of(one) for one in await fetch(intake, 1)]
        await intake.close()


async def test_a_partition_that_is_given_up_is_read_by_the_next_at_once(server: Server, bus: str):
    async with broker_at(server.url, bus, visibility_s=25) as broker:
        first = await begun(broker)
        await broker.send([message(n) for n in range(1, 16)])
        await fetch(first, 3)
        started = time.monotonic()
        await first.end(0)
        second = await begun(broker)
        assert list(range(1, 16)) == sorted(number_of(one) for one in await fetch(second, 15))
        assert time.monotonic() - started < 20
        assert [] == list(await first.fetch(10, 0))
        await second.close()
        await first.close()


async def test_what_a_poll_brings_after_its_partition_was_given_up_goes_back(server: Server, bus: str):
    """A long poll can't be taken back; the message that it takes with it must not be gone for `visibility_s`."""
    async with broker_at(server.url, bus, visibility_s=25, poll_s=3) as broker:
        first = await begun(broker)
        await asyncio.sleep(0.2)  # until its poll waits at the server
        await first.end(0)
        await broker.send([message(1)])
        started = time.monotonic()
        second = await begun(broker)
        assert [1] == [number_of(one) for one in await fetch(second, 1)]
        assert time.monotonic() - started < 15
        await second.close()
        await first.close()


async def test_paused_it_takes_no_more_than_it_has_and_goes_on_when_told(server: Server, bus: str):
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        intake.pause()
        await broker.send([message(n) for n in range(1, 4)])
        assert [] == list(await intake.fetch(10, 0.5))
        intake.resume()
        assert [1, 2, 3] == sorted(number_of(one) for one in await fetch(intake, 3))
        await intake.close()


async def test_it_says_how_many_there_are_that_nobody_fetched(server: Server, bus: str):
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        intake.pause()
        await asyncio.sleep(1.2)  # the poll that was under way has ended
        await broker.send([message(n) for n in range(1, 5)])
        assert 4 == await intake.lag()
        await intake.close()


async def test_a_queue_that_vanishes_ends_the_intake_and_is_named(server: Server, bus: str):
    sqs = raw(server, "sqs")
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"])
        with pytest.raises(BrokerError, match="stock"):
            await fetch(intake, 1)
        await intake.close()
        with pytest.raises(BrokerError, match="topology apply"):
            await begun(broker)


async def test_without_its_rules_an_intake_says_what_to_do(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"])) as broker:
        with pytest.raises(BrokerError, match="topology apply"):
            await broker.intake("orders", "stock.orders", lambda: None)
