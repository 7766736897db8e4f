"""What travels: the data of an event, and events that other programs write or read."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from eventspine.brokers._eventbridge_sender import detail_of, travels
from eventspine.brokers.binding import incoming
from eventspine.errors import MessageRefused
from eventspine.testing.servers import Server

from .faults import FaultyWay
from .material import all_of, begun, broker_at, fetch, message, number_of, raw


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1.5,"b":[null,true],"c":"\xc3\xa9"}',
        b"{}",
        b"[]",
        b'"text"',
        b"-17",
        b'{"deep":' + b"[" * 90 + b"]" * 90 + b"}",
    ],
)
def test_plain_json_goes_as_json_so_that_rules_can_look_into_it(data: bytes):
    assert travels(data)
    detail = json.loads(detail_of({"id": "1", "specversion": "1.0"}, "application/json", data))
    assert json.loads(data) == detail["data"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":9223372036854775808}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":1,"a":2}',
        b'{"a": 1}',
        b"{",
        b'{"a":1.0000000000000000001}',
        b'"\xef\xbf\xbf"',
        b"\xff\x00",
        b"[" * 100_000,
    ],
)
def test_what_another_json_writer_would_change_goes_as_bytes(data: bytes):
    assert not travels(data)
    assert "data_base64" in json.loads(detail_of({"id": "1", "specversion": "1.0"}, "application/json", data))


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/plain", "application/json"])
async def test_data_comes_as_it_was_sent(server: Server, bus: str, content_type: str):
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        data = (
            b'{"number":1,"text":"\xf0\x9f\x98\x80 \\u0000"}'
            if content_type == "application/json"
            else bytes(range(256))
        )
        [answer] = await broker.send([message(1, data=data)._replace(content_type=content_type)])
        assert answer is None
        [got] = await fetch(intake, 1)
        assert data == incoming(got, "orders", "ce-", 1).record.data
        assert abs(got.time_us / 1e6 - time.time()) < 60
        await intake.close()


async def test_the_largest_is_taken_and_a_larger_one_is_refused_with_both_sizes(server: Server, bus: str):
    async with broker_at(server.url, bus, entry_bytes_max=20_000) as broker:
        intake = await begun(broker)
        fits, too_large = (b'"' + b"x" * size + b'"' for size in (19_400, 20_000))
        first, second = await broker.send([message(1, data=fits), message(2, data=too_large)])
        assert first is None
        assert isinstance(second, MessageRefused)
        assert "20,000" in str(second)
        assert [1] == [number_of(one) for one in await fetch(intake, 1)]
        await intake.close()


async def test_calls_hold_ten_entries_and_so_many_bytes(server: Server, way: FaultyWay, bus: str):
    async with broker_at(way.url, bus, entry_bytes_max=20_000) as broker:
        large = b'"' + b"x" * 5_000 + b'"'
        messages = [message(n, n, large if n < 10 else None) for n in range(40)]
        assert [None] * 40 == list(await broker.send(messages))
    calls = [body["Entries"] for body in way.of("PutEvents")]
    assert all(len(call) <= 10 for call in calls)
    assert all(sum(len(entry["Detail"]) for entry in call) <= 20_000 for call in calls)
    assert 40 == sum(len(call) for call in calls)


@pytest.mark.parametrize("bad", [{"channel": "aws.ec2"}, {"headers": {"ce-type": "a\uffff"}}])
async def test_what_aws_can_not_carry_is_refused_alone(server: Server, bus: str, bad: dict[str, Any]):
    async with broker_at(server.url, bus) as broker:
        answers = await broker.send([message(1), message(2)._replace(**bad), message(3)])
    assert [None, None] == [answers[0], answers[2]]
    assert isinstance(answers[1], MessageRefused)


# --- other programs -----------------------------------------------------------------------------------------------


async def test_others_read_our_events_with_the_cloudevents_sdk(server: Server, bus: str):
    events, sqs = raw(server, "events"), raw(server, "sqs")
    async with broker_at(server.url, bus) as broker:
        queue = sqs.create_queue(QueueName=f"other-{bus}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        wanted = {"source": ["orders"], "detail-type": ["orders.Placed"], "detail": {"data": {"number": [7]}}}
        events.put_rule(Name="other", EventBusName=bus, EventPattern=json.dumps(wanted))
        events.put_targets(Rule="other", EventBusName=bus, Targets=[{"Id": "q", "Arn": arn}])
        await broker.send([message(7, tenant="Zo\u00eb"), message(8)])
        [body] = all_of(queue, sqs)
    event = JSONFormat().read(CloudEvent, json.dumps(json.loads(body)["detail"]))
    assert ("orders.Placed", "shop", "Zo\u00eb") == (
        event.get_type(),
        event.get_source(),
        event.get_extension("tenant"),
    )
    assert {"number": 7} == event.get_data()


async def test_we_read_events_that_others_made_with_the_cloudevents_sdk(server: Server, bus: str):
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        attributes = {
            "id": "no uuid",
            "source": "//other/shop",
            "type": "orders.Placed",
            "datacontenttype": "application/json",
        }
        detail = JSONFormat().write(
            CloudEvent(attributes={**attributes, "time": datetime(2024, 2, 29, tzinfo=UTC)}, data={"n": 1})
        )
        binary = CloudEvent(attributes={**attributes, "datacontenttype": "image/png"}, data=b"\x00\xff")
        entry = {"Source": "orders", "DetailType": "orders.Placed", "EventBusName": bus}
        details = [detail, JSONFormat().write(binary)]
        raw(server, "events").put_events(Entries=[{**entry, "Detail": one.decode()} for one in details])
        arrived = [incoming(one, "orders", "ce-", 1) for one in await fetch(intake, 2)]
        await intake.close()
    first, second = sorted((one.record for one in arrived), key=lambda record: record.data, reverse=True)
    assert {"n": 1} == json.loads(first.data)
    assert b"\x00\xff" == second.data
    assert ("//other/shop", "orders.Placed") == (first.source, first.type)
    assert datetime(2024, 2, 29, tzinfo=UTC).timestamp() * 1e6 == first.time_us
    assert [None, None] == [one.number for one in arrived]


async def test_events_that_are_no_cloudevents_come_as_they_are(server: Server, bus: str):
    """With partitions they have no slot, and come by the first."""
    async with broker_at(server.url, bus, partitions=2) as broker:
        intake = await begun(broker)
        entry = {
            "Source": "orders",
            "DetailType": "Object Created",
            "Resources": ["arn:a", "arn:b"],
            "EventBusName": bus,
        }
        detail = {"bucket": "b", "nested": {"specversion": "1.0"}}
        raw(server, "events").put_events(Entries=[{**entry, "Detail": json.dumps(detail)}])
        [got] = await fetch(intake, 1)
        await intake.close()
    assert (0, "application/json", detail) == (got.partition, got.content_type, json.loads(got.data))
    told = {name: got.headers[name] for name in ("source", "detail-type", "resources")}
    assert {"source": "orders", "detail-type": "Object Created", "resources": "arn:a,arn:b"} == told
    assert {"id", "time", "region"} <= got.headers.keys()


async def test_what_somebody_put_into_the_queue_comes_with_all_its_bytes(server: Server, bus: str):
    sqs = raw(server, "sqs")
    async with broker_at(server.url, bus) as broker:
        intake = await begun(broker)
        queue = sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        sqs.send_message(QueueUrl=queue, MessageBody="hello \u20ac")
        [got] = await fetch(intake, 1)
        await intake.close()
    assert ("", "hello \u20ac".encode()) == (got.content_type, got.data)
