"""The envelope: CloudEvents 1.0, as the official SDK understands it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st

from eventspine.attributes import TRACEPARENT
from eventspine.envelope import Envelope, make_record
from eventspine.errors import EventRefused, EventTooLarge, KeyRefused
from eventspine.events import Event, describe
from eventspine.ids import id_bytes
from eventspine.journal.port import Record
from eventspine.keys import slot_of_id, slot_of_key

ID = "0190163d-8694-739b-aea5-966c26f8ad91"
CAUSE = "0190163d-8694-739b-aea5-966c26f8ad90"
FIRST = "0190163d-8694-739b-aea5-966c26f8ad8f"


class OrderPlaced(Event, context="orders", key="customer_id", version=2):
    order_id: str
    customer_id: str
    amount: Decimal


class Ticked(Event, context="clock"):
    note: str = ""


PLACED = OrderPlaced(order_id="1", customer_id="Zürich: 5%", amount=Decimal("1.50"))


def record(event: Event = PLACED, **changes: Any) -> Record:
    return make_record(
        **{
            "event_type": describe(type(event)),
            "event": event,
            "id": id_bytes(ID),
            "source": "storefront",
            "now_us": 1_767_355_200_000_001,
            **changes,
        }
    )


def test_a_record_has_all_that_is_stored() -> None:
    made = record(time_us=5, correlation=FIRST, causation=CAUSE, hops=3, meta=b'{"tenant":"t"}')
    assert made == Record(
        position=0,
        id=id_bytes(ID),
        channel="orders",
        slot=slot_of_key("Zürich%3A 5%25"),
        key="Zürich%3A 5%25",
        type="orders.OrderPlaced",
        version=2,
        time_us=5,
        recorded_us=0,
        source="storefront",
        correlation=FIRST,
        causation=CAUSE,
        hops=3,
        meta=b'{"tenant":"t"}',
        data='{"order_id":"1","customer_id":"Zürich: 5%","amount":"1.50"}'.encode(),
    )


def test_an_event_happens_now_unless_it_says_when() -> None:
    assert record().time_us == 1_767_355_200_000_001
    assert record(time_us=0).time_us == 0


def test_without_a_key_the_slot_comes_from_the_id() -> None:
    assert (record(Ticked()).key, record(Ticked()).slot) == (None, slot_of_id(id_bytes(ID)))


def test_an_event_over_the_limit_is_refused() -> None:
    assert record(Ticked(note="x" * 999_989)).data
    with pytest.raises(
        EventTooLarge, match=r"clock\.Ticked is 1,000,001 bytes; an event has at most 1,000,000\. Store"
    ):
        record(Ticked(note="x" * 999_990))
    with pytest.raises(EventTooLarge):
        record(Ticked(note="x" * 100), data_bytes_max=100)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (OrderPlaced(order_id="1", customer_id="", amount=Decimal(1)), KeyRefused),
        (OrderPlaced(order_id="1", customer_id="x" * 256, amount=Decimal(1)), KeyRefused),
        (OrderPlaced(order_id="1", customer_id="c", amount=Decimal("NaN")), EventRefused),
        (OrderPlaced(order_id=1, customer_id="c", amount=Decimal(1)), EventRefused),  # type: ignore[arg-type]
    ],
)
def test_what_can_not_be_published_makes_no_record(event: Event, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"orders\.OrderPlaced"):
        record(event)


def test_the_envelope_reads_the_record() -> None:
    envelope = Envelope(record()._replace(position=42))
    assert envelope.id == ID
    assert (envelope.source, envelope.type, envelope.datacontenttype) == (
        "storefront",
        "orders.OrderPlaced",
        "application/json",
    )
    assert envelope.time == datetime(2026, 1, 2, 12, 0, 0, 1, tzinfo=UTC)
    assert envelope.subject == envelope.partitionkey == envelope.key == "Zürich%3A 5%25"
    assert envelope.dataschema == "urn:eventspine:orders.OrderPlaced:2"
    assert envelope.sequence == "00000000000000000042"
    assert (envelope.hops, envelope.slot) == (0, slot_of_key("Zürich%3A 5%25"))


def test_an_event_that_nothing_caused_begins_its_correlation_and_trace() -> None:
    envelope = Envelope(record())
    assert (envelope.correlationid, envelope.causationid) == (ID, None)
    assert envelope.traceparent == "00-0190163d8694739baea5966c26f8ad91-aea5966c26f8ad91-01"


def test_one_correlation_is_one_trace() -> None:
    caused = Envelope(record(correlation=FIRST, causation=CAUSE))
    assert (caused.correlationid, caused.causationid) == (FIRST, CAUSE)
    assert caused.traceparent.split("-")[1] == uuid.UUID(FIRST).hex


@pytest.mark.parametrize(
    "id", [bytes(16), b"\0" * 8 + b"\1" * 8, b"\1" * 8 + b"\0" * 8, b"\1" * 16, "kein UUID \u00e4".encode()]
)
def test_what_began_it_all_has_the_trace_that_its_consequences_have(id: bytes) -> None:
    """Also where its id is none that a trace or a span may have."""
    began = Envelope(record(id=id))
    caused = Envelope(record(correlation=began.id))
    assert began.traceparent.split("-")[1] == caused.traceparent.split("-")[1]
    assert TRACEPARENT.match(began.traceparent)


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, -1, 1_000_000, 253_402_300_800_000_000])))
def test_the_time_on_the_wire_is_the_envelopes(us: int) -> None:
    envelope = Envelope(record(time_us=us))
    assert envelope.attributes()["time"] == envelope.time.isoformat().replace("+00:00", "Z")


def test_a_traceparent_that_was_given_is_kept() -> None:
    given_one = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    envelope = Envelope(record(meta=json.dumps({"traceparent": given_one, "tenant": "t"}).encode()))
    assert envelope.traceparent == envelope.attributes()["traceparent"] == given_one
    assert envelope.extensions == {"traceparent": given_one, "tenant": "t"}


@given(st.text(min_size=1, max_size=40), st.binary(min_size=1, max_size=20))
def test_a_trace_is_valid_whatever_foreign_ids_look_like(correlation: str, made: bytes) -> None:
    correlation = correlation.encode("utf-8", "replace").decode()
    version, trace, span, flags = Envelope(record()._replace(correlation=correlation, id=made)).traceparent.split("-")
    assert (version, flags) == ("00", "01")
    assert (len(trace), len(span)) == (32, 16)
    assert int(trace, 16) * int(span, 16) > 0


@pytest.mark.parametrize("meta", [None, b"", b"{", b"[]", b'{"a":1}', b'{"a":"\xff"}'])
def test_an_envelope_can_always_be_read(meta: bytes | None) -> None:
    assert Envelope(record()._replace(meta=meta)).extensions == {}


def test_extensions_never_replace_attributes_and_have_names_that_cloudevents_allows() -> None:
    meta = json.dumps({"type": "forged", "id": "forged", "data": "x", "Bad Name": "x", "tenant": "t"}).encode()
    attributes = Envelope(record(meta=meta)).attributes()
    assert attributes["type"] == "orders.OrderPlaced"
    assert attributes["id"] == ID
    assert {"data", "Bad Name"}.isdisjoint(attributes)
    assert attributes["tenant"] == "t"


def test_attributes_that_an_event_does_not_have_are_left_out() -> None:
    assert {"subject", "partitionkey", "sequence", "causationid"}.isdisjoint(Envelope(record(Ticked())).attributes())


def test_data_that_is_not_json_travels_as_base64() -> None:
    structured = json.loads(Envelope(record()._replace(data=b"\xff{")).to_json())
    assert (structured["data_base64"], "data" in structured) == ("/3s=", False)


def test_the_official_sdk_reads_what_we_write_and_writes_what_we_read() -> None:
    sdk = pytest.importorskip("cloudevents.core.formats.json").JSONFormat()
    made = record(correlation=FIRST, causation=CAUSE, hops=1, meta=b'{"tenant":"t"}')._replace(position=7)
    envelope = Envelope(made)

    read = sdk.read(None, envelope.to_json())
    assert read.get_id() == envelope.id
    assert read.get_source() == envelope.source
    assert read.get_type() == envelope.type
    assert read.get_time() == envelope.time
    assert read.get_subject() == envelope.subject
    assert read.get_dataschema() == envelope.dataschema
    assert read.get_extension("sequence") == "00000000000000000007"
    assert read.get_extension("spineslot") == made.slot
    assert read.get_attributes() == {**envelope.attributes(), "time": envelope.time}

    written = json.loads(sdk.write(read))
    assert written == json.loads(envelope.to_json())
    data = json.dumps(written["data"]).encode()
    assert describe(OrderPlaced).decode(data) == PLACED
