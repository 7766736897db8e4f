"""What is made at AWS, whose it is, and what a look at it says."""

from __future__ import annotations

import asyncio
import json

from eventspine.brokers.eventbridge import from_url
from eventspine.brokers.port import Needs
from eventspine.testing.servers import Server

from .material import NEEDS, begun, broker_at, fetch, message, number_of, raw, url_of


async def test_what_is_needed_is_made_once(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(), archive="yes", partitions=2) as broker:
        made = await broker.apply(NEEDS)
        kinds = [one.what.split()[0] for one in made]
        assert [*["archive"], *["queue"] * 4, *["rule"] * 4] == kinds
        assert [] == list(await broker.apply(NEEDS))
        assert [] == list(await broker.differences(NEEDS))


async def test_what_is_there_and_different_is_told_and_left(server: Server, bus: str):
    events = raw(server, "events")
    async with broker_at(server.url, bus), broker_at(server.url, bus, Needs(), partitions=5, archive="yes") as other:
        await other.apply(Needs(["orders"]))
        [partitions] = await other.differences(NEEDS)
        assert (False, "5 partitions") == (partitions.safe, partitions.wanted)
        assert [] == list(await other.apply(NEEDS))
        [rule] = events.list_rules(EventBusName=bus, NamePrefix="stock_orders.p")["Rules"]
        assert {"source": ["orders"]} == json.loads(rule["EventPattern"])
        days = from_url(url_of(server.url, bus, archive="yes", archive_days=3))
        await days.open()
        archive = list(await days.differences(Needs(["orders"])))
        await days.close()
        assert [(False, "kept for ever")] == [(one.safe, one.found) for one in archive]
    async with broker_at(server.url, bus) as broker:
        events.disable_rule(Name=rule["Name"], EventBusName=bus)
        [disabled] = await broker.differences(NEEDS)
        assert (False, "disabled") == (disabled.safe, disabled.found)


async def test_a_rule_without_its_target_and_a_queue_without_its_policy_are_mended(server: Server, bus: str):
    """As after a process that died in the middle, or somebody who took it away."""
    events, sqs = raw(server, "events"), raw(server, "sqs")
    other = {
        "Sid": "other",
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": "sqs:ReceiveMessage",
        "Resource": "*",
    }
    async with broker_at(server.url, bus) as broker:
        queue = sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        policy = json.dumps({"Version": "2012-10-17", "Statement": [other]})
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
        events.remove_targets(Rule="stock_orders.p0", EventBusName=bus, Ids=["eventspine"])
        made = await broker.apply(NEEDS)
        assert {"policy of queue", "target of rule"} == {" ".join(one.what.split()[:3]) for one in made}
        attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        statements = json.loads(attributes["Policy"])["Statement"]
        assert ["other", "eventspine"] == [one["Sid"] for one in statements]
        assert "events.amazonaws.com" == statements[1]["Principal"]["Service"]
        assert statements[1]["Condition"]["ArnLike"]["aws:SourceArn"].endswith(":rule/*")
        assert ("1209600", None) == (attributes["MessageRetentionPeriod"], attributes.get("RedrivePolicy"))
        assert [] == list(await broker.differences(NEEDS))


async def test_a_queue_has_the_options_of_the_address(server: Server, bus: str):
    async with broker_at(server.url, bus, visibility_s=7):
        sqs = raw(server, "sqs")
        queue = sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        assert ("7", "1") == (found["VisibilityTimeout"], found["ReceiveMessageWaitTimeSeconds"])


async def test_a_prefix_keeps_apart_who_shares_a_bus(server: Server, bus: str):
    async with broker_at(server.url, bus, prefix="a.") as one, broker_at(server.url, bus, prefix="b.") as other:
        intakes = await begun(one), await begun(other)
        assert intakes[0].feed != intakes[1].feed
        await one.send([message(1)])
        assert [1] == [number_of(got) for got in await fetch(intakes[0], 1)]
        assert [] == list(await intakes[1].fetch(10, 0.5))
        assert "me" == await one.claim("consumer", "stock.orders", "me", force=False)
        assert "you" == await other.claim("consumer", "stock.orders", "you", force=False)
        for intake in intakes:
            await intake.close()


# --- claims -------------------------------------------------------------------------------------------------------


async def test_of_many_who_claim_at_once_one_has_it_and_all_are_told_whose_it_is(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs()) as broker:
        names = [f"journal-{n}.1" for n in range(8)]
        told = await asyncio.gather(*(broker.claim("publisher", "orders", name, force=False) for name in names))
        assert 1 == len(set(told))
        winner = told[0]
        assert winner in names
        assert [winner] * 2 == [
            await broker.claim("publisher", "orders", name, force=False) for name in (names[0], winner)
        ]


async def test_a_claim_is_of_its_role_and_name_and_can_be_taken_over(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs()) as broker, broker_at(server.url, bus, Needs()) as other:
        assert "one" == await broker.claim("publisher", "orders", "one", force=False)
        assert "two" == await other.claim("consumer", "orders", "two", force=False)
        assert "two" == await other.claim("publisher", "mail", "two", force=False)
        assert "one" == await other.claim("publisher", "orders", "two", force=False)
        assert "two" == await other.claim("publisher", "orders", "two", force=True)
        assert "two" == await broker.claim("publisher", "orders", "one", force=False)
        assert "two" == await other.claim("publisher", "orders", "two", force=False)


# --- findings -----------------------------------------------------------------------------------------------------


async def test_doctor_is_told_what_can_lose_events(server: Server, bus: str):
    events, sqs = raw(server, "events"), raw(server, "sqs")
    async with broker_at(server.url, bus, partitions=2, archive="yes", archive_days=7) as broker:
        calm = await broker.findings(NEEDS)
        assert not [one for one in calm if one.level == "danger"]
        assert ["keeps 7 days: a new consumer begins there."] == [
            one.says for one in calm if one.what.startswith("archive")
        ]
        queue = sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        dead = sqs.create_queue(QueueName=f"dead-{bus}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        changed = {
            "MessageRetentionPeriod": "3600",
            "MaximumMessageSize": "4096",
            "SqsManagedSseEnabled": "false",
            "Policy": "",
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3}),
        }
        sqs.set_queue_attributes(QueueUrl=queue, Attributes=changed)
        events.disable_rule(Name="stock_orders.p0", EventBusName=bus)
        events.remove_targets(Rule="stock_orders.p1", EventBusName=bus, Ids=["eventspine"])
        found = [(one.level, one.what, one.says) for one in await broker.findings(NEEDS)]
        said = " ".join(f"{level} {what} {says}" for level, what, says in found)
        for words in (
            "drops what nobody fetched for 1h; 14d are possible",
            "has a redrive policy",
            "is not encrypted",
            "takes messages of 4,096 bytes",
            "does not let EventBridge send",
            "danger rule stock_orders.p0 is disabled",
            "danger rule stock_orders.p1 does not send to",
        ):
            assert words in said, words
