"""What nobody's library sends: raw clients on real servers. Nothing of it stops an intake or gets lost, and what stands
behind it is handled."""

from __future__ import annotations

import asyncio
import ctypes
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiormq
import confluent_kafka
import nats
import pytest
from aiormq.exceptions import InvalidFrameError
from pamqp.commands import Basic

from eventspine import Event, Service, Spine
from eventspine.brokers._rabbitmq_frames import unmarshal
from eventspine.testing.servers import Server

WAIT_S = 40.0
ATTRIBUTES = {"specversion": b"1.0", "source": b"//till", "type": b"hostile.Sent", "partitionkey": b"ann"}
Headers = dict[bytes, bytes]
Send = Callable[[str, list[tuple[Headers, bytes]]], Awaitable[None]]  # where to, and what


class Sent(Event, context="hostile", key="who", type="hostile.Sent"):
    who: str
    number: int


def named(prefix: str, id: bytes, **others: bytes) -> Headers:
    return {f"{prefix}{name}".encode(): value for name, value in {**ATTRIBUTES, "id": id, **others}.items()}


def numbered(number: int) -> bytes:
    return b'{"who":"ann","number":%d}' % number


async def read(url: str, send: Send, prefix: str, hostile: list[Headers]) -> tuple[set[int], dict[str, int]]:
    """Which were handled, of these between two others, by their place; and why how many are dead."""
    handled: list[int] = []
    service: Service[None] = Service("reader", publishes=[])

    @service.on(Sent, start="earliest")
    async def take(event: Sent) -> None:
        handled.append(event.number)

    around = f"t{uuid4().hex[:10]}."
    messages = [(headers, numbered(place)) for place, headers in enumerate(hostile)]
    first, last = (named(prefix, b"first"), numbered(-1)), (named(prefix, b"last"), numbered(-2))
    async with Spine("memory://", broker=f"{url}/?partitions=1&prefix={around}") as spine, spine.running(service):
        async with asyncio.timeout(WAIT_S):
            while not spine.health()["broker"]["intakes"][0]["partitions"]:
                await asyncio.sleep(0.02)
            await send(around, [first, *messages, last])
            while -2 not in handled:
                await asyncio.sleep(0.02)
        rows = await spine.journal.deliveries(states=["dead"])
    assert {-1, -2} <= set(handled)
    errors = [row.error or "" for row in rows]
    return {*handled} - {-1, -2}, {error: errors.count(error) for error in errors}


# --- RabbitMQ -----------------------------------------------------------------------------------------------------------


class Raw(Basic.Properties):
    """A message's properties as these bytes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def marshal(self) -> bytes:
        return self.raw


def text(value: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(value)) + value


def deep(kind: bytes, before: bytes, levels: int) -> bytes:
    value = b""
    for _ in range(levels):
        value = before + kind + struct.pack(">I", len(value)) + value
    return value[len(before) :]


def properties(table: dict[bytes, bytes], content_type: bytes = b"application/json") -> bytes:
    entries = b"".join(bytes([len(name)]) + name + value for name, value in table.items())
    return b"\xa0\x00" + bytes([len(content_type)]) + content_type + struct.pack(">I", len(entries)) + entries


@pytest.fixture
def amqp(rabbitmq_server: Server) -> Send:
    async def send(around: str, messages: list[tuple[Headers, bytes]]) -> None:
        connection = await aiormq.connect(rabbitmq_server.url)
        channel = await connection.channel(publisher_confirms=False)  # many at once; closing waits for all
        for headers, data in messages:
            raw = headers.get(b"raw") or properties({name: text(value) for name, value in headers.items()})
            await channel.basic_publish(data, exchange=f"{around}hostile", routing_key="k", properties=Raw(raw))
        await connection.close()

    return send


RABBITMQ = "cloudEvents:"
VALUES = {
    "a time after all calendars": {b"at": b"T" + b"\xff" * 8},
    "an event's time after all calendars": {b"cloudEvents:time": b"T\x7f" + b"\xff" * 7},
    "a name that is no text": {b"\xff\xfe": text(b"x")},
    "tables in tables": {b"t": deep(b"F", b"\1a", 2000)},
    "lists in lists": {b"a": deep(b"A", b"", 2000)},
    "text that is none": {b"cloudEvents:tenant": text(b"\xff")},
    "bytes": {b"x": b"x" + struct.pack(">I", 2) + b"\xff\0"},
}


def table_of(id: bytes) -> dict[bytes, bytes]:
    return {name: text(value) for name, value in named(RABBITMQ, id).items()}


async def test_rabbitmq_hands_on_what_the_client_s_library_can_t_read(rabbitmq_server: Server, amqp: Send) -> None:
    """Its reader would end, and the server hand out the same message first, each time."""
    hostile = [{b"raw": properties(table_of(name.encode()) | value)} for name, value in VALUES.items()]
    no_text = {b"raw": properties(table_of(b"content type"), content_type=b"\xff\xfe")}
    handled, dead = await read(rabbitmq_server.url.rstrip("/"), amqp, RABBITMQ, [*hostile, no_text])
    assert handled == set(range(len(VALUES) + 1))
    assert not dead


async def test_on_rabbitmq_each_of_many_at_once_that_are_no_events_is_kept(rabbitmq_server: Server, amqp: Send) -> None:
    """The queue has none of them any more."""
    handled, dead = await read(rabbitmq_server.url.rstrip("/"), amqp, RABBITMQ, [{b"x": b"y"}] * 100)
    assert not handled
    assert dead == {"it has no CloudEvents attributes": 100}


def framed(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 7, len(payload)) + payload + b"\xce"


def test_a_routing_key_that_is_no_text_is_read_as_bytes() -> None:
    payload = Basic.Deliver.index.to_bytes(4, "big") + b"\1c" + (5).to_bytes(8, "big") + b"\1\1e\2\xff\xfe"
    _, channel, found = unmarshal(framed(1, payload))
    assert (7, "c", 5, True, "e") == (
        channel, found.consumer_tag, found.delivery_tag, found.redelivered, found.exchange,
    )  # fmt: skip
    assert b"\xff\xfe" == found.routing_key.encode("utf-8", "surrogateescape")


def test_a_frame_that_is_of_no_message_and_can_t_be_read_ends_the_connection() -> None:
    with pytest.raises(InvalidFrameError):
        unmarshal(framed(1, b"\0\x0a\xff\xff"))


# --- Kafka --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def librdkafka() -> Any:
    """The client's own, whose Python refuses names that are no text."""
    found = sorted(Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka-*"))
    if not found:
        pytest.skip("this build of confluent-kafka has its library elsewhere")
    library = ctypes.CDLL(str(found[0]))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


@pytest.fixture
def kafka(kafka_server: Server, librdkafka: Any) -> Iterator[Send]:
    conf, error = ctypes.c_void_p(librdkafka.rd_kafka_conf_new()), ctypes.create_string_buffer(200)
    librdkafka.rd_kafka_conf_set(conf, b"bootstrap.servers", kafka_server.address.encode(), error, 200)
    producer = ctypes.c_void_p(librdkafka.rd_kafka_new(0, conf, error, 200))

    def produce(topic: bytes, headers: Headers, data: bytes) -> None:
        """Its arguments come in pairs: 1 a topic, 3 a partition, 4 a value, 7 flags (2: copy it), 10 headers, 0 no more."""
        made = ctypes.c_void_p(librdkafka.rd_kafka_headers_new(8))
        for name, value in headers.items():
            sizes = ctypes.c_ssize_t(len(name)), ctypes.c_ssize_t(len(value))
            librdkafka.rd_kafka_header_add(made, name, sizes[0], value, sizes[1])
        assert 0 == librdkafka.rd_kafka_producev(
            producer, 1, topic, 3, 0, 7, 2, 4, data, ctypes.c_size_t(len(data)), 10, made, 0
        )

    async def send(around: str, messages: list[tuple[Headers, bytes]]) -> None:
        for headers, data in messages:
            produce(f"{around}hostile".encode(), headers, data)
        assert 0 == await asyncio.to_thread(librdkafka.rd_kafka_flush, producer, 20_000)

    yield send
    librdkafka.rd_kafka_destroy(producer)


async def test_on_kafka_a_header_whose_name_is_no_text_makes_a_dead_delivery(kafka_server: Server, kafka: Send) -> None:
    """It took the whole process with it."""
    hostile = [named("ce_", b"%d" % number) | {b"\xff\xfe": b"x"} for number in range(20)]
    handled, dead = await read(kafka_server.url, kafka, "ce_", hostile)
    assert not handled
    assert dead == {"it has no CloudEvents attributes": 20}


async def test_on_kafka_two_ids_that_are_no_text_are_not_one(kafka_server: Server, kafka: Send) -> None:
    handled, dead = await read(kafka_server.url, kafka, "ce_", [named("ce_", id) for id in (b"\xff", b"\xfe", b"z")])
    assert handled == {2}
    assert 2 == len(dead) == sum("its id holds" in error for error in dead)


# --- NATS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jetstream(nats_server: Server) -> Send:
    async def send(around: str, messages: list[tuple[Headers, bytes]]) -> None:
        client = await nats.connect(nats_server.url)
        for headers, data in messages:
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers.items())
            raw = headers.get(b"raw") or b"NATS/1.0\r\n" + lines + b"\r\n"
            size = len(raw), len(raw) + len(data)
            await client._send_command(b"HPUB %shostile.p0 %d %d\r\n" % (around.encode(), *size) + raw + data + b"\r\n")
        await client.flush()
        await client.close()

    return send


async def test_on_nats_two_ids_that_are_no_text_are_not_one(nats_server: Server, jetstream: Send) -> None:
    ids = (b"%FF", b"%FE", b"\xff", b"\xfe", b"z")
    handled, dead = await read(nats_server.url, jetstream, "ce-", [named("ce-", id) for id in ids])
    assert handled == {4}
    assert 4 == sum(dead.values())
    assert all("its id holds" in error for error in dead)


async def test_on_nats_headers_may_be_anything(nats_server: Server, jetstream: Send) -> None:
    raws = [
        b"NATS/1.0\r\n\r\n", b"NATS/1.0", b"garbage\0\xff", b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", b"NATS/1.0\r\n:x\r\nno colon\r\n::::\r\n\r\n",
    ]  # fmt: skip
    handled, dead = await read(nats_server.url, jetstream, "ce-", [{b"raw": raw} for raw in raws])
    assert not handled
    assert dead == {"it has no CloudEvents attributes": len(raws)}


async def test_on_nats_headers_may_be_written_as_http_writes_them(nats_server: Server, jetstream: Send) -> None:
    capitals = {name.title(): value for name, value in named("ce-", b"capitals").items()}
    handled, dead = await read(nats_server.url, jetstream, "ce-", [capitals | {b"Content-Type": b"application/json"}])
    assert handled == {0}
    assert not dead
