"""Publishing: all of it or nothing, durable when it returns, and refused with a word that says what to do."""

from __future__ import annotations

import asyncio
import math
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventspine import Envelope, Event, Service, Spine, correlate
from eventspine.errors import (
    DeclarationError,
    EventRefused,
    EventTooLarge,
    KeyRefused,
    OutcomeUnknown,
    SettingsError,
    SpineClosed,
    UnitFailed,
    UnknownPublisher,
)
from eventspine.journal import asking
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Verdict


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"
    amount: float = 0.0
    at: datetime | None = None
    note: str = ""


class Dropped(Event, context="orders", key="customer"):
    customer: str = "ann"


class Mailed(Event, context="email", key="customer"):
    customer: str = "ann"


SHOP: Service[Any] = Service("shop", publishes="orders")


@pytest.fixture(params=["memory", "sqlite"])
async def spine(request: Any, tmp_path: Path) -> Any:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'spine.db'}"
    async with Spine(url, service=SHOP) as spine:
        yield spine


async def records(spine: Spine) -> list[Any]:
    return list((await spine.journal.feed(0, limit=1000)).records)


@pytest.mark.parametrize("later", [{}, {"after": timedelta(hours=1)}])
async def test_more_than_can_be_stored_as_one_is_refused_and_several_calls_take_it(
    spine: Spine, monkeypatch: Any, later: dict[str, Any]
) -> None:
    monkeypatch.setattr(asking, "UNIT_BYTES_MAX", 10_000)
    large = [Placed(note="x" * 4_000) for _ in range(3)]
    with pytest.raises(
        UnitFailed, match=r"3 events of 14,\d\d\d bytes .* takes 10,000. Publish them in several calls."
    ):
        await spine.publish(*large, **later)
    assert [] == await records(spine)
    assert [] == await spine.journal.timers()
    for event in large:
        await spine.publish(event, **later)


async def test_one_event_gives_one_receipt_and_several_give_a_list(spine: Spine) -> None:
    receipt = await spine.publish(Placed())
    assert (receipt.position, receipt.durable, receipt.due) == (1, True, None)
    receipts = await spine.publish(Placed(), Placed())
    assert [2, 3] == [receipt.position for receipt in receipts]
    assert [receipt.id, *(one.id for one in receipts)] == [Envelope(record).id for record in await records(spine)]


async def test_the_envelope_says_who_published_what_about_whom(spine: Spine) -> None:
    before = datetime.now(UTC)
    receipt = await spine.publish(Placed(customer="ann"))
    (record,) = await records(spine)
    envelope = Envelope(record)
    assert (envelope.source, envelope.type, envelope.key) == ("shop", "orders.Placed", "ann")
    assert (envelope.correlationid, envelope.causationid, envelope.hops) == (receipt.id, None, 0)
    assert before - timedelta(milliseconds=1) <= envelope.time <= datetime.now(UTC)


async def test_a_fact_of_the_past_has_its_own_time(spine: Spine) -> None:
    when = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    await spine.publish(Placed(), time=when)
    assert Envelope((await records(spine))[0]).time == when


async def test_the_same_event_published_again_under_its_own_id_answers_with_the_first_receipt(spine: Spine) -> None:
    own = str(uuid.uuid4())
    first = await spine.publish(Placed(), id=own)
    await spine.publish(Placed())
    for same in (own, uuid.UUID(own), own.upper()):
        again = await spine.publish(Placed(), id=same)
        assert (first.id, first.position) == (again.id, again.position) == (own, 1)
    assert len(await records(spine)) == 2


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Placed(note="in other words"), []),
        (
            Placed(customer="ben"),
            ["orders.Placed with the key 'ann', so orders.Placed with the key 'ben' was not stored"],
        ),
        (Dropped(), ["orders.Placed with the key 'ann', so orders.Dropped with the key 'ann' was not stored"]),
    ],
)
async def test_another_event_under_an_id_that_is_taken_is_a_warning_that_names_both(
    spine: Spine, caplog: pytest.LogCaptureFixture, other: Event, told: list[str]
) -> None:
    own = str(uuid.uuid4())
    first = await spine.publish(Placed(), id=own)
    assert first == await spine.publish(other, id=own)
    assert len(await records(spine)) == 1
    warned = [record.getMessage() for record in caplog.records if record.name == "eventspine"]
    assert [
        f"publish(id='{own}'): this id is that of {one}. Give each event an id of its own." for one in told
    ] == warned


async def test_correlate_makes_everything_inside_belong_together(spine: Spine) -> None:
    with correlate("request-7"):
        await spine.publish(Placed(), Placed())
    await spine.publish(Placed())
    assert [Envelope(record).correlationid == "request-7" for record in await records(spine)] == [True, True, False]
    with pytest.raises(ValueError, match="needs an id"), correlate(""):
        pass


REFUSED: list[tuple[Any, type[Exception]]] = [
    (lambda: Placed(amount=math.nan), EventRefused),
    (lambda: Placed(at=datetime(2030, 1, 1)), EventRefused),  # noqa: DTZ001 -- naive on purpose
    (lambda: Placed(customer=""), KeyRefused),
    (lambda: Placed(customer="x" * 300), KeyRefused),
    (lambda: Placed(note="x" * 1_000_001), EventTooLarge),
    (Mailed, UnknownPublisher),
    (lambda: "no event", DeclarationError),
]


@pytest.mark.parametrize(("make", "error"), REFUSED)
async def test_what_is_refused_takes_the_rest_of_its_publish_with_it(spine: Spine, make: Any, error: Any) -> None:
    with pytest.raises(error):
        await spine.publish(Placed(), make(), Placed())
    assert await records(spine) == []


async def test_a_class_is_no_event_of_it(spine: Spine) -> None:
    with pytest.raises(
        DeclarationError, match=r"^Placed is a class, and no event of it: make one, Placed\(\.\.\.\)\.$"
    ):
        await spine.publish(Placed)


@pytest.mark.parametrize(
    ("when", "instead"),
    [
        ({"after": 5}, r"after=5 is not a timedelta"),
        ({"after": "1h"}, r"after=timedelta\(seconds=30\)"),
        ({"at": "2030-01-01"}, "at=: '2030-01-01' is not a time; pass an aware datetime"),
        ({"time": 17}, "17 is not a time"),
    ],
)
async def test_a_time_of_another_type_is_refused_with_what_to_pass(spine: Spine, when: Any, instead: str) -> None:
    with pytest.raises(EventRefused, match=instead):
        await spine.publish(Placed(), **when)
    assert await records(spine) == []


async def test_another_contexts_event_names_the_ways_on(spine: Spine) -> None:
    with pytest.raises(UnknownPublisher, match=r"belongs to the context 'email'.*publishes orders.*publishes=\["):
        await spine.publish(Mailed())


async def test_a_spine_that_speaks_for_nobody_publishes_nothing() -> None:
    async with Spine("memory://") as spine:
        with pytest.raises(UnknownPublisher, match="service=storefront"):
            await spine.publish(Placed())


@pytest.mark.parametrize("options", [{"id": "no uuid"}, {"time": datetime(2030, 1, 1)}])  # noqa: DTZ001 -- naive on purpose
async def test_options_that_can_not_be_meant_are_refused(spine: Spine, options: Any) -> None:
    with pytest.raises(EventRefused):
        await spine.publish(Placed(), **options)
    anything: Any = spine
    with pytest.raises(EventRefused, match="no event"):
        await anything.publish()
    with pytest.raises(EventRefused, match="one event"):
        await anything.publish(Placed(), Placed(), id=str(uuid.uuid4()))


@pytest.mark.parametrize("traceparent", ["garbage", "00-x-y", ""])
async def test_a_trace_that_is_none_does_not_stop_an_event(spine: Spine, traceparent: str) -> None:
    """It comes from outside, with a request; whoever sent it must not be able to break the publishing."""
    with correlate("request-7", traceparent=traceparent):
        await spine.publish(Placed())
    assert len(await records(spine)) == 1
    assert len(Envelope((await records(spine))[0]).traceparent) == 55


async def test_an_outcome_that_stays_unknown_is_said_to_be_unknown(spine: Spine, monkeypatch: Any) -> None:
    asked = 0

    async def unknown(units: Any) -> list[Verdict]:
        nonlocal asked
        asked += 1
        return [Verdict("unknown") for _ in units]

    monkeypatch.setattr(spine.journal, "commit", unknown)
    with pytest.raises(OutcomeUnknown, match="same id="):
        await spine.publish(Placed())
    assert asked == 5


async def test_many_publishers_at_once_each_get_their_own_answer(spine: Spine) -> None:
    import asyncio

    receipts = await asyncio.gather(*[spine.publish(Placed(customer=f"c{number}")) for number in range(100)])
    assert sorted(receipt.position for receipt in receipts) == list(range(1, 101))
    by_id = {Envelope(record).id: record.position for record in await records(spine)}
    assert by_id == {receipt.id: receipt.position for receipt in receipts}


def test_a_journal_is_named_by_its_url() -> None:
    with pytest.raises(SettingsError, match="names no journal.*, postgresql://user@host/database or memory://"):
        Spine("mysql://nowhere")


@pytest.mark.parametrize("given", ["", "x" * 256, "two\nlines", "\udc80"])
def test_a_correlation_id_is_short_and_printable(given: str) -> None:
    """It is stored with every event and written to every log, and often comes from a header that anybody may send."""
    with pytest.raises(ValueError, match="correlation"), correlate(given):
        pass


async def test_a_closed_spine_is_not_opened_again_unnoticed(tmp_path: Path) -> None:
    spine = Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=Service("shop", publishes="orders"))
    await spine.publish(Placed())
    await spine.close()
    with pytest.raises(SpineClosed, match="open it again"):
        await spine.publish(Placed())
    with pytest.raises(SpineClosed):
        async with spine.running(Service("mail")):
            raise AssertionError
    async with spine:
        assert (await spine.publish(Placed())).position == 2


async def test_a_block_inside_a_block_leaves_the_spine_open_for_the_outer_one(tmp_path: Path) -> None:
    spine = Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP)
    async with spine:
        async with spine:
            await spine.publish(Placed())
        assert (await spine.publish(Placed())).position == 2
    with pytest.raises(SpineClosed):
        await spine.publish(Placed())


async def test_tasks_that_enter_and_leave_at_once_close_nothing_under_each_other(tmp_path: Path) -> None:
    spine = Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP)

    async def publish(pause: int) -> None:
        for _ in range(20):
            async with spine:
                await spine.publish(Placed())
            for _ in range(pause):
                await asyncio.sleep(0)

    await asyncio.gather(*(publish(pause) for pause in (0, 1, 3, 7)))
    async with spine:
        assert len(await records(spine)) == 80


async def test_services_that_can_not_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'shop' is no service. Pass the object"):
        Spine("memory://", service="shop")  # type: ignore[arg-type]
    async with Spine(f"sqlite:///{tmp_path / 'spine.db'}") as spine:
        for services in ((SHOP, SHOP), (SHOP, Service("shop"))):
            with pytest.raises(SettingsError, match="Two services named 'shop'"):
                async with spine.running(*services):
                    raise AssertionError


async def test_health_answers_before_a_spine_is_open_and_after(tmp_path: Path) -> None:
    spine = Spine(f"sqlite:///{tmp_path / 'spine.db'}", service=SHOP)
    assert spine.health()["status"] == "closed"
    async with spine:
        assert spine.health()["status"] == "ok"
    assert spine.health()["status"] == "closed"


@pytest.mark.parametrize("given", [None, Path("spine.db"), object()])
def test_what_is_no_journal_is_refused_where_it_is_given(given: Any) -> None:
    with pytest.raises(
        SettingsError, match=r"neither a URL, such as sqlite:///spine.db, nor a journal: it has no .*, …\. "
    ):
        Spine(given)
    with pytest.raises(SettingsError, match=r"MemoryJournal is a class. Give one that is made: MemoryJournal\(…\)"):
        Spine(MemoryJournal)  # type: ignore[arg-type]
