"""EventBridge with SQS, on two emulators by different authors: where they differ, neither is AWS."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import uuid4

import botocore.session
import pytest
from botocore.config import Config
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from eventspine.brokers import open_broker
from eventspine.brokers._eventbridge_aws import Aws, fitting
from eventspine.brokers._eventbridge_sender import detail_of, travels
from eventspine.brokers._eventbridge_topology import CATCH_UP, COUNTS, pattern
from eventspine.brokers.binding import incoming
from eventspine.brokers.eventbridge import EventBridgeBroker, from_url
from eventspine.brokers.port import Fetched, Message, Needs
from eventspine.errors import BrokerError, MessageRefused, SettingsError
from eventspine.testing.servers import Server

from .aws_faults import FaultyWay, failing_batches, failing_entries, losing_answers, refusing_calls

WAIT_S = 30.0
NEEDS = Needs(["orders"], [("orders", "stock.orders")])


@pytest.fixture(scope="module", params=["moto", "ministack"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def way(server: Server) -> Iterator[FaultyWay]:
    with FaultyWay(server.port) as way:
        yield way


@pytest.fixture
def bus() -> str:
    return f"b{uuid4().hex[:8]}"


def url_of(endpoint: str, bus: str, **options: Any) -> str:
    given = {"endpoint": endpoint, "poll_s": 1, "timeout_s": 5, **options}
    return f"eventbridge://key:secret@us-east-1/{bus}?" + "&".join(f"{name}={value}" for name, value in given.items())


@asynccontextmanager
async def broker_at(endpoint: str, bus: str, needs: Needs = NEEDS, **options: Any) -> AsyncIterator[EventBridgeBroker]:
    broker = from_url(url_of(endpoint, bus, **options))
    await broker.open()
    try:
        await broker.apply(needs)
        yield broker
    finally:
        await broker.close()


@cache
def raw(server: Server, service: str) -> Any:
    """Another program's client."""
    return botocore.session.get_session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="other",
        aws_secret_access_key="other",
        config=Config(retries={"total_max_attempts": 1}),
    )


def message(number: int, slot: int = 0, data: bytes | None = None, **headers: str) -> Message:
    own = {
        "specversion": "1.0",
        "id": f"018c0000-0000-7000-8000-{number:012x}",
        "source": "shop",
        "type": "orders.Placed",
        "sequence": f"{number:020d}",
        "spineslot": str(slot),
        "spineorigin": "a-journal.1",
        "partitionkey": f"key {slot}",
    }
    found = {f"ce-{name}": value for name, value in {**own, **headers}.items()}
    content = json.dumps({"number": number}, separators=(",", ":")).encode() if data is None else data
    return Message("orders", slot, f"key {slot}", own["id"], found, "application/json", content)


def number_of(fetched: Fetched) -> int:
    arrived = incoming(fetched, "orders", "ce-", 1)
    assert arrived.number is not None
    return arrived.number.number


async def fetch(intake: Any, count: int) -> list[Fetched]:
    found: list[Fetched] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await intake.fetch(100, 0.2)
    return found


async def begun(broker: EventBridgeBroker, consumer: str = "stock.orders", start: Any = "now") -> Any:
    intake = await broker.intake("orders", consumer, lambda: None)
    for partition in sorted(intake.assigned()):
        await intake.begin(partition, after=None, start=start, epoch=1)
    return intake


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)


def all_of(queue_url: str, sqs: Any) -> list[str]:
    """What is in a queue; it is taken out."""
    found: list[str] = []
    while messages := sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages"):
        for one in messages:
            found.append(one["Body"])
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=one["ReceiptHandle"])
    return found


# --- URL ----------------------------------------------------------------------------------------------------------


def test_an_address_has_a_region_a_bus_and_options():
    broker = open_broker(
        "eventbridge://eu-central-1/shop?partitions=5&archive=yes&archive_days=30&visibility_s=9&poll_s=3"
        "&timeout_s=4&entry_bytes_max=500000&profile=ops&prefix=t.&archive_delay_s=5"
    )
    assert isinstance(broker, EventBridgeBroker)
    found = broker.settings
    assert ("eu-central-1", "shop", "ops", "t.") == (found.region, found.bus, found.profile, found.prefix)
    assert (5, True, 30, 5.0) == (found.partitions, found.archive, found.archive_days, found.archive_delay_s)
    assert (9, 3, 4.0, 500_000) == (found.visibility_s, found.poll_s, found.timeout_s, found.entry_bytes_max)
    assert 370_000 < broker.features.message_bytes_max < 375_000


def test_without_a_bus_it_is_the_default_one_and_without_an_archive_all_begin_with_now():
    broker = from_url("eventbridge://eu-central-1")
    assert "default" == broker.settings.bus
    assert {"now"} == broker.features.starts
    assert {"now", "earliest", "time"} == from_url("eventbridge://eu-central-1/a?archive=yes").features.starts


def test_keys_of_an_address_are_never_shown():
    broker = from_url("eventbridge://AKIDEXAMPLE:s3cr3t%2Fkey@eu-central-1/shop?session_token=t0ken")
    login = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "s3cr3t/key", "aws_session_token": "t0ken"}
    assert login == broker.settings.login
    shown = (
        broker.url + repr(broker.settings) + str(Aws(broker.settings).error("failed", ValueError("s3cr3t/key t0ken")))
    )
    assert "s3cr3t" not in shown
    assert "t0ken" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "eventbridge://",
        "eventbridge://nowhere",
        "eventbridge://eu-central-1,eu-west-1/shop",
        "eventbridge://eu-central-1/shop?partitions=3",
        "eventbridge://eu-central-1/shop?visibility_s=300",
        "eventbridge://eu-central-1/shop?poll_s=21",
        "eventbridge://eu-central-1/shop?entry_bytes_max=2000000",
        "eventbridge://eu-central-1/shop?endpoint=http://user:pw@host",
        "eventbridge://eu-central-1/shop?prefix=a%2Fb",
        "eventbridge://eu-central-1/shop?partitoins=5",
        "eventbridge://eu-central-1/a%20bus",
    ],
)
def test_an_address_that_can_not_be_meant_is_refused(url: str):
    with pytest.raises(SettingsError):
        from_url(url)


async def test_credentials_of_a_profile_are_used(
    server: Server, way: FaultyWay, bus: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    """The session's own ways, which the address only names."""
    credentials = tmp_path / "credentials"
    credentials.write_text("[ops]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    heard: list[str] = []
    handle = way.handle
    monkeypatch.setattr(
        way, "handle", lambda path, headers, body: heard.append(str(headers)) or handle(path, headers, body)
    )
    broker = from_url(f"eventbridge://us-east-1/{bus}?endpoint={way.url}&profile=ops")
    await broker.open()
    await broker.close()
    assert any("Credential=FROMPROFILE/" in one for one in heard)


async def test_a_profile_that_is_not_there_is_told(bus: str):
    with pytest.raises(BrokerError, match="nobody"):
        await from_url(f"eventbridge://us-east-1/{bus}?profile=nobody").open()


async def test_a_server_that_is_not_there_is_told(bus: str):
    broker = from_url(f"eventbridge://k:s@us-east-1/{bus}?endpoint=http://127.0.0.1:9&timeout_s=1")
    with pytest.raises(BrokerError, match="can't be reached"):
        await broker.open()
    with pytest.raises(BrokerError, match="not connected"):
        await broker.claim("publisher", "orders", "me", force=False)


# --- names and patterns -------------------------------------------------------------------------------------------


def test_names_are_different_for_different_things_and_fit():
    texts = ["a/b.c", "a/b_c", "a-b/c", "a/b-c", "a.b/c", "a/" + "b" * 90, "a/" + "b" * 91, "a/ü", "a/u"]
    names = [fitting(text, 60) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= 60 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for name in names)


@pytest.mark.parametrize("count", COUNTS)
def test_every_slot_is_in_the_pattern_of_its_partition_and_in_no_other(count: int):
    digits = [pattern("orders", partition, count).get("detail", {}).get("spineslot") for partition in range(count)]
    for slot in range(960):
        fitting_ones = [
            partition
            for partition, wanted in enumerate(digits)
            if wanted is None or any(str(slot).endswith(one["suffix"]) for one in wanted if "suffix" in one)
        ]
        assert [slot % count] == fitting_ones
    without_slot = [p for p, wanted in enumerate(digits) if wanted is None or {"exists": False} in wanted]
    assert [0] == without_slot


async def test_a_consumer_has_as_many_partitions_as_its_address_says(server: Server, bus: str):
    async with broker_at(server.url, bus, partitions=5) as broker:
        intake = await begun(broker)
        assert [None] * 20 == list(await broker.send([message(slot + 1, slot) for slot in range(20)]))
        found = await fetch(intake, 20)
        assert {slot + 1: slot % 5 for slot in range(20)} == {number_of(one): one.partition for one in found}
        await intake.settle(found)
        await intake.close()


# --- content ------------------------------------------------------------------------------------------------------


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


# --- sending when some of it fails --------------------------------------------------------------------------------


async def test_entries_that_fail_are_sent_again_and_nothing_of_their_slot_before_them(
    server: Server, way: FaultyWay, bus: str
):
    """25 of one slot in three calls: the third of the first call is throttled twice."""
    left = [2]

    def throttled(entry: dict[str, Any]) -> str:
        if '"sequence":"00000000000000000003"' in entry["Detail"] and left[0]:
            left[0] -= 1
            return "ThrottlingException"
        return ""

    way.faults = [failing_entries(throttled)]
    async with broker_at(way.url, bus) as broker:
        assert [None] * 25 == list(await broker.send([message(n) for n in range(1, 26)]))
        calls = [
            [int(json.loads(one["Detail"])["sequence"]) for one in body["Entries"]] for body in way.of("PutEvents")
        ]
        assert [list(range(1, 11)), [3, *range(11, 20)], [3, *range(20, 26)]] == calls
        intake = await begun(broker)
        assert list(range(1, 26)) == sorted([number_of(one) for one in await fetch(intake, 25)])
        await intake.close()


async def test_what_fails_until_time_is_over_has_no_answer_and_lets_nothing_of_its_slot_pass(
    server: Server, way: FaultyWay, bus: str
):
    way.faults = [failing_entries(lambda entry: "InternalFailure" if '"number":1}' in entry["Detail"] else "")]
    async with broker_at(way.url, bus, timeout_s=0.5) as broker:
        messages = [message(n, slot=n % 2) for n in range(200)]  # 1 is in slot 1; two lanes at least
        answers = dict(zip(range(200), await broker.send(messages), strict=True))
    assert all(answers[n] is None for n in range(0, 200, 2))
    unanswered = [n for n in answers if isinstance(answers[n], BrokerError)]
    assert 1 == unanswered[0]
    tried = {json.loads(one["Detail"])["data"]["number"] for body in way.of("PutEvents") for one in body["Entries"]}
    never = [n for n in range(200) if n not in tried]
    assert never, "some were not even sent"
    assert all(n % 2 == 1 and n in unanswered for n in never)
    assert not any(isinstance(answer, MessageRefused) for answer in answers.values())


@pytest.mark.parametrize("code", ["MalformedDetail", "NotAuthorizedForDetailTypeException", "InvalidArgument"])
async def test_an_entry_that_will_never_be_taken_is_refused_and_the_others_are_sent(
    server: Server, way: FaultyWay, bus: str, code: str
):
    way.faults = [failing_entries(lambda entry: code if '"number":2}' in entry["Detail"] else "")]
    async with broker_at(way.url, bus) as broker:
        answers = await broker.send([message(n) for n in range(1, 4)])
    assert [None, None] == [answers[0], answers[2]]
    assert isinstance(answers[1], MessageRefused)
    assert code in str(answers[1])


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException", "InvalidAccountIdException"])
async def test_what_may_be_mended_is_not_the_fault_of_an_event(server: Server, way: FaultyWay, bus: str, code: str):
    way.faults = [failing_entries(lambda _: code)]
    async with broker_at(way.url, bus, timeout_s=0.3) as broker:
        [answer] = await broker.send([message(1)])
    assert isinstance(answer, BrokerError)
    assert not isinstance(answer, MessageRefused)


async def test_a_call_that_is_refused_for_one_entry_costs_the_others_nothing(server: Server, way: FaultyWay, bus: str):
    refused = refusing_calls(
        "PutEvents", "ValidationException", lambda all: any('"number":3}' in e["Detail"] for e in all)
    )
    way.faults = [refused]
    async with broker_at(way.url, bus) as broker:
        answers = await broker.send([message(n) for n in range(1, 13)])
        assert [3] == [n for n, answer in enumerate(answers, 1) if isinstance(answer, MessageRefused)]
        assert 11 == answers.count(None)
        intake = await begun(broker)
        assert [n for n in range(1, 13) if n != 3] == sorted(number_of(one) for one in await fetch(intake, 11))
        await intake.close()


async def test_an_answer_that_is_lost_is_no_refusal(server: Server, way: FaultyWay, bus: str):
    """It has them; the relay, which can't know, sends them again under the same numbers."""
    async with broker_at(way.url, bus, timeout_s=1) as broker:
        way.faults = [losing_answers("PutEvents")]
        [answer] = await broker.send([message(1)])
        way.faults = []
        assert isinstance(answer, BrokerError)
        assert not isinstance(answer, MessageRefused)
        assert [None] == list(await broker.send([message(1)]))
        intake = await begun(broker)
        assert {1} == {number_of(one) for one in await fetch(intake, 2)}
        await intake.close()


# --- reading ------------------------------------------------------------------------------------------------------


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
        with pytest.raises(BrokerError, match="did not delete 1 messages"):
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


# --- topology -----------------------------------------------------------------------------------------------------


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
            "drops what nobody fetched for 0.0416667 days",
            "has a redrive policy",
            "is not encrypted",
            "takes messages of 4,096 bytes",
            "does not let EventBridge send",
            "danger rule stock_orders.p0 is disabled",
            "danger rule stock_orders.p1 does not send to",
        ):
            assert words in said, words


# --- the past -----------------------------------------------------------------------------------------------------


PAST = {"archive": "yes", "archive_delay_s": 0}


async def test_a_new_consumer_gets_the_past_from_the_archive_and_then_what_is_new(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(n) for n in range(1, 31)])
        await broker.apply(NEEDS)
        await broker.send([message(n) for n in range(31, 41)])
        intake = await begun(broker, start="earliest")
        numbers: list[int] = []
        async with asyncio.timeout(WAIT_S):
            while not set(range(1, 41)) <= set(numbers):
                found = await intake.fetch(100, 0.2)
                numbers += [number_of(one) for one in found]
                await intake.settle(found)
        firsts = list(dict.fromkeys(numbers))
        assert set(range(1, 31)) <= set(firsts[:40])
        sqs = raw(server, "sqs")
        queue = sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]
        await until(lambda: sqs.list_queue_tags(QueueUrl=queue)["Tags"][CATCH_UP] == "done")
        await intake.close()
        replays = len(raw(server, "events").list_replays()["Replays"])
        again = await begun(broker, start="earliest")
        await broker.send([message(41)])
        async with asyncio.timeout(WAIT_S):
            while 41 not in {number_of(one) for one in await again.fetch(100, 0.2)}:
                pass
        assert replays == len(raw(server, "events").list_replays()["Replays"])
        await again.close()


async def test_no_new_event_is_read_before_all_of_the_past(server: Server, bus: str):
    """Else its number would be taken for where its slot begins, and what came before for known."""
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(n) for n in range(1, 6)])
        await broker.apply(NEEDS)
        await broker.send([message(n) for n in range(6, 9)])
        intake = await begun(broker, start="earliest")
        past = await fetch(intake, 5)
        assert {1, 2, 3, 4, 5} <= {number_of(one) for one in past}
        assert [] == list(await intake.fetch(10, 1.5)), "what is in hand is not settled: the past is not over"
        await intake.settle(past)
        rest = await fetch(intake, 3)
        assert {6, 7, 8} <= {number_of(one) for one in [*past, *rest]}
        await intake.close()


async def test_another_process_goes_on_with_a_past_that_was_begun(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(n) for n in range(1, 6)])
        await broker.apply(NEEDS)
        first = await begun(broker, start="earliest")
        some = await fetch(first, 2)
        await first.close()
        second = await begun(broker, start="earliest")
        found = await fetch(second, 5)
        assert {1, 2, 3, 4, 5} == {number_of(one) for one in found}
        assert some
        await second.close()


async def test_a_handler_that_starts_now_has_no_past(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), **PAST) as broker:
        await broker.send([message(1)])
        await broker.apply(NEEDS)
        intake = await begun(broker, start="now")
        await broker.send([message(2)])
        assert [2] == [number_of(one) for one in await fetch(intake, 1)]
        await intake.close()


async def test_the_past_waits_until_the_archive_has_what_was_sent_before(server: Server, bus: str):
    async with broker_at(server.url, bus, Needs(["orders"]), archive="yes", archive_delay_s=3) as broker:
        await broker.send([message(1)])
        await broker.apply(NEEDS)
        started = time.time()
        intake = await begun(broker, start="earliest")
        assert 1 == number_of((await fetch(intake, 1))[0])
        assert time.time() - started > 1.5
        await intake.close()


async def test_what_was_lost_on_the_way_can_be_replayed_from_the_archive(server: Server, bus: str):
    async with broker_at(server.url, bus, **PAST) as broker:
        await broker.send([message(n) for n in range(1, 4)])
        intake = await begun(broker)
        await intake.settle(await fetch(intake, 3))
        now = datetime.now(UTC)
        name = await broker.replay("orders", "stock.orders", now - timedelta(hours=1), now + timedelta(minutes=1))
        assert name
        assert {1, 2, 3} == {number_of(one) for one in await fetch(intake, 3)}
        await intake.close()
        with pytest.raises(BrokerError, match="archive=yes"):
            await broker.replay("mail", "stock.orders", now, now)
