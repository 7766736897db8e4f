"""Whatever is published either comes out the same for its subscribers, or is refused in the publisher's face: typed,
promptly, and with nothing stored."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given

from eventspine import Service, Spine
from eventspine.envelope import Envelope
from eventspine.errors import AttributeRefused, CorrelationRefused, EventRefused, EventTooLarge, KeyRefused, SpineError
from eventspine.events import codec, describe
from eventspine.observe.correlation import correlate
from eventspine.service import Middleware
from eventspine.testing import VirtualClock

from .corpus import CARRIED, EVIL_TEXT, KINDS, REFUSED, Model, Plain, anything, promptly

teller = Service("teller", publishes="hostile")


async def publish_and_read(event: Any, **options: Any) -> Any:
    async with Spine("memory://", service=teller, **options) as spine:
        try:
            receipt = await spine.publish(event)
        except SpineError:
            assert await spine.journal.head() == 0  # refused is: nothing stored
            raise
        (record,) = (await spine.journal.feed(receipt.position - 1, limit=1)).records
        return describe(type(event)).decode(record.data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_not_be_carried_is_refused_promptly(kind: Any, name: str) -> None:
    with promptly(), pytest.raises(EventRefused) as refused:
        await publish_and_read(kind(value=REFUSED[name]))
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CARRIED)
async def test_what_is_carried_comes_out_the_same(kind: Any, name: str) -> None:
    with promptly():
        assert CARRIED[name] == (await publish_and_read(kind(value=CARRIED[name]))).value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("money", ["1E+999999", "1E-999999", "-0", "0." + "1" * 5_000])
async def test_a_decimal_comes_out_figure_for_figure(kind: Any, money: str) -> None:
    assert str(Decimal(money)) == str((await publish_and_read(kind(money=Decimal(money)))).money)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "at",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(-timedelta(hours=14))),
    ],
)
async def test_the_ends_of_the_calendar_come_out_the_same(kind: Any, at: datetime) -> None:
    assert at == (await publish_and_read(kind(at=at))).at


@given(anything)
def test_anything_is_refused_or_readable_by_every_kind(value: Any) -> None:
    for kind in KINDS:
        known = describe(kind)
        try:
            data = known.encode(kind(value=value))
            known.prove(data)
        except EventRefused:
            continue
        assert known.encode(known.decode(data)) == data


async def test_a_model_that_was_changed_behind_pydantics_back_is_refused() -> None:
    changed = Model()
    changed.number = "five"  # type: ignore[assignment]
    with pytest.raises(EventRefused, match="number"), pytest.warns(UserWarning, match="serializ"):
        await publish_and_read(changed)
    with pytest.raises(EventRefused, match="number"), pytest.warns(UserWarning, match="serializ"):
        await publish_and_read(Model.model_construct(key="k", number=[]))


async def test_without_the_proof_such_a_model_would_be_dead_at_every_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe(Model), "prove", lambda data: None)
    with pytest.raises(SpineError, match="number") as found:
        await publish_and_read(Model(number=10**4400))
    assert not isinstance(found.value, EventRefused)


async def test_refusing_what_is_too_large_takes_no_memory_to_speak_of() -> None:
    """Beyond the value itself and its JSON."""
    event = Plain(value=[0] * 2_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(EventTooLarge):
            await publish_and_read(event)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


# --- limits ---------------------------------------------------------------------------------------------------------


def of_size(size: int) -> Plain:
    empty = len(describe(Plain).encode(Plain(value="")))
    return Plain(value="x" * (size - empty))


@pytest.mark.parametrize("kind", ["data", "nesting", "key", "attributes", "correlation"])
async def test_each_limit_lets_through_what_is_at_it_and_refuses_one_more(kind: str) -> None:
    assert await passes(kind, -1)
    assert await passes(kind, 0)
    assert not await passes(kind, 1)


LIMITS = {
    "data": EventTooLarge,
    "nesting": EventRefused,
    "key": KeyRefused,
    "attributes": AttributeRefused,
    "correlation": CorrelationRefused,
}


async def passes(kind: str, more: int) -> bool:
    attempts: dict[str, Callable[[], Any]] = {
        "data": lambda: publish_and_read(of_size(1_000_000 + more)),
        "nesting": lambda: publish_and_read(Plain(value=_lists(63 + more))),
        "key": lambda: publish_and_read(Plain(key="k" * (255 + more))),
        "attributes": lambda: publish_and_read(Plain(), middleware=[Adding({"a": "x" * (16_384 - 8 + more)})]),
        "correlation": lambda: correlated("c" * (255 + more)),
    }
    try:
        await attempts[kind]()
    except EventRefused as refused:
        assert type(refused) is LIMITS[kind]
        return False
    return True


def _lists(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


async def correlated(id: str) -> None:
    with correlate(id):
        await publish_and_read(Plain())


# --- names and attributes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [text for text in EVIL_TEXT if 0 < len(text) < 255])
async def test_any_text_can_be_a_key_and_nothing_in_it_acts(text: str) -> None:
    async with Spine("memory://", service=teller) as spine:
        receipt = await spine.publish(Plain(key=text))
        (record,) = (await spine.journal.feed(receipt.position - 1, limit=1)).records
        assert record.key is not None
        assert not set("\0\r\n\x1b\u202e") & set(record.key)
        assert describe(Plain).decode(record.data).key == text


class Adding(Middleware):
    def __init__(self, attributes: dict[Any, Any]) -> None:
        self.attributes = attributes

    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        attributes.update(self.attributes)
        return proceed()


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": "\r\nX-Evil: 1"},
        {"a": "\0"},
        {"a": "\ud800"},
        {"a": 5},
        {"a": None},
        {"a": b"x"},
        {"a": object()},
        {"A": "x"},
        {"x\r\ny": "x"},
        {"": "x"},
        {5: "x"},
        {"data": "x"},
        {"type": "orders.Faked"},
        {"source": "somebody-else"},
        {"spineorigin": "somebody-else"},
        {"traceparent": "00-zz\r\n"},
        {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
        {"a": "x" * 10_000_000},
        {f"a{n}": "x" for n in range(100_000)},
    ],
    ids=lambda attributes: ascii(attributes).partition(" at 0x")[0][:40],
)
async def test_an_attribute_that_could_act_in_somebodys_headers_is_refused(attributes: dict[Any, Any]) -> None:
    with promptly(), pytest.raises(AttributeRefused) as refused:
        await publish_and_read(Plain(), middleware=[Adding(attributes)])
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("id", [text for text in EVIL_TEXT if not text.isprintable() or not text or len(text) > 255])
async def test_a_correlation_id_that_could_act_in_somebodys_log_is_refused(id: str) -> None:
    with pytest.raises(CorrelationRefused):
        await correlated(id)


@pytest.mark.parametrize("given", [5, b"x", None, ["x"]])
def test_a_correlation_id_is_text(given: Any) -> None:
    with pytest.raises(CorrelationRefused), correlate(given):
        pass
    if given is not None:
        with pytest.raises(CorrelationRefused), correlate("fine", given):
            pass


@pytest.mark.parametrize(
    "trace", ["\r\nX: y", "x" * 1_000_000, f"00-{'0' * 32}-{'0' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01"]
)
async def test_a_trace_that_is_none_goes_no_further(trace: str) -> None:
    async with Spine("memory://", service=teller) as spine:
        with correlate("fine", trace):
            await spine.publish(Plain())
        (record,) = (await spine.journal.feed(0, limit=1)).records
        assert record.meta is None
        assert Envelope(record).traceparent.isascii()


@pytest.mark.parametrize("given", [5, b"x", "x", "", "\ud800", "0" * 10_000_000])
async def test_an_id_that_is_no_uuid_is_refused_in_few_words(given: Any) -> None:
    async with Spine("memory://", service=teller) as spine:
        with promptly(), pytest.raises(EventRefused) as refused:
            await spine.publish(Plain(), id=given)
    assert len(str(refused.value)) < 300


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1, 1969, 1970, 2026, 9999])
async def test_a_clock_at_the_end_of_its_range_publishes_all_the_same(year: int) -> None:
    clock = VirtualClock(datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert (await publish_and_read(Plain(), clock=clock)).key == "k"


@pytest.mark.promise("clock set", "memory")
async def test_a_clock_that_goes_back_leaves_order_and_ids_ascending() -> None:
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with Spine("memory://", service=teller, clock=clock) as spine:
        first = await spine.publish(Plain())
        clock._us = 0  # set to 1970
        second = await spine.publish(Plain())
        records = (await spine.journal.feed(0, limit=2)).records
    assert first.event_id < second.event_id
    assert records[0].recorded_us <= records[1].recorded_us


async def test_a_hundred_thousand_small_events_take_no_memory_that_stays(tmp_path: Any) -> None:
    async with Spine(f"sqlite:///{tmp_path}/spine.db", service=teller) as spine:
        batch = [Plain() for _ in range(1_000)]
        await spine.publish(*batch)
        tracemalloc.start()
        try:
            for _ in range(20):
                await spine.publish(*batch)
                await asyncio.sleep(0)
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert left < 20_000_000


def test_the_limit_of_a_read_is_the_limit_of_a_publish() -> None:
    """So that what was read can be published again."""
    assert codec.DATA_BYTES_MAX == 1_000_000
