"""The Kafka adapter on a real Kafka: what the port's suite does not ask, since it is Kafka's own."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from eventspine.brokers import open_broker
from eventspine.brokers._kafka_claims import asked_as
from eventspine.brokers._kafka_intake import KafkaIntake
from eventspine.brokers._kafka_reader import UNPACKED_BYTES_MAX
from eventspine.brokers.kafka import KafkaBroker
from eventspine.brokers.port import Difference, Fetched, Message, Needs, Start
from eventspine.errors import BrokerError, MessageRefused
from eventspine.keys import slot_of_key
from eventspine.testing.servers import Server

WAIT_S = 60.0
CHANNEL = "orders"
CONSUMER = f"stock.{CHANNEL}"
NEEDS = Needs([CHANNEL], [(CHANNEL, CONSUMER)])


def message(number: int, *, slot: int | None = None, data: bytes = b"{}", key: str | None = None) -> Message:
    key = f"key {number % 7}" if key is None else key
    headers = {"ce_id": str(number), "ce_type": "orders.Placed"}
    return Message(
        CHANNEL, slot_of_key(key) if slot is None else slot, key, str(number), headers, "application/json", data
    )


class Member:
    """An intake, and what the engine would do with it: begin what is assigned, end what is not any more."""

    def __init__(self, intake: KafkaIntake, changed: asyncio.Event) -> None:
        self.intake = intake
        self.changed = changed
        self.begun: dict[int, int] = {}  # with the position after which it was read
        self.read: list[Fetched] = []

    async def share(self, *, after: dict[int, int] | None = None, start: Start = "earliest") -> None:
        self.changed.clear()
        ours = self.intake.assigned()
        for partition in self.begun.keys() - ours:
            del self.begun[partition]
            await self.intake.end(partition)
        for partition in sorted(ours - self.begun.keys()):
            at = (after or {}).get(partition)
            self.begun[partition] = await self.intake.begin(partition, after=at, start=start, epoch=1)

    async def until_it_has(self, count: int, **how: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.begun) != count or len(self.intake.assigned()) != count:
                await self.changed.wait()
                await self.share(**how)

    async def take(self, count: int, *, settle: bool = True) -> list[Fetched]:
        """So many; what was read too much is an error."""
        found: list[Fetched] = []
        async with asyncio.timeout(WAIT_S):
            while len(found) < count:
                some = await self.intake.fetch(1000, 0.5)
                found += some
                if settle:
                    await self.intake.settle(some)
        assert len(found) == count
        return found


class Place:
    """Brokers of one topic, as several processes have them."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.topic = prefix + CHANNEL
        self.opened: list[KafkaBroker] = []
        self.members: list[Member] = []
        self.admin = AdminClient({"bootstrap.servers": server.address})

    async def broker(self, options: str = "", *, apply: bool = True) -> KafkaBroker:
        broker = open_broker(f"{self.server.url}/?prefix={self.prefix}&partitions=4{options}")
        assert isinstance(broker, KafkaBroker)
        await broker.open()
        self.opened.append(broker)
        if apply:
            await broker.apply(NEEDS)
        return broker

    async def member(self, broker: KafkaBroker, consumer: str = CONSUMER) -> Member:
        changed = asyncio.Event()
        member = Member(await broker.intake(CHANNEL, consumer, changed.set), changed)
        self.members.append(member)
        return member

    async def close(self) -> None:
        for member in self.members:
            await member.intake.close()
        for broker in self.opened:
            await broker.close()

    # --- as others do

    def produce(self, *messages: tuple[int, bytes | None, bytes | None, Any], **config: Any) -> None:
        """(partition, key, value, headers)"""
        producer = Producer({"bootstrap.servers": self.server.address, **config})
        for partition, key, value, headers in messages:
            producer.produce(self.topic, value=value, key=key, partition=partition, headers=headers)
        assert producer.flush(30) == 0

    def committed(self, group: str) -> dict[int, tuple[int, str]]:
        """By partition: what the group shows, and its metadata."""
        asked = [ConsumerGroupTopicPartitions(self.prefix + group)]
        answer = self.admin.list_consumer_group_offsets(asked)[self.prefix + group].result()
        return {one.partition: (one.offset, one.metadata) for one in answer.topic_partitions}

    def configure(self, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, self.topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result()

    def delete_topic(self) -> None:
        self.admin.delete_topics([self.topic])[self.topic].result()


@pytest.fixture
async def place(kafka_server: Server) -> AsyncIterator[Place]:
    made = Place(kafka_server, f"t{uuid4().hex[:10]}.")
    yield made
    await made.close()


async def until(true: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            found = true()
            if found is True or (not isinstance(found, bool) and await found):
                return
            await asyncio.sleep(0.02)


def numbers(fetched: Iterable[Fetched]) -> list[int]:
    return [int(one.headers["ce_id"]) for one in fetched]


PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


# --- sending --------------------------------------------------------------------------------------------------------


async def test_what_is_acknowledged_is_there_whole_and_in_order(place: Place):
    broker = await place.broker()
    sent = [message(n, data=b"%d" % n) for n in range(3000)]
    assert [None] * 3000 == list(await broker.send(sent))
    member = await place.member(broker)
    await member.until_it_has(4)
    found = await member.take(3000)
    for key in range(7):
        mine = [one for one in found if one.key == b"key %d" % key]
        assert numbers(mine) == list(range(key, 3000, 7))
        assert len({one.partition for one in mine}) == 1
    one = found[0]
    assert (one.content_type, one.headers["ce_type"], one.data.decode()) == (
        "application/json", "orders.Placed", one.headers["ce_id"],
    )  # fmt: skip
    assert abs(one.time_us / 1e6 - datetime.now(UTC).timestamp()) < 300


async def test_a_key_goes_where_librdkafka_would_send_it(place: Place):
    """So that services of ours and producers of others may share a topic, where the number divides 960."""
    for partitions in (1, 4, 6, 12, 60, 96):
        topic = f"{place.topic}{partitions}"
        place.admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
        producer = Producer({"bootstrap.servers": place.server.address, "partitioner": "consistent"})
        went: dict[str, int] = {}

        def delivered(error: Any, message: Any, went: dict[str, int] = went) -> None:
            assert error is None
            went[message.key().decode()] = message.partition()

        for n in range(50):
            producer.produce(topic, b"raw", key=f"customer {n}", on_delivery=delivered)
        assert producer.flush(30) == 0
        assert went == {key: slot_of_key(key) % partitions for key in went}
        assert len(went) == 50


async def test_data_over_the_limit_is_refused_alone_with_both_sizes(place: Place):
    broker = await place.broker()
    place.configure("max.message.bytes", "50000")
    answers = await broker.send([message(1, slot=0), message(2, slot=0, data=os.urandom(400_000)), message(3, slot=0)])
    answers += await broker.send([message(4, slot=0, data=os.urandom(2_000_000))])
    assert [None, MessageRefused, None, MessageRefused] == [one and type(one) for one in answers]
    assert "400,000 bytes" in str(answers[1])
    assert "message_bytes_max in the URL (now 1,000,000)" in str(answers[1])
    assert answers[1].details["limit_bytes"] == 50_000  # type: ignore[union-attr]


async def test_many_that_are_sent_at_once_have_an_answer_each(place: Place):
    broker = await place.broker()
    batches = [[message(n * 100 + i) for i in range(100)] for n in range(20)]
    answers = await asyncio.gather(*(broker.send(batch) for batch in batches), broker.send([]))
    assert [[None] * 100] * 20 + [[]] == [list(one) for one in answers]


# --- groups ---------------------------------------------------------------------------------------------------------


@PROTOCOLS
async def test_members_share_the_partitions_and_take_over_what_one_leaves(place: Place, protocol: str):
    broker = await place.broker(f"&group_protocol={protocol}&session_s=6")
    await broker.send([message(n, slot=n % 4) for n in range(40)])
    one = await place.member(broker)
    await one.until_it_has(4)
    first = await one.take(40)

    two = await place.member(broker)
    after = {p: max(f.position for f in first if f.partition == p) for p in range(4)}
    await asyncio.gather(one.until_it_has(2, after=after), two.until_it_has(2, after=after))
    assert one.begun.keys() | two.begun.keys() == {0, 1, 2, 3}
    await broker.send([message(n, slot=n % 4) for n in range(40, 80)])
    found = [await one.take(20), await two.take(20)]
    assert [{f.partition for f in some} for some in found] == [{*one.begun}, {*two.begun}]

    await two.intake.close()
    after = {p: max(f.position for some in found for f in some if f.partition == p) for p in range(4)}
    await one.until_it_has(4, after=after)
    await broker.send([message(n, slot=n % 4) for n in range(80, 120)])
    assert sorted(numbers(await one.take(40))) == list(range(80, 120))


@PROTOCOLS
async def test_what_another_member_was_given_is_not_handed_over_any_more(place: Place, protocol: str):
    """It may be on the shelf already; what was handed over before can still be settled, and is of no consequence."""
    broker = await place.broker(f"&group_protocol={protocol}&session_s=6")
    one = await place.member(broker)
    await one.until_it_has(4)
    await broker.send([message(n, slot=n % 4) for n in range(400)])
    await until(lambda: one.intake._shelf.places() and len(one.intake._shelf._messages) == 400)
    two = await place.member(broker)
    await until(lambda: len(one.intake.assigned()) == 2)
    found = await one.take(200, settle=False)
    assert {f.partition for f in found} == one.intake.assigned()
    await one.share()
    await one.intake.settle(found)
    await until(lambda: len(two.intake.assigned()) == 2)


async def test_the_group_is_shown_the_prefix_that_is_settled_and_whose_it_is(place: Place):
    broker = await place.broker()
    await broker.claim("consumer", CONSUMER, "journal-7", force=False)
    member = await place.member(broker)
    await member.until_it_has(4)
    await broker.send([message(n, slot=0) for n in range(10)])
    found = await member.take(10, settle=False)
    await member.intake.settle([*found[:3], *found[5:8]])
    await until(lambda: place.committed(CONSUMER).get(0) == (3, "journal-7"))
    await member.intake.settle([found[4], found[3]])
    await until(lambda: place.committed(CONSUMER).get(0) == (8, "journal-7"))
    await member.intake.settle(found[8:])
    await member.intake.close()
    assert place.committed(CONSUMER)[0] == (10, "journal-7"), "also what was settled last"


async def test_who_rests_longer_than_its_session_is_a_member_all_the_same(place: Place):
    broker = await place.broker("&session_s=1.5")
    member = await place.member(broker)
    await member.until_it_has(4)
    member.intake.pause()
    await broker.send([message(n) for n in range(20)])
    rested = monotonic()
    while monotonic() - rested < 3:
        assert [] == list(await member.intake.fetch(10, 0.2))
    assert member.intake.assigned() == {0, 1, 2, 3}
    assert not member.changed.is_set()
    member.intake.resume()
    await member.take(20)


async def test_who_does_not_fetch_holds_a_bounded_number_of_messages(place: Place):
    broker = await place.broker()
    member = await place.member(broker)
    await member.until_it_has(4)
    for _ in range(12):
        await broker.send([message(n) for n in range(1000)])
    await until(lambda: member.intake._reader._holding)
    assert len(member.intake._shelf._messages) < 6000
    assert await member.intake.lag() == 12_000
    assert len(await member.take(12_000)) == 12_000
    assert await member.intake.lag() == 0


# --- where it begins ------------------------------------------------------------------------------------------------


async def test_it_begins_where_it_is_told(place: Place):
    broker = await place.broker()
    await broker.send([message(n, slot=0) for n in range(5)])
    await asyncio.sleep(0.05)  # so that a time lies between them
    between = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await broker.send([message(n, slot=0) for n in range(5, 10)])

    starts: list[tuple[int | None, Start, int]] = [
        (None, "earliest", 0),
        (None, between, 5),
        (None, datetime.now(UTC) + timedelta(hours=1), 12),
        (None, "now", 13),
        (0, "now", 0),
        (7, "now", 7),
        (10, "earliest", 10),
    ]
    for number, (after, start, position) in enumerate(starts, 10):
        member = await place.member(broker, f"reader{number}.{CHANNEL}")
        await member.until_it_has(4, start=start, after={} if after is None else {0: after})
        assert member.begun[0] == position
        await broker.send([message(number, slot=0)])
        assert numbers(await member.take(number + 1 - position)) == list(range(position, number + 1))
        await member.intake.close()


async def test_what_was_read_can_be_read_again(place: Place):
    broker = await place.broker()
    await broker.send([message(n, slot=0) for n in range(100)])
    member = await place.member(broker)
    await member.until_it_has(4)
    await member.take(100)
    await member.intake.end(0)
    await member.intake.begin(0, after=90, start="now", epoch=2)
    assert numbers(await member.take(10)) == list(range(90, 100))


async def test_what_is_deleted_before_it_was_read_is_reported_and_passed(
    place: Place, caplog: pytest.LogCaptureFixture
):
    broker = await place.broker()
    await broker.send([message(n, slot=0) for n in range(20)])
    gone = TopicPartition(place.topic, 0, 12)
    place.admin.delete_records([gone])[gone].result()
    member = await place.member(broker)
    with caplog.at_level(logging.ERROR, "eventspine.broker.kafka"):
        await member.until_it_has(4, after={0: 5})
        assert numbers(await member.take(8)) == list(range(12, 20))
    assert "7 messages are gone from partition 0" in caplog.text
    assert "offsets 5 to 11 were deleted before they were read" in caplog.text


async def test_a_topic_that_ends_before_what_was_read_is_not_what_it_was(place: Place):
    broker = await place.broker()
    await broker.send([message(n, slot=0) for n in range(3)])
    member = await place.member(broker)
    await until(lambda: len(member.intake.assigned()) == 4)
    with pytest.raises(BrokerError, match="ends at offset 3, and this journal has read up to 50"):
        await member.share(after={0: 50})
        await member.take(1)


async def test_a_topic_made_anew_is_another_feed(place: Place):
    broker = await place.broker()
    await broker.send([message(n, slot=0) for n in range(30)])
    member = await place.member(broker)
    await member.until_it_has(4)
    await member.take(30)
    place.delete_topic()
    await until(lambda: _is_made(broker))
    place.produce(*[(0, b"k", b"{}", [("ce_id", "0")])] * 40)
    # Whichever it sees first: another topic, or one that ends before what was read. It is made anew after each.
    with pytest.raises(BrokerError, match="was deleted|is not what it was|the cluster has lost what it had"):
        async with asyncio.timeout(WAIT_S):
            while True:
                await member.intake.fetch(10, 0.5)
    await member.intake.close()
    again = await place.member(broker)
    assert again.intake.feed != member.intake.feed
    assert again.intake.feed.startswith(f"kafka:{broker._opened.cluster.id}/{place.topic}/")
    await again.until_it_has(4)
    sent: list[Any] = []
    await until(lambda: _is_sent(broker, sent))  # a producer has to learn of it too
    assert numbers(await again.take(41)) == [*[0] * 40, 7]


async def _is_made(broker: KafkaBroker) -> bool:
    try:
        return bool(await broker.apply(NEEDS))
    except BrokerError:  # while the old one is being deleted
        return False


async def _is_sent(broker: KafkaBroker, sent: list[Any]) -> bool:
    return list(await broker.send([message(7, slot=0)])) == [None]


async def test_partitions_that_are_added_stop_who_publishes_and_are_read_from_their_first_message(place: Place):
    """Keys would move away from their past (R12)."""
    broker = await place.broker("&librdkafka.topic.metadata.refresh.interval.ms=300")
    member = await place.member(broker)
    await member.until_it_has(4)
    place.admin.create_partitions([NewPartitions(place.topic, 6)])[place.topic].result()
    await until(lambda: len(member.intake.assigned()) == 6)
    place.produce((5, b"k", b"{}", [("ce_id", "1")]))
    await member.share(start="now")
    assert numbers(await member.take(1)) == [1]

    again = await place.broker()
    answers = await again.send([message(2)])
    assert isinstance(answers[0], BrokerError)
    assert "It has 6 partitions, and the URL says 4" in str(answers[0])
    assert [Difference(f"topic {place.topic}", "4 partitions", "6 partitions", safe=False)] == [
        *await again.differences(NEEDS)
    ]
    assert [] == list(await again.apply(NEEDS)), "nothing is changed"
    guided = await place.broker(f"&partitions.{CHANNEL}=6")
    assert [None] == list(await guided.send([message(2)]))


# --- what others send -----------------------------------------------------------------------------------------------


async def test_messages_of_others_come_as_they_are(place: Place):
    broker = await place.broker()
    place.produce(
        (0, None, b"no key", None),
        (0, b"\xff\x00", None, []),
        (0, b"k", b"", [("h", None), ("h", b"\xff"), ("content-type", b"text/plain"), ("empty", b"")]),
    )
    member = await place.member(broker)
    await member.until_it_has(4)
    found = await member.take(3)
    assert [(one.key, one.data, dict(one.headers), one.content_type) for one in found] == [
        (None, b"no key", {}, ""),
        (b"\xff\x00", b"", {}, ""),
        (b"k", b"", {"h": "\ufffd", "empty": ""}, "text/plain"),
    ]
    assert [one.position for one in found] == [1, 2, 3]


async def test_a_batch_that_unpacks_to_too_much_holds_up_its_partition_alone_and_is_named(
    place: Place, caplog: pytest.LogCaptureFixture
):
    broker = await place.broker()
    await broker.send([message(1, slot=0)])
    bomb = Producer(
        {"bootstrap.servers": place.server.address, "compression.type": "zstd", "message.max.bytes": 200_000_000}
    )
    bomb.produce(place.topic, bytes(UNPACKED_BYTES_MAX + 20_000_000), partition=0)
    assert 0 == await asyncio.to_thread(bomb.flush, 60)
    await broker.send([message(2, slot=0), message(3, slot=1)])
    member = await place.member(broker)
    with caplog.at_level(logging.ERROR, "eventspine.broker.kafka"):
        await member.until_it_has(4)
        assert sorted(numbers(await member.take(2))) == [1, 3]
        async with asyncio.timeout(WAIT_S):
            while "partition 0" not in caplog.text:
                assert [] == await member.intake.fetch(1000, 0.5)
    assert 1 == caplog.text.count("stands still at offset 1, where a batch can't be unpacked")

    behind = TopicPartition(place.topic, 0, 2)
    place.admin.delete_records([behind])[behind].result()
    assert numbers(await member.take(1)) == [2]
    assert "1 message is gone from partition 0" in caplog.text


async def test_transactions_of_others_are_read_when_they_are_committed_and_never_when_aborted(place: Place):
    broker = await place.broker()
    member = await place.member(broker)
    await member.until_it_has(4)
    producer = Producer({"bootstrap.servers": place.server.address, "transactional.id": place.prefix})
    producer.init_transactions(30)
    for number, end in [(1, producer.abort_transaction), (2, producer.commit_transaction)]:
        producer.begin_transaction()
        producer.produce(place.topic, b"{}", partition=0, headers=[("ce_id", str(number))])
        producer.flush(30)
        await asyncio.to_thread(end, 30)
    assert numbers(await member.take(1)) == [2]


# --- the broker fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["kill", "pause"])
async def test_a_broker_that_fails_is_noticed_and_what_it_acknowledged_is_read_when_it_is_back(
    place: Place, failure: str
):
    """SIGKILL, and SIGSTOP, under which connections stay open and nothing is answered."""
    broker = await place.broker("&timeout_s=2&session_s=6")
    member = await place.member(broker)
    await member.until_it_has(4)
    assert [None] * 20 == list(await broker.send([message(n, slot=0) for n in range(20)]))
    await member.take(5 + 15)
    getattr(place.server, failure)()
    try:
        (answer,) = await broker.send([message(20, slot=0)])
        assert isinstance(answer, BrokerError), "unknown is not refused"
        assert "no answer" in str(answer)
        with pytest.raises(BrokerError):
            async with asyncio.timeout(WAIT_S):
                while True:
                    await member.intake.fetch(10, 0.5)
        with pytest.raises(BrokerError):
            await broker.intake(CHANNEL, CONSUMER, lambda: None)
    finally:
        if failure == "kill":
            await asyncio.to_thread(place.server.start)
        else:
            place.server.resume()
    await member.intake.close()
    await until(lambda: _all_sent(broker, range(20, 25)))
    again: list[Member] = []

    async def is_member() -> bool:
        try:
            again.append(await place.member(broker))
        except BrokerError:
            return False
        return True

    await until(is_member)
    await again[0].until_it_has(4, after={0: 5})
    seen: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while 24 not in seen:
            seen += numbers(await again[0].intake.fetch(100, 0.5))
    assert list(dict.fromkeys(seen)) == list(range(5, 25))


async def _all_sent(broker: KafkaBroker, which: range) -> bool:
    return not any(await broker.send([message(n, slot=0) for n in which]))


async def test_that_no_broker_is_left_is_said_long_before_the_time_is_over(place: Place):
    """So that health shows it at once; and nothing is put behind what nobody takes."""
    broker = await place.broker("&timeout_s=300")
    assert [None] == list(await broker.send([message(1)]))
    place.server.kill()
    try:
        async with asyncio.timeout(WAIT_S):
            answers = [*await broker.send([message(2)]), *await broker.send([message(3)])]
        assert [BrokerError] * 2 == [type(one) for one in answers]
        assert "no answer (" in str(answers[1])
    finally:
        await asyncio.to_thread(place.server.start)
    await until(lambda: _all_sent(broker, range(2, 4)))


async def test_who_can_not_be_reached_is_named_in_time():
    broker = open_broker("kafka://127.0.0.1:1/?timeout_s=1")
    with pytest.raises(BrokerError, match="it does not answer: nothing for 1 s .*127.0.0.1:1"):
        await broker.open()
    await broker.close()
    with pytest.raises(BrokerError, match="is not open"):
        await broker.send([message(1)])


# --- topics, claims, findings ---------------------------------------------------------------------------------------


async def test_topics_are_made_once_as_the_url_says(place: Place):
    broker = await place.broker("&replication=1&min_insync=1&retention=7d", apply=False)
    wanted = "4 partitions, 1 replica, min.insync.replicas=1, retention.ms=604800000"
    expected = [Difference(f"topic {place.topic}", wanted, "", safe=True)]
    assert expected == [*await broker.differences(NEEDS)]
    assert expected == [*await broker.apply(NEEDS)]
    assert [] == [*await broker.apply(NEEDS)] == [*await broker.differences(NEEDS)]
    other = await place.broker("&retention=keep", apply=False)
    assert [Difference(f"topic {place.topic}", "retention.ms=-1", "retention.ms=604800000", safe=False)] == [
        *await other.differences(NEEDS)
    ]


async def test_of_a_channel_that_is_only_read_the_publisher_decides(place: Place):
    broker = await place.broker(f"&partitions.{CHANNEL}=3", apply=False)
    with pytest.raises(BrokerError, match="There is no topic .*spine topology apply"):
        await place.member(broker)
    (answer,) = await broker.send([message(1)])
    assert "There is no topic" in str(answer)
    needs = Needs(consumes=NEEDS.consumes)
    assert [f"topic {place.topic}"] == [one.what for one in await broker.apply(needs)]
    other = await place.broker(apply=False)
    assert [] == [*await other.differences(needs)]
    assert [f"topic {place.topic}"] == [one.what for one in await other.differences(NEEDS)]


@pytest.mark.parametrize("role", ["publisher", "consumer"])
async def test_a_second_journal_is_told_whose_it_is(place: Place, role: Any):
    broker = await place.broker()
    name = CHANNEL if role == "publisher" else CONSUMER
    assert await broker.claim(role, name, "one", force=False) == "one"
    assert await broker.claim(role, name, "one", force=False) == "one"
    assert await broker.claim(role, name, "two", force=False) == "one"
    assert await broker.claim(role, name, "two", force=True) == "two"
    assert await broker.claim(role, name, "one", force=False) == "two"
    trusting = await place.broker("&claims=no")
    assert await trusting.claim(role, name, "one", force=False) == ""


async def test_of_two_journals_that_claim_at_once_one_has_it(place: Place):
    brokers = [await place.broker() for _ in range(4)]
    claims = (one.claim("publisher", CHANNEL, f"journal {n}", force=False) for n, one in enumerate(brokers))
    owners = await asyncio.gather(*claims)
    assert len(set(owners)) == 1
    assert owners[0] in {f"journal {n}" for n in range(4)}


async def test_who_looked_before_another_wrote_does_not_write_over_it(place: Place):
    """However long it was held up in between."""
    one, two = await place.broker(), await place.broker()
    settings, cluster = one.settings, one._opened.cluster
    group, topic = settings.group(f"{CHANNEL}@publisher"), settings.topic(CHANNEL)
    looked, written, seen = asyncio.Event(), threading.Event(), list[str]()
    loop = asyncio.get_running_loop()

    def may(owner: str) -> bool:
        seen.append(owner)
        loop.call_soon_threadsafe(looked.set)
        written.wait(60)
        return not owner

    slow = asyncio.create_task(asked_as(cluster, group, lambda member: member.write(topic, "slow", may)))
    async with asyncio.timeout(60):
        await looked.wait()
        assert await two.claim("publisher", CHANNEL, "quick", force=False) == "quick"
        written.set()
        assert await slow == "quick"
    assert seen == ["", "quick"]
    assert await one.claim("publisher", CHANNEL, "slow", force=False) == "quick"


async def test_doctor_reads_the_topic_from_the_broker(place: Place):
    broker = await place.broker("&message_bytes_max=900000")
    place.configure("retention.ms", "86400000")
    place.configure("retention.bytes", "1000000")
    place.configure("cleanup.policy", "compact,delete")
    place.configure("max.message.bytes", "100000")
    place.configure("unclean.leader.election.enable", "true")
    told = {(one.level, one.says) for one in await broker.findings(NEEDS)}
    for level, part in [
        ("danger", "on one broker each"),
        ("warning", "deleted after 1d"),
        ("warning", "beyond 1,000,000 bytes"),
        ("danger", "cleanup.policy=compact"),
        ("danger", "100,000 bytes at most"),
        ("danger", "unclean.leader.election.enable"),
    ]:
        assert any(level == found and part in says for found, says in told), (part, told)
    place.delete_topic()

    async def missing() -> bool:  # as soon as all of the broker know
        return [one.level for one in await broker.findings(NEEDS) if "It is not there" in one.says] == ["danger"]

    await until(missing)
