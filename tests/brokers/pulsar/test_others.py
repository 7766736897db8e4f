"""Others on Pulsar: CloudEvents of another SDK, both ways, and what unpacks to too much."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pulsar
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from eventspine.brokers.binding import NotAnEvent, incoming, message_of
from eventspine.brokers.port import KEPT_BYTES_MAX
from eventspine.journal.port import Record
from eventspine.testing.servers import Server

from .material import CHANNEL, WAIT_S, client_of, opened, reading, sent, take, url_of


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


async def test_what_is_encrypted_comes_as_it_is_and_is_passed_over_nowhere(
    pulsar_server: Server, tmp_path: Path
) -> None:
    """Nobody has told us the key; it becomes a dead delivery then, which whoever has it can read."""
    secret, public = str(tmp_path / "secret.pem"), str(tmp_path / "public.pem")
    for line in (f"genrsa -out {secret} 2048", f"rsa -in {secret} -pubout -out {public}"):
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)

    def publish(topic: str) -> None:
        client = client_of(pulsar_server)
        keys = {"encryption_key": "k", "crypto_key_reader": pulsar.CryptoKeyReader(public, secret)}
        for batching in (False, True):
            encrypting = client.create_producer(topic, batching_enabled=batching, **keys)
            encrypting.send(b"so secret", {"color": "red"})
            encrypting.close()
        client.create_producer(topic).send(b"plain")
        client.close()

    async with opened(url_of(pulsar_server, partitions="1")) as broker, reading(broker) as intake:
        await asyncio.to_thread(publish, broker.settings.topic(CHANNEL))
        *encrypted, plain = await take(intake, 3)
    assert b"plain" == plain.data
    assert all(one.data and b"so secret" not in one.data for one in encrypted)
    assert {"color": "red"} == encrypted[0].headers


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
