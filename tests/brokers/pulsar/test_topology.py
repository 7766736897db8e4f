"""Topics, subscriptions and claims on Pulsar: made once, compared, and never changed behind somebody's back."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers.port import Needs
from eventspine.errors import BrokerError
from eventspine.testing.servers import Server

from .material import CHANNEL, CONSUMER, NEEDS, message, numbers, opened, reading, sent, take, until, url_of

# --- topology ---------------------------------------------------------------------------------------------------------


async def test_topology_makes_namespace_topics_and_subscriptions_and_changes_nothing_twice(
    pulsar_server: Server,
) -> None:
    namespace = f"public/ns{uuid4().hex[:8]}"
    url = url_of(pulsar_server, partitions="3", keep_days="2").replace("public/default", namespace)
    async with opened(url, Needs()) as broker:
        assert [] == list(await broker.differences(Needs())), "opening it made them"
        made = await broker.apply(NEEDS)
        topic = broker.settings.topic(CHANNEL)
        assert [f"topic {topic}", f"subscription {CONSUMER}"] == [one.what for one in made]
        assert [] == list(await broker.apply(NEEDS))
        admin, path = Admin(broker.settings), topic_path(topic)
        assert 3 == (await admin.get(f"{path}/partitions"))["partitions"]
        assert {"retentionTimeInMinutes": 2880, "retentionSizeInMB": -1} == await admin.get(f"{path}/retention")
        assert await admin.get(f"{path}/deduplicationEnabled")
        assert namespace in await admin.get("namespaces/public")


async def test_another_number_of_partitions_is_reported_left_alone_and_not_sent_to(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker:
        await sent(broker, message(1))
    other = url_of(pulsar_server, prefix=broker.settings.prefix, partitions="4")
    async with opened(other, Needs()) as broker:
        [difference] = await broker.differences(NEEDS)
        assert ("4 partitions", "2 partitions", False) == difference[1:]
        assert [] == list(await broker.apply(NEEDS))
        [answer] = await broker.send([message(2)])
        assert "partitions=2" in str(answer)
        with pytest.raises(BrokerError, match="has 2 partitions"):
            await broker.intake(CHANNEL, CONSUMER, lambda: None)


async def test_without_administration_what_is_there_is_used_and_what_is_missing_says_how(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker:
        prefix = broker.settings.prefix
    async with opened(url_of(pulsar_server, prefix=prefix, admin="no")) as broker, reading(broker) as intake:
        await sent(broker, message(1))
        assert [1] == numbers(await take(intake, 1))
        assert "own" == await broker.claim("publisher", CHANNEL, "own", force=False)
        assert ["administration"] == [one.what for one in await broker.findings(NEEDS)]
    nowhere = url_of(pulsar_server, admin="no").replace("public/default", "public/nowhere")
    with pytest.raises(BrokerError, match="pulsar-admin topics create-partitioned-topic"):
        async with opened(nowhere):
            pytest.fail("there is no such namespace")


async def test_whoever_comes_before_the_topics_makes_none(pulsar_server: Server) -> None:
    """The server makes what is asked for, with one partition: nobody may ask before it was made with as many as are wanted."""
    async with opened(url_of(pulsar_server), Needs()) as broker:
        [answer] = await broker.send([message(1)])
        assert "spine topology apply" in str(answer)
        with pytest.raises(BrokerError, match="is not there"):
            await broker.intake(CHANNEL, CONSUMER, lambda: None)
        assert f"topic {broker.settings.topic(CHANNEL)}" in [one.what for one in await broker.differences(NEEDS)]
        await broker.apply(NEEDS)
        assert [] == list(await broker.differences(NEEDS))
        await sent(broker, message(1))


async def test_an_administration_that_was_only_supposed_is_asked_for(pulsar_server: Server) -> None:
    url = url_of(pulsar_server).replace(f"admin={pulsar_server.admin_url}&", "")  # type: ignore[attr-defined]
    with pytest.raises(BrokerError, match=r"8080 can't be reached .* admin=no"):
        async with opened(url):
            pytest.fail("it was not asked")
    async with opened(url_of(pulsar_server), Needs()) as broker:
        topics = await Admin(broker.settings).get("persistent/public/default/partitioned")
    prefix = url.partition("prefix=")[2]
    assert [] == [topic for topic in topics if prefix in topic and CHANNEL in topic]


async def test_an_administration_that_was_named_and_is_not_there_is_an_error(pulsar_server: Server) -> None:
    with pytest.raises(BrokerError, match=r"http://127\.0\.0\.1:1 can't be reached"):
        async with opened(url_of(pulsar_server, admin="http://127.0.0.1:1")):
            pytest.fail("it was not asked")


async def test_doctor_names_what_would_lose_messages(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, keep_days="0", message_bytes_max="6000000"), Needs([CHANNEL])) as broker:
        admin, path = Admin(broker.settings), topic_path(broker.settings.topic(CHANNEL))

        async def said(needs: Needs) -> str:
            return "\n".join(f"{one.level}: {one.says}" for one in await broker.findings(needs))

        found = await said(Needs([CHANNEL]))
        assert "danger: has no subscription and no retention" in found
        assert "warning: acknowledged with 1 of 1 copies" in found
        assert "danger: 5,242,880 bytes, and we send up to 6,000,000" in found
        assert f"danger: has no subscription {CONSUMER}" in await said(NEEDS)
        await admin.make("POST", f"{path}/messageTTL?messageTTL=60")
        quota = {"limitSize": 1_000_000, "limitTime": -1, "policy": "consumer_backlog_eviction"}
        await admin.make("POST", f"{path}/backlogQuota?backlogQuotaType=destination_storage", quota)
        await admin.make("POST", f"{path}/deduplicationEnabled", body=False)
        await broker.apply(NEEDS)
        await sent(broker, message(1))

        async def all_said() -> bool:
            now = await said(NEEDS)
            expected = (
                "older than 60 s",
                "drops its oldest",
                "without deduplication",
                f"{CONSUMER} is 1 batch behind",
            )
            return all(one in now for one in expected)

        await until(all_said, "what was set to be found")
        assert "no retention" not in await said(NEEDS)


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_of_many_that_claim_at_once_one_has_it_and_all_know(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker:
        prefix = broker.settings.prefix
        others = [open_broker(url_of(pulsar_server, prefix=prefix)) for _ in range(4)]
        for one in others:
            await one.open()

        claims = (one.claim("publisher", CHANNEL, f"journal {n}", force=False) for n, one in enumerate(others))
        owners = await asyncio.gather(*claims)
        assert 1 == len(set(owners))
        assert owners[0].startswith("journal ")
        assert "journal 9" == await others[0].claim("publisher", CHANNEL, "journal 9", force=True)
        assert "journal 9" == await others[1].claim("publisher", CHANNEL, "journal 1", force=False)
        assert "journal 1" == await others[1].claim("consumer", CONSUMER, "journal 1", force=False)
        for one in others:
            await one.close()


async def test_claims_can_be_left_out(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, claims="no")) as broker, reading(broker) as intake:
        assert "" == await broker.claim("publisher", CHANNEL, "own", force=False)
        assert "pulsar:public/default:orders" == intake.feed
        topics = await Admin(broker.settings).get("persistent/public/default")
        assert broker.settings.claims_topic not in topics
