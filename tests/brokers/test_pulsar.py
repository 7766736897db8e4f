"""The Pulsar adapter on a real Pulsar: what the port's suite does not ask, since it is Pulsar's own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import _pulsar
import pulsar
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from eventspine.brokers import _pulsar_sender, open_broker
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers._pulsar_intake import (
    ENTRY_MAX,
    INDEX_MAX,
    LEDGER_BITS,
    PulsarIntake,
    entry_of,
    position,
)
from eventspine.brokers.binding import NotAnEvent, incoming, message_of
from eventspine.brokers.port import KEPT_BYTES_MAX, Fetched, Message, Needs, Start
from eventspine.brokers.pulsar import PulsarBroker
from eventspine.errors import BrokerError, MessageRefused, SettingsError
from eventspine.journal.port import Record
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite
from eventspine.testing.servers import Proxy, Server

WAIT_S = 60.0
CHANNEL = "orders"
CONSUMER = f"stock.{CHANNEL}"
NEEDS = Needs([CHANNEL], [(CHANNEL, CONSUMER)])


def url_of(server: Any, address: str = "", **options: str) -> str:
    """Names that nobody else uses."""
    said = {"admin": server.admin_url, "partitions": "2", "prefix": f"t{uuid4().hex[:10]}.", **options}
    return f"{address or server.url}/public/default?{'&'.join(f'{name}={value}' for name, value in said.items())}"


@asynccontextmanager
async def opened(url: str, needs: Needs = NEEDS) -> AsyncIterator[PulsarBroker]:
    broker = open_broker(url)
    assert isinstance(broker, PulsarBroker)
    await broker.open()
    try:
        await broker.apply(needs)
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def reading(
    broker: PulsarBroker, *, after: dict[int, int] | None = None, start: Start = "earliest"
) -> AsyncIterator[PulsarIntake]:
    intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
    try:
        for partition in sorted(intake.assigned()):
            await intake.begin(partition, after=(after or {}).get(partition), start=start, epoch=1)
        yield intake
    finally:
        await intake.close()


def message(number: int, *, slot: int = 0, data: bytes = b"{}", more: dict[str, str] | None = None) -> Message:
    headers = {"ce_id": str(number), "ce_type": "orders.Placed", **(more or {})}
    return Message(CHANNEL, slot, f"key {slot}", str(number), headers, "application/json", data)


async def sent(broker: PulsarBroker, *messages: Message) -> None:
    assert [None] * len(messages) == list(await broker.send(messages))


async def take(intake: PulsarIntake, count: int, most: int = 1000) -> list[Fetched]:
    found: list[Fetched] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await intake.fetch(min(most, count - len(found)), 0.5)
    return found


def numbers(fetched: list[Fetched]) -> list[int]:
    return [int(one.headers["ce_id"]) for one in fetched]


async def until(true: Callable[[], Any], what: str) -> None:
    """An answer of the server that takes its time."""
    give_up = monotonic() + WAIT_S
    while not await true():
        assert monotonic() < give_up, what
        await asyncio.sleep(0.1)


async def stats(broker: PulsarBroker, partition: int = 0) -> Any:
    topic = f"{broker.settings.topic(CHANNEL)}-partition-{partition}"
    return await Admin(broker.settings).get(f"{topic_path(topic)}/internalStats")


async def anchored_at(broker: PulsarBroker, partition: int = 0) -> tuple[int, ...]:
    """Ledger and entry up to which data may go."""
    cursor = (await stats(broker, partition))["cursors"][CONSUMER]
    return tuple(int(part) for part in cursor["markDeletePosition"].split(":"))


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_position_is_a_message_id_in_63_bits_that_grows() -> None:
    ids = [(0, -1, -1), (0, 0, -1), (0, 0, 1), (0, 1, 0), (0, 1, 999), (7, -1, -1), (7, 0, 0), (8, 50_000, 3)]
    last = (2**LEDGER_BITS - 1, ENTRY_MAX, INDEX_MAX)
    found = [position(*id) for id in [*ids, last]]
    assert sorted(set(found)) == found
    assert 0 == found[0]
    assert found[-1] < 2**63
    assert [(ledger, entry) for ledger, entry, _ in [*ids, last]] == [entry_of(one) for one in found]
    assert 0 == position(-1, -1, -1), "of an empty topic"


def test_beyond_its_limits_a_position_stays_behind_or_is_refused() -> None:
    assert position(3, 4, INDEX_MAX) == position(3, 4, 50_000) < position(3, 5, 0)
    assert position(3, ENTRY_MAX, INDEX_MAX) == position(3, 2**30, 0) < position(4, -1, -1)
    with pytest.raises(BrokerError, match="beyond 2,147,483,648"):
        position(2**LEDGER_BITS, 0, 0)


def batches_of(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is sent when it has so many messages, however long that takes."""
    monkeypatch.setattr(_pulsar_sender, "BATCH_MESSAGES", count)
    monkeypatch.setattr(_pulsar_sender, "BATCH_WAIT_MS", 600_000)


async def test_it_reads_on_in_the_middle_of_a_batch(pulsar_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    batches_of(100, monkeypatch)
    async with opened(url_of(pulsar_server)) as broker:
        await sent(broker, *(message(n) for n in range(100)))
        async with reading(broker) as intake:
            some = await take(intake, 37)
        assert some[0].position >> 11 == some[36].position >> 11, "they came as one batch"
        async with reading(broker, after={0: some[-1].position}) as intake:
            rest = await take(intake, 63)
            assert [] == list(await intake.fetch(10, 0.2))
    assert list(range(100)) == numbers(some + rest)


# --- what is kept until it is settled ---------------------------------------------------------------------------------


async def test_nothing_may_be_deleted_before_it_is_settled_and_everything_after(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, keep_days="0")) as broker, reading(broker) as intake:
        for n in range(5):
            await sent(broker, message(n))  # each an entry
        got = await take(intake, 5)
        begun = await anchored_at(broker)
        await intake.settle([got[1], got[2]])  # the first is held
        await intake.settle([got[4]])
        assert begun == await anchored_at(broker)
        await intake.settle([got[0]])
        third = entry_of(got[2].position)
        await until(lambda: at(broker, third), "the first three to be acknowledged, and no more")
        await intake.settle([got[3]])
        await until(lambda: at(broker, entry_of(got[4].position)), "all to be acknowledged")


async def at(broker: PulsarBroker, place: tuple[int, ...]) -> bool:
    return await anchored_at(broker) == place


async def test_what_is_not_settled_outlives_its_ledger_without_any_retention(pulsar_server: Server) -> None:
    """The topic is rolled and trimmed, as Pulsar does by itself; what was settled is gone, and what was not is there."""
    async with opened(url_of(pulsar_server, keep_days="0", partitions="1")) as broker:
        admin, path = Admin(broker.settings), topic_path(f"{broker.settings.topic(CHANNEL)}-partition-0")
        # Its snapshots, taken every two minutes, hold back deletion too.
        await admin.make("POST", f"{topic_path(broker.settings.topic(CHANNEL))}/deduplicationEnabled", body=False)
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(10)))
            await intake.settle(first := await take(intake, 10))
            ledger = entry_of(first[-1].position)[0]
            await until(lambda: at(broker, entry_of(first[-1].position)), "all to be acknowledged")
        await admin.make("PUT", f"{path}/unload")  # begins another ledger
        await sent_somehow(broker, *(message(n) for n in range(10, 20)))
        await admin.make("PUT", f"{path}/unload")
        await sent_somehow(broker, *(message(n) for n in range(20, 30)))

        async def trimmed() -> bool:
            await admin.make("POST", f"{path}/trim")
            return ledger not in [one["ledgerId"] for one in (await stats(broker))["ledgers"]]

        await until(trimmed, "what was settled to be deleted")
        async with reading(broker, after={0: first[-1].position}) as intake:
            assert list(range(10, 30)) == numbers(await take(intake, 20))
        async with reading(broker) as intake:
            assert list(range(10, 30)) == numbers(await take(intake, 20)), "the earliest that there is"


async def sent_somehow(broker: PulsarBroker, *messages: Message) -> None:
    async def done() -> bool:
        return all(answer is None for answer in await broker.send(messages))

    await until(done, "it to be taken")


async def test_an_owner_that_hangs_keeps_nobody_out_and_its_late_settling_takes_nothing(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker, reading(broker) as hangs:
        for n in range(4):
            await sent(broker, message(n))
        got = await take(hangs, 4)
        async with opened(url_of(pulsar_server, prefix=broker.settings.prefix)) as other:
            async with reading(other, after={0: got[1].position}) as intake:
                again = await take(intake, 2)
                assert [2, 3] == numbers(again)
                await intake.settle(again)
                await until(lambda: at(broker, entry_of(got[3].position)), "all to be acknowledged")
                await hangs.settle(got[:2])  # as it had them stored
                await sent(broker, message(4))
                assert [4] == numbers(await take(intake, 1))
                assert await at(broker, entry_of(got[3].position))


async def test_a_subscription_that_somebody_deleted_is_made_anew_and_reading_goes_on(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker:
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(3)))
            got = await take(intake, 3)
        path = topic_path(broker.settings.topic(CHANNEL))
        await Admin(broker.settings).make("DELETE", f"{path}/subscription/{CONSUMER}")
        assert [f"subscription {CONSUMER}"] == [one.what for one in await broker.differences(NEEDS)]
        await sent(broker, message(3))
        async with reading(broker, after={0: got[-1].position}) as intake:
            assert [3] == numbers(await take(intake, 1))
        assert [] == list(await broker.differences(NEEDS))


async def test_a_topic_that_was_made_anew_is_read_on_without_a_loss(pulsar_server: Server) -> None:
    """Ledgers are numbered across the cluster, so that its positions go on growing."""
    url = url_of(pulsar_server)
    async with opened(url) as broker:
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(10)))
            got, feed = await take(intake, 10), intake.feed
        topic = broker.settings.topic(CHANNEL)
    await Admin(broker.settings).make("DELETE", f"{topic_path(topic)}/partitions?force=true")  # while nobody publishes
    async with opened(url) as broker:
        await sent_somehow(broker, message(99))
        async with reading(broker, after={0: got[-1].position}) as intake:
            assert [99] == numbers(await take(intake, 1))
            assert feed == intake.feed


async def test_partitions_that_are_left_of_a_deleted_topic_are_named(pulsar_server: Server) -> None:
    """Whose topic is deleted while it publishes asks for the partitions again, and gets some: then Pulsar neither has the
    topic nor makes it. That is a race, lost at about every other try."""
    for _ in range(20):
        url = url_of(pulsar_server)
        async with opened(url) as broker:
            await sent(broker, *(message(n) for n in range(10)))
            topic, admin = broker.settings.topic(CHANNEL), Admin(broker.settings)
            sending = asyncio.create_task(broker.send([message(n) for n in range(10, 20)]))
            await admin.make("DELETE", f"{topic_path(topic)}/partitions?force=true")
            await asyncio.wait([sending])
        if said := await refusal(url):
            break
    else:
        pytest.fail("nothing was ever left")
    assert f"topics delete -f {topic}-partition-1" in said
    for number in range(2):
        with suppress(BrokerError):  # 404: not this one
            await admin.make("DELETE", f"{topic_path(f'{topic}-partition-{number}')}?force=true")
    assert not await refusal(url), "what it says to do was done"


async def refusal(url: str) -> str:
    try:
        async with opened(url):
            return ""
    except BrokerError as error:
        return str(error)


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.fixture
def network(pulsar_server: Server) -> Iterator[Proxy]:
    with pulsar_server.proxy() as between:
        yield between


async def test_a_connection_that_went_silent_ends_the_intake_in_time(pulsar_server: Server, network: Proxy) -> None:
    async with opened(url_of(pulsar_server, network.url)) as broker, reading(broker) as intake:
        await asyncio.to_thread(network.lose)
        began = monotonic()
        with pytest.raises(BrokerError, match="does not answer"):
            while True:
                await intake.fetch(10, 1.0)
                assert monotonic() - began < 20
        await sent_somehow(broker, message(1))  # over a new one
        async with reading(broker) as anew:
            assert [1] == numbers(await take(anew, 1))


async def test_what_was_sent_over_a_connection_that_broke_is_there_once(pulsar_server: Server, network: Proxy) -> None:
    """The server has it, the answer is lost, and the client sends it again by itself: deduplication drops that."""
    async with (
        opened(url_of(pulsar_server, network.url)) as broker,
        opened(url_of(pulsar_server, prefix=broker.settings.prefix)) as direct,
    ):
        await sent(broker, message(0))
        async with reading(direct) as intake:
            assert [0] == numbers(await take(intake, 1))
            await asyncio.to_thread(network.cut, "client")
            sending = asyncio.create_task(broker.send([message(n) for n in range(1, 50)]))
            assert list(range(1, 50)) == numbers(await take(intake, 49)), "they arrived"
            await asyncio.to_thread(network.reset)
            await asyncio.to_thread(network.mend)
            assert [None] * 49 == list(await sending)
            assert [] == list(await intake.fetch(100, 1.0)), "and did so once"


async def test_without_a_server_opening_says_so_in_time() -> None:
    began = monotonic()
    with pytest.raises(BrokerError, match=r"pulsar://127\.0\.0\.1:1"):
        async with opened("pulsar://127.0.0.1:1?timeout_s=1"):
            pytest.fail("there is none")
    assert monotonic() - began < 10


async def test_no_answer_to_a_message_is_no_refusal(pulsar_server: Server, network: Proxy) -> None:
    async with opened(url_of(pulsar_server, network.url, timeout_s="1")) as broker:
        await sent(broker, message(0))
        await asyncio.to_thread(network.cut)
        [answer] = await broker.send([message(1)])
        assert isinstance(answer, BrokerError)
        assert not isinstance(answer, MessageRefused)
        await asyncio.to_thread(network.mend)
        await sent_somehow(broker, message(2))


# --- sizes and refusals -----------------------------------------------------------------------------------------------


async def test_a_message_as_large_as_allowed_arrives_and_a_larger_one_is_refused_for_good(
    pulsar_server: Server,
) -> None:
    async with opened(url_of(pulsar_server)) as broker, reading(broker) as intake:
        large = message(1, data=b"x" * (broker.features.message_bytes_max - 40_000), more={"ce_note": "y" * 30_000})
        too_large = message(2, data=b"x" * 5_242_881)
        answers = await broker.send([large, too_large, message(3)])
        assert [None, None] == [answers[0], answers[2]]
        assert isinstance(answers[1], MessageRefused)
        got = await take(intake, 2)
    assert [1, 3] == numbers(got)
    assert large.data == got[0].data


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


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("pulsar://localhost/tenant", "a tenant and a namespace"),
        ("pulsar://localhost/a/b/c", "a tenant and a namespace"),
        ("pulsar://localhost?partition=3", "partitions"),
        ("pulsar://localhost?partitions=0", "1 to 960"),
        ("pulsar://localhost?batches=key", "partition, slot"),
        ("pulsar://localhost?compression=gzip", "lz4"),
        ("pulsar://localhost?admin=localhost:8080", "http://"),
        ("pulsar://localhost?token_file=/nowhere", "can be read"),
        ("pulsar+ssl://localhost?tls_ca=/nowhere", "can be read"),
        ("pulsar+ssl://localhost?tls_cert=/dev/null", "tls_key"),
    ],
)
def test_an_option_that_can_not_be_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_broker(url)


@pytest.mark.parametrize("secret", ["pulsar://ann:s3cret@localhost", "pulsar://localhost?token=s3cret"])
def test_a_secret_is_shown_nowhere(secret: str) -> None:
    broker = open_broker(secret)
    assert isinstance(broker, PulsarBroker)
    assert "s3cret" not in f"{broker.url} {broker.settings!r}"
    assert "s3cret" in str([broker.settings.login.token, broker.settings.login.password])


def test_administration_is_where_it_usually_is() -> None:
    found = [open_broker(url) for url in ("pulsar://one:7000,two:7000", "pulsar+ssl://one/tenant/space")]
    assert ["http://one:8080", "https://one:8443"] == [one.settings.admin for one in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("batches", "entries"), [("partition", 1), ("slot", 3)])
async def test_batches_hold_a_partition_or_a_slot(
    pulsar_server: Server, batches: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slot each is what consumers need that share a partition by key."""
    batches_of(30, monkeypatch)
    async with opened(url_of(pulsar_server, batches=batches)) as broker, reading(broker) as intake:
        await sent(broker, *(message(n, slot=n % 3 * 2) for n in range(30)))
        got = await take(intake, 30)
    places = {entry_of(one.position) for one in got}
    assert entries == len(places)
    for slot in range(3):
        assert [n for n in range(30) if n % 3 == slot] == [n for n in numbers(got) if n % 3 == slot]
    if batches == "slot":
        assert 3 == len({(entry_of(one.position), one.key) for one in got})


async def test_compression_reaches_the_client(pulsar_server: Server) -> None:
    sizes = {}
    for compression in ("none", "lz4", "zlib", "zstd", "snappy"):
        async with opened(url_of(pulsar_server, compression=compression)) as broker, reading(broker) as intake:
            await sent(broker, message(1, data=b"x" * 100_000))
            assert b"x" * 100_000 == (await take(intake, 1))[0].data
            sizes[compression] = (await stats(broker))["currentLedgerSize"]
    assert sizes.pop("none") > 100_000
    assert max(sizes.values()) < 20_000


async def test_prefetch_reaches_the_broker_as_permits(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, prefetch="77")) as broker, reading(broker):
        path = topic_path(f"{broker.settings.topic(CHANNEL)}-partition-0")
        found = (await Admin(broker.settings).get(f"{path}/stats"))["subscriptions"]
        permits = {name: one["consumers"][0]["availablePermits"] for name, one in found.items() if one["consumers"]}
    assert [0, 77] == [permits.pop(CONSUMER), *permits.values()]


async def test_the_client_says_in_its_log_by_which_listener_it_was_sent_where(
    pulsar_server: Server, tmp_path: Path
) -> None:
    """In a process of its own: the first client of a process decides where the log goes."""
    url = url_of(pulsar_server, listener="proxied", client_log=str(tmp_path / "log"))
    code = (
        "import asyncio, sys; from eventspine.brokers import open_broker; from eventspine.brokers.port import Needs\n"
        "async def main():\n"
        "    broker = open_broker(sys.argv[1]); await broker.open()\n"
        "    await broker.apply(Needs([], [('orders', 'stock.orders')])); await broker.close()\n"
        "asyncio.run(main())"
    )
    with pulsar_server.proxy():
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, url)
        assert 0 == await child.wait()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert f"lookup-broker-url pulsar://127.0.0.1:{pulsar_server.port + 3}" in said


# --- others -----------------------------------------------------------------------------------------------------------


def client_of(server: Server) -> pulsar.Client:
    return pulsar.Client(server.url, logger=pulsar.FileLogger(_pulsar.LoggerLevel.Error, os.devnull))


async def test_others_read_our_events_with_the_cloudevents_sdk(pulsar_server: Server) -> None:
    record = Record(
        1, uuid4().bytes, CHANNEL, 5, "Zoë", "orders.Placed", 1, 1_700_000_000_000_000, 0, "shop", None, None, 0,
        b'{"tenant":"acme"}', b'{"number":7}',
    )  # fmt: skip
    async with opened(url_of(pulsar_server)) as broker:
        await sent(broker, message_of(record, "journal.1", 1, broker.features.prefix))

        def read() -> Any:
            client = client_of(pulsar_server)
            consumer = client.subscribe(
                broker.settings.topic(CHANNEL), "others", initial_position=pulsar.InitialPosition.Earliest
            )
            got = consumer.receive(30_000)
            consumer.acknowledge(got)
            headers = {name: value.encode() for name, value in got.properties().items()}
            keys = got.partition_key(), got.ordering_key()
            client.close()
            return keys, from_binary_event(KafkaMessage(headers, keys[0], got.data()), JSONFormat())

        keys, event = await asyncio.to_thread(read)
    assert ("Zoë", "5") == keys
    assert ("orders.Placed", "shop", "acme") == (event.get_type(), event.get_source(), event.get_extension("tenant"))
    assert {"number": 7} == event.get_data()


async def test_we_read_events_that_others_made_with_the_cloudevents_sdk(pulsar_server: Server) -> None:
    attributes = {"id": "no uuid", "source": "//other", "type": "orders.Placed", "partitionkey": "Zoë"}
    made = to_binary_event(CloudEvent({**attributes, "datacontenttype": "application/json"}, {"n": 1}), JSONFormat())
    whole = to_structured_event(CloudEvent({**attributes, "id": "another"}, {"n": 2}), JSONFormat())

    def publish(topic: str) -> None:
        client = client_of(pulsar_server)
        producer = client.create_producer(topic)
        for one in (made, whole):
            headers = {name: value.decode() for name, value in one.headers.items()}
            producer.send(one.value, headers, partition_key="Zoë")
        producer.send(b"\x00\xff", {"color": "blue"})
        client.close()

    async with opened(url_of(pulsar_server, partitions="1")) as broker, reading(broker) as intake:
        await asyncio.to_thread(publish, broker.settings.topic(CHANNEL))
        got = await take(intake, 3)
        first, second = (incoming(one, CHANNEL, broker.features.prefix, 1).record for one in got[:2])
        with pytest.raises(NotAnEvent):
            incoming(got[2], CHANNEL, broker.features.prefix, 1)
    assert [("Zoë", "orders.Placed", "//other")] * 2 == [(one.key, one.type, one.source) for one in (first, second)]
    assert ["Zoë".encode(), "Zoë".encode(), None] == [one.key for one in got]
    assert [b'{"n":1}', b'{"n":2}'] == [one.data.replace(b" ", b"") for one in (first, second)]
    assert b"\x00\xff" == got[2].data


BOMBED = """
import asyncio, json, sys
from pathlib import Path
from eventspine import Delivery, Event, Service, Spine

class Placed(Event, context="orders", key="customer"):
    customer: str

store, stock, handled = Service("store", publishes="orders"), Service("stock"), asyncio.Event()

@stock.on(Placed)
async def reserve(event: Placed, delivery: Delivery) -> None:
    handled.set()

async def main(url: str, journal: str) -> None:
    async with Spine("memory://", service=store, broker=url) as there, Spine(journal, broker=url) as here:
        async with here.running(stock):
            await there.publish(Placed(customer="ann"))
            await handled.wait()
            dead = await here.journal.deliveries(states=["dead"])
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps([int(peak.split()[1]) * 1024, [(row.error, len(row.record.data)) for row in dead]]))

asyncio.run(main(*sys.argv[1:]))
"""
COMPRESSIONS = [pulsar.CompressionType.__members__[name] for name in ("LZ4", "ZLib", "ZSTD", "SNAPPY")]
BOMB = bytes(KEPT_BYTES_MAX + 5_000_000)  # of which each compression makes less than a message may have


def bombs(server: Server, topic: str) -> list[int]:
    """The sizes of their messages: alone, in a batch and, since not all of it can be compressed, in chunks."""
    client = client_of(server)
    in_chunks = os.urandom(6_000_000) + BOMB
    for compression in COMPRESSIONS:
        producer = client.create_producer(topic, compression_type=compression, chunking_enabled=True)
        for data in (BOMB, BOMB, in_chunks):
            producer.send(data)
        producer.close()
    batch = {"batching_enabled": True, "batching_max_publish_delay_ms": 60_000, "batching_max_messages": 2}
    producer = client.create_producer(
        topic, compression_type=COMPRESSIONS[2], batching_max_allowed_size_in_bytes=2**30, **batch
    )
    for _ in range(2):
        producer.send_async(BOMB, None)
    producer.flush()
    client.close()
    return [len(BOMB), len(BOMB), len(in_chunks)] * len(COMPRESSIONS) + [len(BOMB)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
async def test_what_unpacks_to_too_much_is_dead_with_its_size_and_the_next_arrives(
    pulsar_server: Server, tmp_path: Path
) -> None:
    url = url_of(pulsar_server, partitions="1", prefetch="1")
    async with opened(url) as broker:
        sizes = await asyncio.to_thread(bombs, pulsar_server, broker.settings.topic(CHANNEL))
    line = [sys.executable, "-c", BOMBED, url, f"sqlite:///{tmp_path / 'journal.db'}"]
    child = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(WAIT_S):
            out, _ = await child.communicate()
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    assert 0 == child.returncode
    peak, dead = json.loads(out)
    says = "it has {:,} bytes; of a message with more than 100,000,000 only the broker has the data"
    assert [[says.format(size), 0] for size in sizes] == dead
    assert peak < sum(sizes) / 2


async def test_replay_by_time_in_the_middle_of_what_is_there(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, partitions="1")) as broker:
        for n in range(10):
            await sent(broker, message(n))
        async with reading(broker) as intake:
            moment = datetime.fromtimestamp((await take(intake, 10))[6].time_us / 1e6, UTC)
        async with reading(broker, start=moment) as intake:
            found = await take(intake, 4)
            assert [6, 7, 8, 9] == numbers(found)[-4:]
        async with reading(broker, start=datetime.now(UTC) + timedelta(hours=1)) as intake:
            assert [] == list(await intake.fetch(10, 0.5))
            assert 0 == await intake.lag()


# --- the port's suite -------------------------------------------------------------------------------------------------


@pytest.mark.setup("pulsar")
class TestPulsar(BrokerConformance):
    capabilities = BrokerCapabilities(processes=True, server=True, cuts=True, full=True, topology=True, claims=True)
    features = open_broker("pulsar://localhost").features

    async def make(self, pulsar_server: Server, network: Proxy, tmp_path: Path) -> CarriedSite:
        return Site(url_of(pulsar_server, network.url), tmp_path, server=pulsar_server, network=network)


class Site(CarriedSite):
    """Full is a topic by its backlog quota: what is kept for a subscription that nobody reads is more than it allows."""

    async def fill(self) -> None:
        await self._admin.make("PUT", f"{self._topic}/subscription/nobody")
        quota = {"limitSize": 1, "limitTime": -1, "policy": "producer_exception"}
        await self._admin.make("POST", f"{self._topic}/backlogQuota?backlogQuotaType=destination_storage", quota)

    async def empty(self) -> None:
        await self._admin.make("DELETE", f"{self._topic}/backlogQuota?backlogQuotaType=destination_storage")

    @property
    def _admin(self) -> Admin:
        assert isinstance(self._own, PulsarBroker)
        return Admin(self._own.settings)

    @property
    def _topic(self) -> str:
        assert isinstance(self._own, PulsarBroker)
        return topic_path(self._own.settings.topic("talk"))
