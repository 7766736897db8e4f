"""Messages of others, as a broker hands them over: any names, any values. Each is an event within bounds, or a dead delivery
with all that it has; none stops those beside it."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from eventspine import Delivery, Event, Service, Spine
from eventspine.attributes import META_BYTES_MAX, NAME
from eventspine.brokers.binding import NotAnEvent, incoming, text_of
from eventspine.brokers.memory import server
from eventspine.brokers.port import Fetched, Message
from eventspine.engine import intake
from eventspine.envelope import Envelope
from eventspine.foreign import fetched_again, kept_beside
from eventspine.journal import asking, open_journal
from eventspine.journal.port import SLOTS, Append, Unit
from eventspine.keys import KEY_BYTES_MAX

from .corpus import promptly

NOW_US = 1_700_000_000_000_000
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NAMES = [
    "specversion", "id", "source", "type", "time", "subject", "partitionkey", "datacontenttype", "dataschema", "sequence",
    "correlationid", "causationid", "spinehops", "spineslot", "spineorigin", "traceparent", "tracestate", "data", "data_base64",
    "foreignid", "tenant", "", "ID", "Type", "__class__", "../../etc/passwd", "x" * 300, "a b", "a\r\nb", "ключ", "\ud800",
]  # fmt: skip
EVIL = {
    "a line break and a header": "x\r\nX-Evil: y",
    "percent-encoded": "%0d%0aX-Evil:%20y%00",
    "half a surrogate pair": "\ud800",
    "what was no UTF-8": b"\xff\xfe\x00".decode("utf-8", "surrogateescape"),
    "NUL": "\0",
    "nothing": "",
    "blanks": "   ",
    "a terminal's escape": "\x1b[2J\u202e",
    "a path": "../../../etc/passwd",
    "SQL": "'; drop table spine_events; --",
    "a megabyte": "x" * 1_000_000,
    "a very long number": "9" * 5000,
    "a negative number": "-1",
    "a number that no counter has": str(2**64),
    "digits of elsewhere": "٣",
    "underscores": "1_000",
    "an exponent": "1e9",
    "infinite": "inf",
    "a time before time": "0001-01-01T00:00:00+23:59",
    "a time after time": "9999-12-31T23:59:59-23:59",
    "a time without a zone": "2024-01-01T00:00:00",
    "no time": "yesterday",
    "a trace of zeros": "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
    "an id in capitals": "01A20A97-B1DD-7A1F-8F6D-B3C75EBD7608",
    "an id with braces": "{01a20a97-b1dd-7a1f-8f6d-b3c75ebd7608}",
    "a tombstone": "eventspine.Tombstone",
    "JSON": '{"a": [1, 2, 3]}',
    "pickle": "cos\nsystem\n(S'id'\ntR.",
}
WHOLE = {
    "ce_specversion": "1.0",
    "ce_id": "01a20a97-b1dd-7a1f-8f6d-b3c75ebd7608",
    "ce_source": "/shop",
    "ce_type": "hostile.Sent",
    "ce_partitionkey": "ann",
    "ce_time": "2024-01-01T00:00:00Z",
    "ce_spineorigin": "abc.1",
    "ce_spineslot": "7",
    "ce_sequence": "00000000000000000001",
    "ce_spinehops": "1",
    "ce_correlationid": "c",
    "ce_causationid": "d",
    "ce_tenant": "t",
}
values = st.one_of(st.sampled_from(sorted(EVIL.values())), st.text(st.characters(), max_size=40))
headers = st.dictionaries(
    st.one_of(st.sampled_from([f"ce_{name}" for name in NAMES]), st.text(st.characters(), max_size=12)),
    values,
    max_size=12,
)


def reader(heard: list[int]) -> Service[Any]:
    service: Service[Any] = Service("reader", publishes=[])

    @service.on(Sent)
    async def take(event: Sent) -> None:
        heard.append(event.number)

    return service


def message(headers: dict[str, str], **changes: Any) -> Fetched:
    made = Fetched(0, 1, b"ann", headers, "application/json", b'{"number":1}', 0)
    return made._replace(**changes)


def checked(fetched: Fetched) -> Any:
    """What it is read as; None, if it is no event."""
    with promptly():
        try:
            arrived = incoming(fetched, "hostile", "ce_", NOW_US)
        except NotAnEvent as error:
            assert len(str(error)) < 600
            assert not CONTROL.search(str(error))
            return None
    record, number = arrived.record, arrived.number
    assert len(record.id) == 16
    assert 0 <= record.slot < SLOTS
    for text, most in ((record.type, 255), (record.source, 1024), (record.key or "k", KEY_BYTES_MAX)):
        assert 0 < len(text.encode()) <= most * 4
        assert not CONTROL.search(text)
    assert len((record.key or "").encode()) <= KEY_BYTES_MAX
    assert 0 <= record.hops <= 1_000_000
    for text in (record.correlation or "", record.causation or ""):
        assert len(text) <= 1024
        assert not CONTROL.search(text)
    meta = msgspec.json.decode(record.meta or b"{}", type=dict[str, str])
    assert len(record.meta or b"") <= META_BYTES_MAX
    assert all(NAME.match(name) and not CONTROL.search(value) for name, value in meta.items())
    assert datetime(1, 1, 1, tzinfo=UTC) <= Envelope(record).time
    if number is not None:
        assert 0 <= number.slot < SLOTS
        assert 0 < number.number < 2**62
        assert 0 < len(number.origin) <= 100
    return arrived


@given(headers)
@settings(max_examples=400)
def test_any_headers_are_an_event_within_bounds_or_none(given_headers: dict[str, str]) -> None:
    checked(message(given_headers))


@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), values, max_size=4))
@settings(max_examples=400)
@example({"ce_time": "0001-01-01T00:00:00+23:59"})
@example({"ce_sequence": "9" * 5000})
def test_an_event_of_which_some_attributes_are_hostile_is_one_within_bounds_or_none(changes: dict[str, str]) -> None:
    checked(message(WHOLE | changes))


def test_nothing_of_what_has_been_read_is_kept() -> None:
    """What reading remembers, to be quick, is small, whatever comes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(100):
        long = f"{number}{'x' * 50_000}"
        checked(message(WHOLE | {"ce_dataschema": long, f"ce_{long}": "", f"x-{long}": ""}))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1_000_000


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_type", "ce_partitionkey"])
def test_what_identifies_or_orders_an_event_is_taken_as_it_is_or_not_at_all(name: str, evil: str) -> None:
    """Never mended: two keys that became one would change the order, two ids that became one would lose an event."""
    arrived = checked(message(WHOLE | {name: EVIL[evil]}))
    if arrived is None:
        return
    record, value = arrived.record, EVIL[evil]
    if name == "ce_id":
        assert value in (Envelope(record).attributes().get("foreignid"), Envelope(record).id)
    elif name == "ce_partitionkey":
        assert record.key == (value or "ann"), "an empty one is none, and then the message's own counts"
    else:
        assert getattr(record, name.removeprefix("ce_")) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"ce_spineslot": "960"}, {"ce_spineslot": "-1"}, {"ce_spineslot": "٣"}, {"ce_spineslot": ""}, {"ce_spineslot": "1_0"},
        {"ce_sequence": "0"}, {"ce_sequence": "-1"}, {"ce_sequence": str(2**62)}, {"ce_sequence": "9" * 5000},
        {"ce_sequence": "1.0"}, {"ce_spineorigin": ""}, {"ce_spineorigin": "x" * 101}, {"ce_spineorigin": "a\r\nb"},
    ],
)  # fmt: skip
def test_a_number_that_is_not_wholly_one_is_none(changes: dict[str, str]) -> None:
    """Nobody then waits for the number before it, or takes an event for known that is not."""
    arrived = checked(message(WHOLE | changes))
    assert arrived.number is None
    assert not arrived.tombstone


def test_only_what_is_numbered_can_be_a_tombstone() -> None:
    assert not checked(message({**WHOLE, "ce_type": "eventspine.Tombstone", "ce_spineorigin": ""})).tombstone


def test_an_attribute_that_is_there_twice_and_differs_is_no_event() -> None:
    assert checked(message({**WHOLE, "ce_ID": WHOLE["ce_id"]})) is not None
    assert checked(message({**WHOLE, "ce_ID": "another"})) is None


def test_attributes_and_a_media_type_may_be_written_in_capitals() -> None:
    """As what went through HTTP writes them."""
    assert checked(message({name.title(): value for name, value in WHOLE.items()})) is not None
    data = b'{"specversion":"1.0","id":"a","source":"s","type":"t"}'
    assert checked(message({}, content_type="Application/CloudEvents+JSON; charset=UTF-8", data=data)) is not None


@pytest.mark.parametrize("name", ["ce_id", "CE_ID", "ce_source", "ce_type", "ce_partitionkey"])
def test_bytes_that_are_no_text_never_become_one_id_or_key(name: str) -> None:
    whole = {key: value for key, value in WHOLE.items() if key != name.lower()}
    assert text_of(b"\xff", name, "ce_") != text_of(b"\xfe", name, "ce_")
    assert checked(message(whole | {name: text_of(b"\xff", name, "ce_")})) is None
    assert "\ufffd" == text_of(b"\xff", "other", "ce_")


@pytest.mark.parametrize("time_us", [-1, 2**62, -(2**62), 2**80, 10**30])
def test_a_broker_s_time_that_there_is_not_is_now(time_us: int) -> None:
    without = {name: value for name, value in WHOLE.items() if name != "ce_time"}
    assert checked(message(without, time_us=time_us)).record.time_us == NOW_US


STRUCTURED = {
    "no JSON": b"\xff",
    "no object": b"[1]",
    "nested without end": b'{"specversion":"1.0","id":' + b"[" * 100_000,
    "data nested without end": b'{"specversion":"1.0","id":"a","source":"s","type":"t","data":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "half a surrogate pair": b'{"specversion":"1.0","id":"\\ud800","source":"s","type":"t"}',
    "a list as its id": b'{"specversion":"1.0","id":[1],"source":"s","type":"t"}',
    "a number of 100,000 digits": b'{"specversion":"1.0","id":' + b"9" * 100_000 + b',"source":"s","type":"t"}',
    "no base64": b'{"specversion":"1.0","id":"a","source":"s","type":"t","data_base64":"***"}',
    "ten megabytes of text": b'{"specversion":"1.0","id":"a","source":"s","type":"t","x":"' + b"y" * 10_000_000 + b'"}',
    "the same name twice": b'{"specversion":"1.0","id":"a","id":"b","source":"s","type":"t"}',
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_a_structured_event_is_one_within_bounds_or_none(name: str) -> None:
    checked(message({}, content_type="application/cloudevents+json", data=STRUCTURED[name]))


@given(st.binary(max_size=200))
def test_any_bytes_that_call_themselves_structured_are_read_or_none(data: bytes) -> None:
    checked(message({}, content_type="application/cloudevents+json", data=data))


@given(headers, st.one_of(st.none(), st.binary(max_size=50)), st.text(st.characters(), max_size=30))
def test_what_is_kept_of_a_dead_message_can_be_stored_and_is_the_same_but_for_halves_of_characters(
    given_headers: dict[str, str], key: bytes | None, content_type: str
) -> None:
    fetched = message(given_headers, key=key, content_type=content_type)
    record = incoming(message(WHOLE), "hostile", "ce_", NOW_US).record._replace(meta=kept_beside(fetched))
    again = fetched_again(record, 0)
    assert again.key == key
    if not any(CONTROL.search(text) for pair in given_headers.items() for text in pair):
        assert again.headers == given_headers


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_whatever_is_read_as_an_event_can_be_stored(url: str, tmp_path: Path) -> None:
    journal = open_journal(url if url == "memory://" else f"sqlite:///{tmp_path}/journal.db")
    await journal.open()
    for name in WHOLE:
        for number, evil in enumerate(EVIL.values()):
            whole = WHOLE | {"ce_id": f"{name} {number}"} | {name: evil}
            arrived = checked(message(whole))
            if arrived is not None:
                (verdict,) = await journal.commit([Unit(appends=[Append([arrived.record])])])
                assert verdict.ok, (name, evil[:40], verdict.error)
    await journal.close()


class Sent(Event, context="hostile", key="who", type="hostile.Sent"):
    who: str
    number: int = 0


@pytest.mark.promise("unreadable", "memory broker")
@pytest.mark.parametrize("kind", ["?kind=log", "?kind=queue"])
async def test_the_whole_corpus_through_a_broker_stops_nobody(kind: str, tmp_path: Path) -> None:
    """Between two good events of every partition there is everything; both are handled, and what is dead can be looked at."""
    heard: list[int] = []
    service = Service("reader", publishes=[])

    @service.on(Sent)
    async def take(event: Sent, delivery: Delivery) -> None:
        if event.number > 10:
            heard.append(event.number)

    broker = server(uuid4().hex)
    for partition in range(4):
        good = [
            Message(
                "hostile", partition, f"k{partition}", str(n), WHOLE | {"ce_id": f"good {partition} {n}", "ce_partitionkey": f"k{partition}",
                "ce_spineorigin": "", "ce_type": "hostile.Sent"}, "application/json", b'{"who":"a","number":%d}' % n,
            )
            for n in (100 + partition, 200 + partition)
        ]  # fmt: skip
        bad = [
            Message(
                "hostile",
                partition,
                None,
                "x",
                WHOLE | {"ce_spineslot": str(partition), name: evil},
                "application/json",
                b"{}",
            )
            for name in (*WHOLE, "ce_\ud800", "ce_a\r\nb")
            for evil in EVIL.values()
            if len(evil) < 100_000
        ]
        odd = [
            Message("hostile", partition, None, "x", {}, "application/cloudevents+json", data)
            for data in STRUCTURED.values()
            if len(data) < 900_000
        ]
        for one in (good[0], *bad, *odd, good[1]):
            broker.store(one)
    journal = open_journal(f"sqlite:///{tmp_path}/journal.db")
    async with Spine(journal, broker=f"memory://{broker.name}{kind}") as spine, spine.running(service):
        async with asyncio.timeout(60):
            while len(heard) < 8:
                await asyncio.sleep(0.02)
        rows = await journal.deliveries(states=["dead"])
        assert {row.reason for row in rows} >= {"not-an-event"}
    assert sorted(heard) == [100, 101, 102, 103, 200, 201, 202, 203]


@pytest.mark.parametrize("kind", ["?kind=log", "?kind=queue"])
async def test_a_message_larger_than_a_unit_holds_up_nobody_beside_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came in one fetch with many others; RabbitMQ takes 134 MB. To be refused, they would be fetched again without end."""
    monkeypatch.setattr(asking, "UNIT_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(asking, "PLENTY_BYTES", 31_250)
    heard: list[int] = []
    service = reader(heard)
    broker = server(uuid4().hex)
    for number in range(80):
        whole = WHOLE | {"ce_id": f"{number}", "ce_partitionkey": f"k{number}", "ce_spineorigin": ""}
        padding = b" " * 1_100_000 if number == 40 else b""
        data = padding + b'{"who":"a","number":%d}' % number
        broker.store(Message("hostile", 0, f"k{number}", f"{number}", whole, "application/json", data))
    journal = open_journal(f"sqlite:///{tmp_path}/journal.db")
    async with Spine(journal, broker=f"memory://{broker.name}{kind}") as spine, spine.running(service):
        async with asyncio.timeout(20):
            while len(heard) < 79:
                await asyncio.sleep(0.02)
        assert 80 == await journal.head()
    assert sorted(heard) == [number for number in range(80) if number != 40]


@pytest.mark.parametrize("kind", ["?kind=log", "?kind=queue", "?kind=queue&order=none"])
async def test_messages_that_each_name_another_origin_leave_nothing_in_memory_and_are_known_when_they_come_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "AT_ONCE", 20)
    monkeypatch.setattr(intake, "ORIGINS_MAX", 10)
    heard: list[int] = []
    service = reader(heard)
    broker = server(uuid4().hex)
    for number in [*range(100), *range(100)]:
        whole = WHOLE | {"ce_id": str(uuid4()), "ce_spineorigin": f"origin.{number}"}
        broker.store(Message("hostile", 0, "ann", "x", whole, "application/json", b'{"who":"a","number":%d}' % number))
    async with Spine("memory://", broker=f"memory://{broker.name}{kind}") as spine, spine.running(service):
        async with asyncio.timeout(20):
            while spine.health()["broker"]["intakes"][0]["known"] < 100 or len(heard) < 100:
                await asyncio.sleep(0.02)
        assert spine._carrying is not None
        (reading,) = spine._carrying.intakes.values()
        assert len(reading._origins) <= 30
        assert len(reading._arrivals._marks) <= 30
    assert sorted(heard) == [*range(100)]


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
@pytest.mark.parametrize("kind", ["?kind=log", "?kind=queue"])
async def test_of_many_messages_at_once_that_are_no_events_each_is_kept(kind: str, url: str, tmp_path: Path) -> None:
    """A queue has nothing to tell them apart by, and does not have them any more."""
    broker = server(uuid4().hex)
    for number in range(500):
        broker.store(Message("hostile", 0, None, "x", {}, "text/plain", b"%d" % number))
    broker.store(Message("hostile", 0, "ann", "x", WHOLE, "application/json", b'{"who":"ann","number":1}'))
    heard = asyncio.Event()
    service = Service("reader", publishes=[])

    @service.on(Sent)
    async def take(event: Sent) -> None:
        heard.set()

    journal = open_journal(url if url == "memory://" else f"sqlite:///{tmp_path}/journal.db")
    async with Spine(journal, broker=f"memory://{broker.name}{kind}") as spine, spine.running(service):
        async with asyncio.timeout(20):
            await heard.wait()
        rows = await journal.deliveries(states=["dead"])
    assert {b"%d" % number for number in range(500)} == {row.record.data for row in rows if row.record is not None}


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
@pytest.mark.parametrize("kind", ["?kind=log", "?kind=queue"])
@pytest.mark.parametrize("slots", [[0] * 5, [0, 1, 2, 3, 0]], ids=["one partition", "several"])
async def test_two_sources_that_give_the_same_uuid_have_an_event_each(
    kind: str, url: str, slots: list[int], tmp_path: Path
) -> None:
    """An id is unique within its source alone, and each comes twice."""
    broker, heard = server(uuid4().hex), list[tuple[str, str]]()
    for number, source in enumerate(["/a", "/b", "/a", "/b", "/c"]):
        whole = WHOLE | {"ce_source": source, "ce_spineorigin": "", "ce_correlationid": ""}
        broker.store(
            Message(
                "hostile", slots[number], "ann", "x", whole, "application/json", b'{"who":"a","number":%d}' % number
            )
        )
    service = Service("reader", publishes=[])

    @service.on(Sent)
    async def take(event: Sent, delivery: Delivery) -> None:
        envelope = delivery.envelope
        heard.append((envelope.source, envelope.extensions.get("foreignid", envelope.id)))

    journal = open_journal(url if url == "memory://" else f"sqlite:///{tmp_path}/journal.db")
    async with Spine(journal, broker=f"memory://{broker.name}{kind}") as spine, spine.running(service):
        async with asyncio.timeout(20):
            while len(heard) < 3:
                await asyncio.sleep(0.02)
        assert 3 == len((await journal.feed(0, limit=10)).records)
    assert sorted(heard) == [(source, WHOLE["ce_id"]) for source in ("/a", "/b", "/c")]
