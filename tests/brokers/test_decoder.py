"""Messages of others that are no CloudEvents, read by a decoder that the service declares."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Delivery, Event, Foreign, Service, Spine
from eventspine.brokers import memory
from eventspine.brokers.memory import Server, server
from eventspine.brokers.port import Message
from eventspine.engine import reading
from eventspine.errors import DeclarationError, SettingsError
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Replay

WAIT_S = 30.0
KINDS = pytest.mark.parametrize("kind", ["", "?kind=queue"])


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int


class Paid(Event, context="payments", key="customer"):
    customer: str


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


def legacy(number: int, customer: str = "ann", **headers: str) -> Message:
    data = json.dumps({"cust": customer, "no": number}).encode()
    return Message("orders", 0, customer, str(number), headers, "text/json", data)


def read(message: Foreign) -> Placed | None:
    if message.headers.get("kind") == "heartbeat":
        return None
    found = json.loads(message.data)
    return Placed(customer=found["cust"], number=found["no"])


class Reader:
    """A service that reads with this decoder, and what it was given."""

    def __init__(self, decode: Callable[[Foreign], Any] | None = read, **options: Any) -> None:
        self.handled: list[tuple[str, int]] = []
        self.ids: list[str] = []
        self.service: Service[None] = Service("inventory", publishes=[])

        @self.service.on(Placed)
        async def take(event: Placed, delivery: Delivery) -> None:
            self.handled.append((event.customer, event.number))
            self.ids.append(delivery.envelope.id)

        if decode is not None:
            self.service.decoder("orders", **options)(decode)


@pytest.fixture
def broker() -> Server:
    return server(uuid4().hex)


def to(broker: Server, options: str = "") -> str:
    return f"memory://{broker.name}{options}"


@KINDS
async def test_what_is_no_cloudevent_is_read_by_the_declared_decoder_in_order(broker: Server, kind: str):
    reader = Reader()
    async with Spine("memory://", broker=to(broker, kind)) as stock, stock.running(reader.service):
        for number in range(20):
            broker.store(legacy(number, f"c{number % 2}"))
        broker.ring()
        await until(lambda: len(reader.handled) == 20)
    assert [number for who, number in reader.handled if who == "c1"] == list(range(1, 20, 2))
    assert len(set(reader.ids)) == 20


async def test_the_decoder_sees_the_message_as_the_broker_had_it(broker: Server):
    seen: list[Foreign] = []

    def look(message: Foreign) -> Placed:
        seen.append(message)
        return read(message) or Placed(customer="", number=0)

    reader = Reader(look)
    async with Spine("memory://", broker=to(broker)) as stock, stock.running(reader.service):
        broker.store(legacy(1, kind="order"))
        broker.ring()
        await until(lambda: reader.handled)
    assert seen == [Foreign("orders", b"ann", {"kind": "order"}, "text/json", b'{"cust": "ann", "no": 1}', None)]


async def test_cloudevents_on_the_same_channel_are_read_as_what_they_are(broker: Server):
    reader, storefront = Reader(), Service("storefront", publishes="orders")
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(reader.service),
    ):
        await store.publish(Placed(customer="ann", number=1))
        await until(lambda: reader.handled == [("ann", 1)])
        broker.store(legacy(2))
        broker.ring()
        await until(lambda: reader.handled == [("ann", 1), ("ann", 2)])


async def test_what_the_decoder_does_not_want_is_passed(broker: Server):
    reader, journal = Reader(), MemoryJournal()
    async with Spine(journal, broker=to(broker)) as stock, stock.running(reader.service):
        broker.store(legacy(1, kind="heartbeat"))
        broker.store(legacy(2))
        broker.ring()
        await until(lambda: reader.handled)
        assert reader.handled == [("ann", 2)]
        assert [] == [*await journal.deliveries(states=["dead"])]


async def test_a_message_that_comes_again_is_the_same_event(broker: Server):
    """By its place in a log; in a queue by what the producer has made unique."""
    for kind, options in [("", {}), ("?kind=queue", {"id": lambda message: message.headers["message-id"]})]:
        there, ids = server(uuid4().hex), []
        for _ in range(2):  # into one journal each
            reader = Reader(**options)  # type: ignore[arg-type]
            async with Spine("memory://", broker=to(there, kind), take_over=True) as stock:
                async with stock.running(reader.service):
                    if not there.sent or kind:
                        there.store(legacy(1, **{"message-id": "a-1"}))
                    there.ring()
                    await until(lambda reader=reader: reader.handled)
            ids += reader.ids
        assert len(ids) == 2
        assert len(set(ids)) == 1


@KINDS
async def test_what_can_not_be_decoded_is_dead_with_all_it_has_and_read_again_by_a_mended_decoder(
    broker: Server, kind: str, caplog: pytest.LogCaptureFixture
):
    broken, journal = Reader(lambda message: {}["customer"]), MemoryJournal()
    async with Spine(journal, broker=to(broker, kind)) as stock, stock.running(broken.service):
        broker.store(legacy(7, origin="till 3"))
        broker.ring()
        async with asyncio.timeout(WAIT_S):
            while not (dead := await journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)
    (row,) = dead
    assert (row.reason, row.error) == ("undecodable", "KeyError: 'customer'")
    assert 'lambda message: {}["customer"]' in row.traceback
    assert row.record is not None
    assert row.record.data == b'{"cust": "ann", "no": 7}'

    assert (
        "inventory.orders: 1 message of orders can't be read and is a dead delivery, the first because: KeyError: 'customer'. "
        "Mend the decoder" in caplog.text
    )

    def mended(message: Foreign) -> Placed | None:
        assert (message.headers, message.key, message.content_type) == ({"origin": "till 3"}, b"ann", "text/json")
        return read(message)

    reader = Reader(mended)
    async with Spine(journal, broker=to(broker, kind)) as stock, stock.running(reader.service):
        await journal.control([Replay([row.number])])
        await until(lambda: reader.handled == [("ann", 7)])
        assert [] == [*await journal.deliveries(states=["dead", "parked"])]


async def test_what_is_replayed_is_read_though_its_partition_is_gone(broker: Server, monkeypatch: pytest.MonkeyPatch):
    """There are fewer of them than when it came: nobody has its partition, and nobody ever will."""
    journal = MemoryJournal()
    async with Spine(journal, broker=to(broker)) as stock, stock.running(Reader(None).service):
        broker.store(legacy(7)._replace(slot=3))
        broker.ring()
        async with asyncio.timeout(WAIT_S):
            while not (dead := await journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)
    assert [3] == [row.partition for row in dead]

    monkeypatch.setattr(memory, "PARTITIONS", 2)
    reader = Reader()
    async with Spine(journal, broker=to(broker), lease_s=0.6) as stock, stock.running(reader.service):
        await journal.control([Replay([dead[0].number])])
        await until(lambda: reader.handled == [("ann", 7)])
        assert [] == [*await journal.deliveries(states=["dead", "parked"])]


async def test_data_that_no_journal_should_have_is_left_with_a_log_and_a_replay_makes_nothing_of_it(
    broker: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "KEPT_BYTES_MAX", 100)
    reader, journal = Reader(lambda message: pytest.fail("it has nothing to read")), MemoryJournal()
    says = "it has 143 bytes; of a message with more than 100 only the broker has the data"
    async with Spine(journal, broker=to(broker)) as stock, stock.running(reader.service):
        broker.store(legacy(7, "a" * 122))
        broker.ring()
        for attempts in (1, 2):
            async with asyncio.timeout(WAIT_S):
                while not (dead := await journal.deliveries(states=["dead"])) or dead[0].attempts < attempts:
                    await asyncio.sleep(0.01)
            (row,) = dead
            assert row.record is not None
            assert ("not-an-event", says, b"") == (row.reason, row.error, row.record.data)
            if attempts == 1:
                await journal.control([Replay([row.number])])


async def test_a_queue_that_has_it_no_more_once_it_is_settled_leaves_it_whole(
    broker: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading, "KEPT_BYTES_MAX", 100)
    reader = Reader()
    async with Spine("memory://", broker=to(broker, "?kind=queue")) as stock, stock.running(reader.service):
        broker.store(legacy(7, "a" * 122))
        broker.ring()
        await until(lambda: reader.handled == [("a" * 122, 7)])


async def test_what_nobody_can_read_is_told_with_what_to_do(broker: Server, caplog: pytest.LogCaptureFixture):
    """A structured CloudEvent whose content type is that of its data, as an SDK writes it, is told from what is none."""
    reader, journal = Reader(None), MemoryJournal()
    async with Spine(journal, broker=to(broker)) as stock, stock.running(reader.service):
        data = b'{"specversion": "1.0", "id": "1", "source": "till", "type": "orders.Placed", "data": {}}'
        broker.store(Message("orders", 3, "ann", "1", {}, "application/json", data))
        broker.store(legacy(1))
        broker.ring()
        async with asyncio.timeout(WAIT_S):
            while 2 != len(dead := await journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)
    assert {row.error for row in dead} == {
        "its data is a CloudEvent, and its content type 'application/json' is not application/cloudevents+json",
        "it has no CloudEvents attributes",
    }
    assert "Declare how it is read, @SERVICE.decoder('orders'), or mend its producer" in caplog.text
    assert "spine dead replay --handler inventory.orders" in caplog.text


async def test_what_is_replayed_and_still_can_not_be_read_is_dead_again(broker: Server):
    reader, journal = Reader(None), MemoryJournal()
    async with Spine(journal, broker=to(broker)) as stock, stock.running(reader.service):
        broker.store(legacy(7))
        broker.ring()
        async with asyncio.timeout(WAIT_S):
            while not (dead := await journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)
            assert dead[0].reason == "not-an-event"
            await journal.control([Replay([dead[0].number])])
            while not (dead := await journal.deliveries(states=["dead"])) or dead[0].attempts != 2:
                await asyncio.sleep(0.01)
    assert reader.handled == []


async def test_an_event_of_another_channel_is_none_of_this_one(broker: Server):
    reader, journal = Reader(lambda message: Paid(customer="ann")), MemoryJournal()
    async with Spine(journal, broker=to(broker)) as stock, stock.running(reader.service):
        broker.store(legacy(1))
        broker.ring()
        async with asyncio.timeout(WAIT_S):
            while not (dead := await journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)
    assert "payments.Paid is an event of 'payments', not of 'orders'" in dead[0].error


async def test_two_services_on_a_journal_have_one_decoder_of_a_channel(broker: Server):
    one, other = Reader(), Service[None]("shipping", publishes=[])
    other.on(Placed, name="see")(lambda event: None)
    other.decoder("orders")(lambda message: None)
    async with Spine("memory://", broker=to(broker)) as stock:
        with pytest.raises(SettingsError, match="Two services on this journal declare a decoder of 'orders'"):
            async with stock.running(one.service, other):
                pass


async def test_a_decoder_of_a_channel_that_no_handler_reads_is_told(broker: Server, caplog: pytest.LogCaptureFixture):
    reader = Reader()
    reader.service.decoder("oders")(read)
    async with Spine("memory://", broker=to(broker)) as stock, stock.running(reader.service):
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "inventory has a decoder of 'oders' and no handler of its events, so nothing is read by it. It reads: orders."
    ]


def test_a_decoder_is_declared_once_as_a_plain_function():
    service = Reader().service
    with pytest.raises(DeclarationError, match="has a decoder of 'orders' already"):
        service.decoder("orders")(read)
    with pytest.raises(DeclarationError, match="plain function"):
        service.decoder("other")(asyncio.sleep)
    with pytest.raises(DeclarationError, match="id= is a function"):
        service.decoder("other", id="x")(read)  # type: ignore[arg-type]
    for none in ("", "Ord ers", read):
        with pytest.raises(DeclarationError, match="name the channel"):
            service.decoder(none)  # type: ignore[arg-type]
    for takes_none in (lambda: None, lambda one, two: None):
        with pytest.raises(DeclarationError, match="plain function that takes a message"):
            service.decoder("other")(takes_none)  # type: ignore[arg-type]
    into = Service[None]("into")
    into.include(service)
    assert into.decoders == service.decoders


async def test_postgresql_keeps_what_can_t_be_read_whatever_is_in_its_key_and_in_what_is_said_of_it(
    broker: Server, postgres_url: str
):
    """PostgreSQL's texts take no NUL, and a number as Kafka's clients write it is a key with seven of them."""
    seen: list[Foreign] = []

    def refuse(message: Foreign) -> Placed | None:
        if message.data == b"\0":
            seen.append(message)
            raise ValueError(f"no order: {message.data.decode()}")
        return read(message)

    reader = Reader(refuse)
    async with Spine(postgres_url, broker=to(broker)) as stock, stock.running(reader.service):
        broker.store(Message("orders", 0, "\0\0\0\0\0\0\0\5", "1", {"kind": "a\0b"}, "text/\0", b"\0"))
        broker.store(legacy(2))
        broker.ring()
        await until(lambda: reader.handled == [("ann", 2)])
        async with asyncio.timeout(WAIT_S):
            while not (dead := await stock.journal.deliveries(states=["dead"])) or dead[0].attempts != 2:
                if dead:
                    await stock.journal.control([Replay([dead[0].number])])
                await asyncio.sleep(0.01)
    assert r"no order: \x00" in dead[0].error
    assert len({(message.key, message.headers["kind"], message.content_type) for message in seen}) == 1
