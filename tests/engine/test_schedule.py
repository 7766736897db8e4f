"""Scheduled publishing (R11): never early, once, in order of its time, cancellable, and it survives a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from eventspine import Delivery, Service, Spine
from eventspine.envelope import Envelope
from eventspine.errors import EventRefused

from .material import HandClock, Mailed, Placed, Store, turns, until


def noting() -> tuple[Service[Any], list[int]]:
    service, handled = Service("mail"), list[int]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.number)

    return service, handled


async def ring(spine: Spine) -> None:
    """Something happens, so that timers are looked at."""
    await spine.publish(Mailed())


MAILER: Service[Any] = Service("mailer", publishes=("orders", "email"))


async def test_r11_an_event_is_published_when_it_is_due_and_never_early(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = noting()
    async with store.spine(clock=clock, service=MAILER) as spine, spine.running(service):
        receipt = await spine.publish(Placed(number=1), at=clock.now + timedelta(seconds=5))
        assert (receipt.durable, receipt.position) == (True, 0)
        assert receipt.due == clock.now + timedelta(seconds=5)
        clock.us += 4_999_999
        for _ in range(5):
            await ring(spine)
            await turns()
        assert await spine.journal.event(bytes.fromhex(receipt.id.replace("-", ""))) is None
        assert handled == []
        clock.us += 1
        await ring(spine)
        await until(lambda: handled == [1])
        record = await spine.journal.event(bytes.fromhex(receipt.id.replace("-", "")))
        assert record is not None, "under the id of its receipt"


async def test_timers_fire_by_themselves(spine: Spine) -> None:
    service, handled = noting()
    async with spine.running(service):
        before = datetime.now(UTC)
        await spine.publish(Placed(number=1), after=timedelta(milliseconds=60))
        await until(lambda: handled == [1])
        assert datetime.now(UTC) - before >= timedelta(milliseconds=60)


async def test_they_are_published_in_order_of_their_times(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = noting()
    async with store.spine(clock=clock, service=MAILER) as spine:
        for number in (3, 1, 2):
            await spine.publish(Placed(number=number), after=timedelta(seconds=number))
        await spine.publish(Placed(number=0))
        clock.us += 10_000_000
        async with spine.running(service):
            await until(lambda: len(handled) == 4)
    assert handled == [0, 1, 2, 3]


async def test_a_cancelled_one_is_never_published(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = noting()
    async with store.spine(clock=clock, service=MAILER) as spine, spine.running(service):
        receipts = await spine.publish(Placed(number=1), Placed(number=2), after=timedelta(seconds=5))
        assert await spine.cancel(receipts[0]) == 1
        assert await spine.cancel(receipts[0]) == 0
        clock.us += 6_000_000
        await ring(spine)
        await until(lambda: handled == [2])
        assert await spine.cancel(receipts[1]) == 0, "too late"
        assert await spine.journal.timers() == []


async def test_it_survives_a_restart_and_is_published_once(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = noting()
    async with store.spine(clock=clock, service=MAILER) as spine:
        await spine.publish(Placed(number=1), after=timedelta(seconds=5))
    clock.us += 6_000_000
    async with store.spine(clock=clock) as one, store.spine(clock=clock) as other:
        async with one.running(service), other.running(service):
            await until(lambda: handled == [1])
        async with one.running(service):
            await one.publish(Placed(number=2))
            await until(lambda: handled == [1, 2])


async def test_a_handler_may_schedule_and_its_second_run_schedules_nothing_more(spine: Spine) -> None:
    service, mailed = Service("email"), list[int]()

    @service.on(Placed)
    async def remind(event: Placed, delivery: Delivery) -> None:
        receipt = await spine.publish(Mailed(number=event.number), after=timedelta(milliseconds=20))
        assert receipt.due is not None
        delivery.publish(Mailed(number=event.number + 1), after=timedelta(milliseconds=10))
        if delivery.attempt == 1:
            raise OSError

    @service.on(Mailed)
    async def note(event: Mailed) -> None:
        mailed.append(event.number)

    await spine.publish(Placed(number=1))
    async with spine.running(service):
        await until(lambda: sorted(mailed) == [1, 2])
        await turns()
    assert await spine.journal.timers() == []
    assert await spine.journal.head() == 3


@pytest.mark.parametrize(
    "when",
    [{"at": datetime(2030, 1, 1)}, {"at": datetime(2030, 1, 1, tzinfo=UTC), "after": timedelta(1)}],  # noqa: DTZ001 -- naive on purpose
)
async def test_a_time_without_a_zone_and_two_times_are_refused(spine: Spine, when: Any) -> None:
    with pytest.raises(EventRefused, match=r"^at=2030-01-01T00:00:00 has no time zone|not both"):
        await spine.publish(Placed(), **when)
    assert await spine.journal.timers() == []


@pytest.mark.parametrize(
    "when",
    [
        {"after": timedelta.max},
        {"after": timedelta.min},
        {"at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))},
        {"at": datetime.min.replace(tzinfo=timezone(timedelta(hours=12)))},
        {"time": datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))},
    ],
)
async def test_a_time_that_no_calendar_has_is_refused_and_nothing_is_stored(spine: Spine, when: Any) -> None:
    with pytest.raises(EventRefused, match="years 1 to 9999"):
        await spine.publish(Placed(), **when)
    assert await spine.journal.timers() == []
    assert await spine.journal.head() == 0


async def test_the_first_and_the_last_time_of_the_calendar_are_times_like_others(spine: Spine) -> None:
    last, first = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    receipt = await spine.publish(Placed(), at=last)
    assert receipt.due == last
    told = await spine.publish(Placed(), time=first)
    record = await spine.journal.event(told.event_id)
    assert record is not None
    assert Envelope(record).time == first


async def test_only_a_receipt_can_be_cancelled(spine: Spine) -> None:
    with pytest.raises(EventRefused, match="takes the receipts that publish"):
        await spine.cancel("0190163d-8694-739b-aea5-966c26f8ad91")  # type: ignore[arg-type]
