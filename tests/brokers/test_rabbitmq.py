"""RabbitMQ: what is particular to it, on a real server. What holds for every broker is the conformance suite's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
import pytest
from cloudevents.core.bindings import amqp, rabbitmq as sdk_rabbitmq
from cloudevents.core.v1.event import CloudEvent

from eventspine import Delivery, Event, Service, Spine
from eventspine.brokers import open_broker, rabbitmq
from eventspine.brokers._rabbitmq_keys import KEYS, pattern_of
from eventspine.brokers.port import Fetched, Message, Needs
from eventspine.brokers.rabbitmq import RabbitBroker
from eventspine.errors import BrokerError, MessageRefused, NotWanted, SettingsError
from eventspine.journal.memory import MemoryJournal
from eventspine.testing import servers
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite, apart
from eventspine.testing.conformance.brokers.between import Relaying
from eventspine.testing.servers import Proxy
from eventspine.testing.servers.rabbitmq import RabbitMQ

WAIT_S = 40.0
CHANNEL, CONSUMER = "orders", "inventory.orders"
NEEDS = Needs([CHANNEL], [(CHANNEL, CONSUMER)])
_prefixes = (f"t{number}." for number in count(1))


@pytest.fixture
def network(rabbitmq_server: RabbitMQ) -> Iterator[Proxy]:
    with rabbitmq_server.proxy() as proxy:
        yield proxy


@pytest.mark.setup("rabbitmq")
class TestRabbitMQ(BrokerConformance):
    capabilities = BrokerCapabilities(processes=True, server=True, cuts=True, full=True, topology=True, claims=True)
    features = open_broker("amqp://localhost").features

    async def make(
        self,
        rabbitmq_server: RabbitMQ,
        network: Proxy,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> CarriedSite:
        if "server" not in getattr(request.function, "needs", ()):  # nobody is killed right after queues were made
            monkeypatch.setattr(rabbitmq, "REGISTERED_S", 0.0)
        return Site(apart(f"{network.url}?partitions=2"), tmp_path, server=rabbitmq_server, network=network)


class Site(CarriedSite):
    """That leaves nothing on the server: many hundreds of quorum queues would make it slow."""

    async def fill(self) -> None:
        """One of the queues, which nobody reads, by a policy: the others take the message, and it is refused all the same."""
        definition = {"max-length": 1, "overflow": "reject-publish"}
        policy = {"pattern": r"reader\.talk\.p", "definition": definition, "apply-to": "queues"}
        await asyncio.to_thread(manage, self._server, "PUT", "policies/%2F/full", policy)

    async def empty(self) -> None:
        await asyncio.to_thread(manage, self._server, "DELETE", "policies/%2F/full")

    async def close(self) -> None:
        await super().close()
        prefix = self.url.rpartition("prefix=")[2]
        connection = await aio_pika.connect(self._server.url)  # type: ignore[union-attr]
        async with connection, connection.channel() as channel:
            queues = await asyncio.to_thread(manage, self._server, "GET", "queues?columns=name")
            for name in [queue["name"] for queue in queues if queue["name"].startswith(prefix)]:
                await channel.queue_delete(name)


class Place:
    """Brokers of one channel, as several processes have them."""

    def __init__(self, server: RabbitMQ, address: str | None = None) -> None:
        self.server = server
        self.address = address or f"guest:guest@{server.address}"
        self.prefix = next(_prefixes)
        self.opened: list[Any] = []

    def url(self, options: str = "", partitions: int = 1) -> str:
        return f"amqp://{self.address}/?prefix={self.prefix}&partitions={partitions}{options}"

    async def broker(self, options: str = "", needs: Needs = NEEDS, partitions: int = 1) -> RabbitBroker:
        broker = open_broker(self.url(options, partitions))
        assert isinstance(broker, RabbitBroker)
        self.opened.append(broker)
        await broker.open()
        await broker.apply(needs)
        return broker

    async def reading(self, broker: RabbitBroker) -> Any:
        """Of partition 0."""
        intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
        self.opened.append(intake)
        await intake.begin(0, after=None, start="earliest", epoch=1)
        return intake

    def manage(self, method: str, path: str, body: object = None) -> Any:
        return manage(self.server, method, path, body)

    def queue(self, number: int = 0) -> Any:
        return self.manage("GET", f"queues/%2F/{self.prefix}{CONSUMER}.p{number:03d}")

    async def close(self) -> None:
        for one in reversed(self.opened):
            await one.close()


def manage(server: Any, method: str, path: str, body: object = None) -> Any:
    """By the server's management."""
    request = urllib.request.Request(
        f"{server.management_url}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Basic {b64encode(b'guest:guest').decode()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer) if method == "GET" else None


@pytest.fixture
async def place(rabbitmq_server: RabbitMQ) -> AsyncIterator[Place]:
    place = Place(rabbitmq_server)
    yield place
    rabbitmq_server.start()
    await place.close()


def message(number: int, slot: int = 1, data: bytes | None = None) -> Message:
    body = str(number).encode() if data is None else data
    return Message(CHANNEL, slot, None, f"id {number}", {"cloudEvents:id": str(number)}, "text/plain", body)


async def sent(broker: RabbitBroker, numbers: Sequence[int], slot: int = 1) -> None:
    assert {None} == set(await broker.send([message(number, slot) for number in numbers]))


async def taken(intake: Any, most: int, *, settle: bool = True) -> list[Fetched]:
    found: list[Fetched] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < most:
            some = await intake.fetch(most - len(found), 0.5)
            found += some
            if settle:
                await intake.settle(some)
    return found


def numbers(fetched: Sequence[Fetched]) -> list[int]:
    return [int(one.data) for one in fetched]


async def until_failed(doing: Any, *arguments: Any) -> BrokerError:
    """It goes on until the broker is gone."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await doing(*arguments)
            except BrokerError as error:
                return error


# --- sending ----------------------------------------------------------------------------------------------------------


async def test_what_is_sent_comes_in_order_with_all_that_it_has(place: Place) -> None:
    broker = await place.broker()
    headers = {"cloudEvents:id": "1", "cloudEvents:subject": "Zoë/\u4f8b"}
    assert [None] == list(await broker.send([Message(CHANNEL, 7, "k", "1", headers, "text/plain", b"\x00\xff")]))
    await sent(broker, range(2500))
    intake = await place.reading(broker)
    first, *rest = await taken(intake, 2501)
    assert (headers, "text/plain", b"\x00\xff") == (first.headers, first.content_type, first.data)
    assert list(range(2500)) == numbers(rest)
    assert 0 == await intake.lag()


async def test_a_message_that_no_queue_wants_is_an_error_and_waits_for_the_first_that_does(place: Place) -> None:
    """Were the second of them asked for at once, it could be ahead of the first in a queue that is made just then."""
    broker = await place.broker(needs=Needs([CHANNEL]))
    answers = await broker.send([message(number) for number in range(3)])
    assert all(isinstance(answer, NotWanted) and "unrouted=drop" in str(answer) for answer in answers)

    stopping = asyncio.Event()

    async def insist() -> None:
        """As a relay does, while a queue comes into being."""
        left = list(range(300))
        while left:
            answers = await broker.send([message(number) for number in left])
            left = [number for number, answer in zip(left, answers, strict=True) if answer is not None]
        stopping.set()

    insisting = asyncio.create_task(insist())
    await broker.apply(NEEDS)
    await asyncio.wait_for(stopping.wait(), WAIT_S)
    await insisting
    assert list(range(300)) == numbers(await taken(await place.reading(broker), 300))


async def test_a_channel_that_nobody_consumes_yet_holds_up_neither_publishing_nor_the_end(place: Place) -> None:
    class Placed(Event, context=CHANNEL):
        number: int

    journal = MemoryJournal()
    shop, heard = Service("shop", publishes=CHANNEL), list[int]()
    inventory: Service[None] = Service("inventory")

    @inventory.on(Placed)
    async def hear(event: Placed) -> None:
        heard.append(event.number)

    async with Spine(journal, service=shop, broker=place.url(), outbox_max=10) as spine:
        for number in range(100):
            await spine.publish(Placed(number=number))
        async with asyncio.timeout(WAIT_S):
            while not spine.health()["broker"]["relays"][0]["unwanted"]:
                await asyncio.sleep(0.05)
        assert "ok" == spine.health()["status"]
        await spine.publish(Placed(number=100))
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 0.5 * spine.drain_s

    consuming = Spine("memory://", broker=place.url())
    async with consuming, consuming.running(inventory), Spine(journal, service=shop, broker=place.url()):
        async with asyncio.timeout(WAIT_S):
            while len(heard) < 101:
                await asyncio.sleep(0.05)
    assert list(range(101)) == sorted(heard)


async def test_where_nobody_ever_listens_it_can_be_told_to_drop_what_nobody_wants(place: Place) -> None:
    broker = await place.broker("&unrouted=drop", needs=Needs([CHANNEL]))
    await sent(broker, range(3))


async def test_a_channel_that_has_no_exchange_says_what_to_do(place: Place) -> None:
    broker = await place.broker(needs=Needs())
    (answer,) = await broker.send([message(1)])
    assert "spine topology apply" in str(answer)


async def test_what_a_server_of_smaller_messages_does_not_take_is_refused_and_those_with_it_are_not(
    place: Place,
) -> None:
    """It closes the channel, without saying for which; and the limit is known from then on."""
    broker = await place.broker()
    limit = broker.features.message_bytes_max
    broker.features = replace(broker.features, message_bytes_max=2 * limit)  # as if it was told of another server
    answers = await broker.send([message(1), message(2, data=bytes(limit + 1)), message(3)])
    assert isinstance(answers[1], MessageRefused)
    assert "16,777,217 bytes" in str(answers[1])
    assert not isinstance(answers[2], MessageRefused)
    assert limit == broker.features.message_bytes_max
    rest = [number for number, answer in zip((1, 3), (answers[0], answers[2]), strict=True) if answer is not None]
    await sent(broker, rest)
    assert [1, 3] == list(dict.fromkeys(numbers(await taken(await place.reading(broker), 2))))


async def test_a_queue_that_is_full_by_a_policy_is_no_silent_loss(place: Place) -> None:
    policy = {
        "pattern": f"^{place.prefix}",
        "definition": {"max-length": 1, "overflow": "reject-publish"},
        "apply-to": "queues",
    }
    broker = await place.broker()
    place.manage("PUT", "policies/%2F/full", policy)
    try:
        async with asyncio.timeout(WAIT_S):
            while None in (answers := await broker.send([message(1)])):
                pass
        assert "full by a policy" in str(answers[0])
    finally:
        place.manage("DELETE", "policies/%2F/full")


async def test_while_the_server_is_short_of_memory_it_says_so_and_what_was_read_can_be_settled(place: Place) -> None:
    broker = await place.broker("&timeout_s=1")
    await sent(broker, range(10))
    intake = await place.reading(broker)
    had = await taken(intake, 10, settle=False)
    ctl(place.server, "set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        async with asyncio.timeout(WAIT_S):
            while "alarms" not in str((await broker.send([message(10)]))[0]):
                pass
        await intake.settle(had)
        await intake.end(0)
        await intake.begin(0, after=None, start="now", epoch=2)
    finally:
        ctl(place.server, "set_vm_memory_high_watermark", "absolute", "1GB")
    await sent_somehow(broker, 11)
    assert {10, 11} >= set(numbers(await taken(intake, 1)))


class ShortOfMemory(Site):
    async def fill(self) -> None:
        await asyncio.to_thread(ctl, self._server, "set_vm_memory_high_watermark", "absolute", "1MB")

    async def empty(self) -> None:
        await asyncio.to_thread(ctl, self._server, "set_vm_memory_high_watermark", "absolute", "1GB")


@pytest.mark.promise("broker full", "rabbitmq")
async def test_while_the_server_is_short_of_memory_publishing_goes_on_up_to_a_bound_and_then_all_arrives(
    rabbitmq_server: RabbitMQ,
) -> None:
    site = ShortOfMemory(apart(f"{rabbitmq_server.url}?partitions=2&timeout_s=1"), server=rabbitmq_server)
    await site.open()
    try:
        await Relaying().test_while_the_server_is_full_publishing_goes_on_up_to_a_bound_and_then_all_arrives(site)
    finally:
        await site.close()


def ctl(server: RabbitMQ, *arguments: str) -> None:
    (program,) = (server.installed() / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmqctl")
    environment = {
        **os.environ,
        **server._environment(),
        "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    subprocess.run([program, *arguments], env=environment, check=True, capture_output=True, timeout=60)


async def sent_somehow(broker: RabbitBroker, number: int) -> None:
    """As a relay does: until it is."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                if (await broker.send([message(number)]))[0] is None:
                    return
            except BrokerError:
                await asyncio.sleep(0.05)  # before another try


# --- CloudEvents ------------------------------------------------------------------------------------------------------

ATTRIBUTES = {
    "id": "order-1",
    "source": "urn:shop",
    "type": f"{CHANNEL}.Placed",
    "subject": "ann",
    "tenant": "Zo\u00eb",
}


def as_amqp(sdk: CloudEvent) -> dict[str, Any]:
    binary = amqp.to_binary_event(sdk)
    properties = {name.replace("-", "_"): value for name, value in binary.properties.items()}
    return {"body": binary.application_data, "headers": dict(binary.application_properties), **properties}


def as_rabbitmq(sdk: CloudEvent) -> dict[str, Any]:
    binary = sdk_rabbitmq.to_binary_event(sdk)
    return {"body": binary.body, "headers": dict(binary.headers), "content_type": binary.content_type}


def as_structured(sdk: CloudEvent) -> dict[str, Any]:
    structured = sdk_rabbitmq.to_structured_event(sdk)
    return {"body": structured.body, "content_type": structured.content_type}


@pytest.mark.parametrize("written", [as_amqp, as_rabbitmq, as_structured])
async def test_what_the_cloudevents_sdk_writes_is_an_event(place: Place, written: Any) -> None:
    class Placed(Event, context=CHANNEL, key="customer"):
        customer: str
        amount: int

    seen = asyncio.get_running_loop().create_future()
    service: Service[None] = Service("inventory")

    @service.on(Placed)
    async def hear(event: Placed, delivery: Delivery) -> None:
        seen.set_result((event, delivery.envelope))

    sdk = CloudEvent(
        {**ATTRIBUTES, "datacontenttype": "application/json", "time": datetime(2026, 1, 2, tzinfo=UTC)},
        {"customer": "ann", "amount": 3},
    )
    spine = Spine("memory://", broker=place.url())
    async with spine, spine.running(service):
        connection = await aio_pika.connect(f"amqp://{place.address}/")
        async with connection, connection.channel() as channel:
            exchange = await channel.get_exchange(place.prefix + CHANNEL)
            await exchange.publish(aio_pika.Message(**written(sdk)), routing_key="ann")
        async with asyncio.timeout(WAIT_S):
            event, envelope = await seen
    assert Placed(customer="ann", amount=3) == event
    assert ("urn:shop", "ann", datetime(2026, 1, 2, tzinfo=UTC)) == (envelope.source, envelope.key, envelope.time)
    assert {"tenant": "Zo\u00eb", "foreignid": "order-1"}.items() <= envelope.extensions.items()


async def test_what_is_published_here_is_read_by_the_cloudevents_sdk(place: Place) -> None:
    class Placed(Event, context=CHANNEL, key="customer"):
        customer: str
        amount: int

    await place.broker()
    connection = await aio_pika.connect(f"amqp://{place.address}/")
    async with connection, connection.channel() as channel:
        queue = await channel.get_queue(f"{place.prefix}{CONSUMER}.p000")
        shop: Service[None] = Service("shop", publishes=CHANNEL)
        async with Spine("memory://", service=shop, broker=place.url()) as spine:
            receipt = await spine.publish(Placed(customer="Zo\u00eb", amount=3))
        async with asyncio.timeout(WAIT_S), queue.iterator() as messages:
            message = await anext(messages)
            await message.ack()
    read = amqp.from_amqp_event(
        amqp.AMQPMessage({"content-type": message.content_type}, dict(message.headers), message.body)
    )
    assert {"customer": "Zo\u00eb", "amount": 3} == read.get_data()
    assert (f"{CHANNEL}.Placed", "Zo\u00eb") == (read.get_type(), read.get_extension("partitionkey"))
    assert message.message_id == read.get_id() == str(receipt.id)
    assert aio_pika.DeliveryMode.PERSISTENT == message.delivery_mode


# --- order, and what comes again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 12, 16, 40, 64, 960])
def test_of_every_slot_one_queue_has_the_pattern(count: int) -> None:
    patterns = [
        re.compile(pattern_of(number, count).replace(".", "[.]").replace("*", "[0-9]")) for number in range(count)
    ]
    for slot in range(960):
        assert [slot % count] == [n for n, pattern in enumerate(patterns) if pattern.fullmatch(KEYS[slot])]


async def test_a_slot_keeps_its_queue_when_the_server_is_killed_and_started_again(place: Place) -> None:
    """With an exchange of the type x-consistent-hash it does not: the server binds queues anew in any order."""
    for _ in range(2):
        broker = await place.broker(partitions=12)
        assert {None} == set(await broker.send([message(slot, slot) for slot in range(960)]))
        intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
        place.opened.append(intake)
        for partition in intake.assigned():
            await intake.begin(partition, after=None, start="now", epoch=1)
        found = {int(one.data): one.partition for one in await taken(intake, 960)}
        assert {slot: slot % 12 for slot in range(960)} == found
        place.server.kill()
        place.server.start()


async def test_messages_of_other_producers_come_in_one_order_whatever_their_routing_keys(place: Place) -> None:
    broker = await place.broker(partitions=4)
    foreign = await aio_pika.connect(f"amqp://{place.address}/")
    async with foreign, foreign.channel() as channel:
        exchange = await channel.get_exchange(place.prefix + CHANNEL)
        for number in range(20):
            body = aio_pika.Message(str(number).encode(), headers={"ce_x": number, "ok": True})
            await exchange.publish(body, routing_key=f"customer.{number % 7}")
    found = await taken(await place.reading(broker), 20)
    assert list(range(20)) == numbers(found)
    assert ({"cloudEvents:x": "3", "ok": "true"}, b"customer.3") == (found[3].headers, found[3].key)


@pytest.mark.parametrize("how", ["ended", "cut off"])
async def test_what_was_not_settled_goes_back_in_order_though_another_waits_for_it(place: Place, how: str) -> None:
    """The other one, of a process that has the lease next, must not be given what comes after."""
    one, other = await place.broker(), await place.broker()
    await sent(one, range(3000))
    first = await place.reading(one)
    had = await taken(first, 400, settle=False)
    second = await place.reading(other)
    await first.settle([*had[:100], *had[150:160]])  # what is held is settled later than what comes after it
    if how == "ended":
        await first.end(0)
    else:
        (await one._link("reading")).abort()
    rest = [*range(100, 150), *range(160, 3000)]
    found = numbers(await taken(second, len(rest)))
    unsettled = [number for number in found if number not in range(100) and number not in range(150, 160)]
    assert rest[: len(unsettled)] == unsettled


async def test_it_comes_again_as_often_as_it_takes(place: Place) -> None:
    """By RabbitMQ's own default, a message is dropped when it comes for the 21st time."""
    broker = await place.broker()
    await sent(broker, [1, 2])
    for _ in range(25):
        intake = await place.reading(broker)
        assert [1, 2] == numbers(await taken(intake, 2, settle=False))
        await intake.end(0)
    assert [1, 2] == numbers(await taken(await place.reading(broker), 2))


async def test_one_consumer_at_a_time_is_given_a_queue(place: Place) -> None:
    broker = await place.broker()
    first, second = await place.reading(broker), await place.reading(await place.broker())
    await sent(broker, range(20))
    assert list(range(20)) == numbers(await taken(first, 20))
    assert [] == list(await second.fetch(10, 0.2))


async def test_settled_late_in_part_or_after_it_was_given_back_nothing_else_is_settled(place: Place) -> None:
    broker = await place.broker()
    await sent(broker, range(10))
    intake = await place.reading(broker)
    had = await taken(intake, 10, settle=False)
    await intake.settle([had[9], had[4]])
    await intake.settle(had[:3])
    await intake.end(0)
    await intake.begin(0, after=None, start="now", epoch=2)
    again = await taken(intake, 5, settle=False)
    assert [3, 5, 6, 7, 8] == numbers(again)
    await intake.settle([had[3]])  # of the lease before: its tag is another message's now
    await intake.end(0)
    assert [3, 5, 6, 7, 8] == numbers(await taken(await place.reading(broker), 5))


async def test_while_it_is_paused_it_stays_a_member_and_gives_nothing(place: Place) -> None:
    broker = await place.broker()
    intake = await place.reading(broker)
    intake.pause()
    await sent(broker, range(3))
    assert [] == list(await intake.fetch(10, 0.3))
    intake.resume()
    assert [0, 1, 2] == numbers(await taken(intake, 3))


# --- a connection that is gone ----------------------------------------------------------------------------------------


async def test_a_server_that_hangs_is_noticed_within_twice_the_heartbeat(place: Place) -> None:
    broker = await place.broker("&heartbeat_s=1")
    intake = await place.reading(broker)
    place.server.pause()
    try:
        began = asyncio.get_running_loop().time()
        assert "amqp://" in str(await until_failed(intake.fetch, 10, 0.5))
        assert asyncio.get_running_loop().time() - began < 6  # and a second of grace, on a machine that is busy
    finally:
        place.server.resume()
    await intake.close()
    await sent(broker, [1])
    assert [1] == numbers(await taken(await place.reading(broker), 1))


async def test_what_was_on_its_way_when_the_connection_broke_may_be_there_or_not(place: Place) -> None:
    broker = await place.broker("&timeout_s=1")
    await sent(broker, [0])
    place.server.pause()
    try:
        (answer,) = await broker.send([message(1)])
    finally:
        place.server.resume()
    assert isinstance(answer, BrokerError)
    assert not isinstance(answer, MessageRefused)
    async with asyncio.timeout(WAIT_S):
        while (await broker.send([message(1)]))[0] is not None:
            pass
    assert [0, 1] == list(dict.fromkeys(numbers(await taken(await place.reading(broker), 2))))


async def test_after_the_server_was_killed_everything_works_again_and_nothing_is_lost(place: Place) -> None:
    broker = await place.broker()
    intake = await place.reading(broker)
    await sent(broker, range(5))
    place.server.kill()
    await until_failed(intake.fetch, 10, 0.5)
    with pytest.raises(BrokerError, match="can't be reached"):
        await broker.send([message(5)])
    place.server.start()
    await intake.close()
    await sent_somehow(broker, 5)
    assert [0, 1, 2, 3, 4, 5] == list(dict.fromkeys(numbers(await taken(await place.reading(broker), 6))))


async def test_a_queue_that_is_deleted_under_its_reader_ends_the_intake(place: Place) -> None:
    intake = await place.reading(await place.broker())
    place.manage("DELETE", f"queues/%2F/{place.prefix}{CONSUMER}.p000")
    assert "p000" in str(await until_failed(intake.fetch, 10, 0.5))


async def test_of_several_hosts_the_first_that_answers_is_taken(place: Place) -> None:
    place.address = f"guest:guest@127.0.0.1:1,{place.server.address}"
    await sent(await place.broker(), [1])


# --- topology ---------------------------------------------------------------------------------------------------------


async def test_what_is_made_is_made_once_and_what_is_different_is_only_reported(place: Place) -> None:
    broker = await place.broker(needs=Needs())
    assert [f"exchange {place.prefix}orders", f"queues of {CONSUMER}"] == [
        one.what for one in await broker.apply(NEEDS)
    ]
    assert [] == list(await broker.apply(NEEDS))
    for other in (2, 3, 12):
        more = await place.broker(partitions=other)
        (one,) = await more.differences(NEEDS)
        assert (f"{other} partitions", "1 partition", False) == (one.wanted, one.found, one.safe)
        assert [] == list(await more.apply(NEEDS))
        assert {0} == (await more.intake(CHANNEL, CONSUMER, lambda: None)).assigned()


@pytest.mark.parametrize("there", [1, 2, 3, 4, 5, 8, 12])
async def test_partitions_are_as_many_as_were_made(place: Place, there: int) -> None:
    await place.broker(partitions=there)
    broker = await place.broker(partitions=4)
    assert set(range(there)) == (await broker.intake(CHANNEL, CONSUMER, lambda: None)).assigned()


async def test_one_queue_of_several_that_is_gone_is_named_and_made_anew(place: Place) -> None:
    broker = await place.broker(partitions=4)
    intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
    place.opened.append(intake)
    gone = f"{place.prefix}{CONSUMER}.p001"
    place.manage("DELETE", f"queues/%2F/{gone}")
    (found,) = await broker.differences(NEEDS)
    assert ("4 partitions", f"no queue {gone}", True) == (found.wanted, found.found, found.safe)
    with pytest.raises(BrokerError, match=f"has no queue '{gone}'. Make it: spine topology apply"):
        await intake.begin(1, after=None, start="earliest", epoch=1)
    assert [found] == list(await broker.apply(NEEDS))
    assert [] == list(await broker.apply(NEEDS))
    assert [None] == list(await broker.send([message(1, 1)]))
    intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
    place.opened.append(intake)
    await intake.begin(1, after=None, start="earliest", epoch=2)
    assert [1] == numbers(await taken(intake, 1))


async def test_a_queue_or_an_exchange_of_another_kind_is_reported(place: Place) -> None:
    name = f"{place.prefix}{CONSUMER}.p000"
    place.manage("PUT", f"queues/%2F/{name}", {"durable": True, "arguments": {"x-queue-type": "classic"}})
    place.manage("PUT", f"exchanges/%2F/{place.prefix}{CHANNEL}", {"type": "topic", "durable": True})
    broker = await place.broker(needs=Needs())
    exchange, queues = await broker.differences(NEEDS)
    assert ("fanout", "type topic", False) == (exchange.wanted, exchange.found, exchange.safe)
    assert not queues.safe
    assert queues.found.startswith("x-")


async def test_who_was_stopped_while_making_it_is_mended_by_the_next(place: Place) -> None:
    broker = await place.broker()
    place.manage("DELETE", f"bindings/%2F/e/{place.prefix}{CHANNEL}/e/{place.prefix}{CONSUMER}.slots/~")
    assert (await broker.send([message(1)]))[0] is not None
    assert [] == list(await broker.apply(NEEDS))
    await sent(broker, [1])


async def test_a_consumer_without_queues_says_what_to_do(place: Place) -> None:
    broker = await place.broker(needs=Needs())
    with pytest.raises(BrokerError, match="spine topology apply"):
        await broker.intake(CHANNEL, CONSUMER, lambda: None)


# --- whose it is ------------------------------------------------------------------------------------------------------


async def test_of_journals_that_claim_at_the_same_moment_one_has_it_for_good(place: Place) -> None:
    brokers = [await place.broker() for _ in range(6)]
    owners = await asyncio.gather(
        *(broker.claim("publisher", CHANNEL, f"j{n}.1", force=False) for n, broker in enumerate(brokers))
    )
    assert 1 == len(set(owners))
    place.server.restart()  # not killed: 4.0 may write an exchange of the last moment only a little later
    broker = await place.broker()
    assert owners[0] == await broker.claim("publisher", CHANNEL, "late.1", force=False)
    assert "consumer.1" == await broker.claim("consumer", CHANNEL, "consumer.1", force=False)
    assert "late.1" == await broker.claim("publisher", CHANNEL, "late.1", force=True)
    assert "late.1" == await broker.claim("publisher", CHANNEL, owners[0], force=False)


async def test_who_takes_a_place_by_force_has_it_though_another_asks_for_it_all_the_time(place: Place) -> None:
    """It is deleted and made anew, and who asked in between had it."""
    taking, asking = await place.broker(), await place.broker()

    async def ask() -> None:
        while True:
            await asking.claim("publisher", CHANNEL, "before.1", force=False)

    async with asyncio.TaskGroup() as group:
        asks = group.create_task(ask())
        for number in range(30):
            assert f"j{number}.1" == await taking.claim("publisher", CHANNEL, f"j{number}.1", force=True)
        asks.cancel()


# --- doctor -----------------------------------------------------------------------------------------------------------


async def test_findings_say_what_amqp_does_not_show(place: Place) -> None:
    found = await (await place.broker()).findings(NEEDS)
    assert ["durability", "queues"] == [one.what for one in found]
    assert "management=" in found[1].says


@pytest.mark.parametrize(
    ("overflow", "says"), [("drop-head", "drops messages"), ("reject-publish", "takes nothing more when it is full")]
)
async def test_findings_name_policies_that_drop_messages_and_replicas_that_are_missing(
    place: Place, overflow: str, says: str
) -> None:
    definition = {"max-length": 1000, "message-ttl": 60_000, "delivery-limit": 5, "overflow": overflow}
    policy = {"pattern": f"^{place.prefix}", "definition": definition, "apply-to": "queues"}
    place.manage("PUT", "policies/%2F/drops", policy)
    try:
        broker = await place.broker(f"&management={place.server.management_url}")
        async with asyncio.timeout(WAIT_S):
            while len(said := [one for one in await broker.findings(NEEDS) if one.level != "ok"]) < 4:
                pass
    finally:
        place.manage("DELETE", "policies/%2F/drops")
    assert {"warning", "danger"} == {one.level for one in said}
    for part in ("1 replica:", "max-length=1000", "message-ttl=60000", "delivery-limit=5"):
        assert any(part in one.says for one in said), part
    (length,) = [one.says for one in said if "max-length=" in one.says]
    assert says in length


async def test_a_management_that_is_not_there_is_said_without_the_password(place: Place) -> None:
    broker = await place.broker("&management=http://127.0.0.1:1")
    with pytest.raises(BrokerError, match="http://127.0.0.1:1 does not say"):
        await broker.findings(NEEDS)


# --- the URL ----------------------------------------------------------------------------------------------------------


async def test_no_more_are_sent_ahead_than_prefetch_says(place: Place) -> None:
    broker = await place.broker("&prefetch=7")
    await sent(broker, range(20))
    intake = await place.reading(broker)
    had = await taken(intake, 7, settle=False)
    assert [] == list(await intake.fetch(10, 0.3))
    assert 13 == await intake.lag()
    await intake.settle(had)
    assert list(range(7, 20)) == numbers(await taken(intake, 13))


async def test_queues_are_quorum_queues_without_limits_and_have_the_replicas_that_were_asked_for(place: Place) -> None:
    await place.broker("&replicas=5")
    arguments = place.queue()["arguments"]
    assert {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": -1,
        "x-quorum-initial-group-size": 5,
    } == arguments


async def test_user_password_and_virtual_host_are_those_of_the_url_and_never_shown(place: Place) -> None:
    user, password, host = "shop", "p@ss/w:rd", "shop/one"
    place.manage("PUT", f"vhosts/{quote(host, safe='')}", {})
    place.manage("PUT", f"users/{user}", {"password": password, "tags": ""})
    rights = {"configure": f"^{place.prefix}.*", "write": f"^{place.prefix}.*", "read": f"^{place.prefix}.*"}
    place.manage("PUT", f"permissions/{quote(host, safe='')}/{user}", rights)

    def url(password: str) -> str:
        return f"amqp://{user}:{quote(password, safe='')}@{place.server.address}/{quote(host, safe='')}?prefix={place.prefix}"

    broker = open_broker(url(password))
    await broker.open()
    await broker.apply(NEEDS)
    assert "j.1" == await broker.claim("publisher", CHANNEL, "j.1", force=False)
    await sent(broker, [1])  # type: ignore[arg-type]
    await broker.close()
    assert f"{place.prefix}{CONSUMER}.p000" in {
        one["name"] for one in place.manage("GET", f"queues/{quote(host, safe='')}")
    }
    wrong = open_broker(url("secret-and-wrong"))
    with pytest.raises(BrokerError) as raised:
        await wrong.open()
    assert "can't be reached" in str(raised.value)
    assert "secret-and-wrong" not in f"{raised.value} {wrong.url} {wrong!r} {raised.value.__cause__}"
    assert password not in f"{broker.url} {broker.settings!r}"  # type: ignore[attr-defined]
    elsewhere = open_broker(f"amqp://guest:guest@{place.server.address}/nowhere")
    with pytest.raises(BrokerError, match="has no virtual host 'nowhere', or guest may not use it"):
        await elsewhere.open()


async def test_a_channel_that_a_user_may_not_write_is_an_error(place: Place) -> None:
    await place.broker()
    place.manage("PUT", "users/reader", {"password": "reader", "tags": ""})
    place.manage("PUT", "permissions/%2F/reader", {"configure": "", "write": "", "read": ".*"})
    broker = open_broker(place.url().replace("guest:guest", "reader:reader"))
    place.opened.append(broker)
    await broker.open()
    (answer,) = await broker.send([message(1)])
    assert "ACCESS_REFUSED" in str(answer)
    with pytest.raises(BrokerError, match="ACCESS_REFUSED"):
        await broker.claim("publisher", "other", "j.1", force=False)


async def test_over_tls_the_server_and_the_client_show_their_certificates(
    rabbitmq_server: RabbitMQ, tmp_path: Path
) -> None:
    certificates(tmp_path)
    port = servers.free_ports()
    settings = {
        "listeners.ssl.default": str(port),
        "ssl_options.cacertfile": str(tmp_path / "ca.pem"),
        "ssl_options.certfile": str(tmp_path / "server.pem"),
        "ssl_options.keyfile": str(tmp_path / "server.key"),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
    }
    server = RabbitMQ(tmp_path / "server", settings=settings)
    with server:
        files = f"tls_ca={tmp_path / 'ca.pem'}&tls_cert={tmp_path / 'client.pem'}&tls_key={tmp_path / 'client.key'}"
        broker = open_broker(f"amqps://guest:guest@localhost:{port}/?partitions=1&{files}")
        await broker.open()
        await broker.apply(NEEDS)
        await sent(broker, [1])  # type: ignore[arg-type]
        await broker.close()
        for options in ("", f"tls_ca={tmp_path / 'ca.pem'}"):
            stranger = open_broker(f"amqps://guest:guest@localhost:{port}/?timeout_s=5&{options}")
            with pytest.raises(BrokerError, match="can't be reached"):
                await stranger.open()


def certificates(folder: Path) -> None:
    """Of an authority, a server called localhost, and a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n", encoding="utf-8")
    for name in ("server", "client"):
        openssl("req", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://localhost/?partition=3", "partitions"),
        ("amqp://localhost/?partitions=0", "1 to 960"),
        ("amqp://localhost/?partitions=7", "1, 2, 3, 4, 5, 6, 8"),
        ("amqp://localhost/?prefetch=70000", "65,535"),
        ("amqp://localhost/?unrouted=maybe", "wait, drop"),
        ("amqp://localhost/?tls=yes", "amqps://"),
        ("amqps://localhost/?tls=no", "amqp://"),
        ("amqp://localhost/?management=localhost:15672", "http://localhost:15672"),
        ("amqps://localhost/?tls_ca=/nowhere/ca.pem", "readable file"),
    ],
)
def test_an_option_that_can_not_be_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_broker(url)


@pytest.mark.parametrize(
    ("url", "vhost"), [("amqp://h", "/"), ("amqp://h/", "/"), ("amqp://h/%2Fa", "/a"), ("amqp://h/b", "b")]
)
def test_the_path_is_the_virtual_host(url: str, vhost: str) -> None:
    broker = open_broker(url)
    assert isinstance(broker, RabbitBroker)
    assert vhost == broker.settings.vhost
