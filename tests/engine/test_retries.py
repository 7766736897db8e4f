"""Retries: at once, then later; counted across restarts; and what errors= says about each class of error."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventspine import Dead, Delivery, Drop, Reject, Retry, RetryAfter, Service, Spine
from eventspine.engine import subscription as engine, waiting
from eventspine.errors import DeclarationError, NotHandled, UnknownPublisher
from eventspine.ids import id_text
from eventspine.journal.port import Replay, Rewind

from .material import (
    FOR_EVER,
    ONCE,
    QUICK,
    Broken,
    HandClock,
    Placed,
    Store,
    dead,
    host,
    parked,
    rows,
    subscription,
    turns,
    until,
)

LATER = Retry(immediate=0, first_s=3600, most_s=3600)


async def test_the_first_retry_is_at_once_and_nothing_is_stored_for_it(spine: Spine) -> None:
    service = Service("mail")
    attempts = list[int]()

    @service.on(Placed, retry=Retry(immediate=2, first_s=3600, most_s=3600))
    async def note(event: Placed, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt < 3:
            assert await rows(spine) == []
            raise Broken

    await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: len(attempts) == 3)

        async def settled() -> Any:
            return await rows(spine, "settled")

        (row,) = await until(settled)
    assert attempts == [1, 2, 3]
    assert (row.attempts, row.reason) == (3, "Broken"), "kept, so that `trace` can show what failed on the way"


@pytest.mark.parametrize("named", [UnknownPublisher, DeclarationError, Exception])
async def test_a_table_has_the_last_word_on_what_is_wrong_in_the_code(spine: Spine, named: type[Exception]) -> None:
    service = Service("mail")

    @service.on(Placed, errors={named: QUICK})
    async def note(event: Placed) -> None:
        raise UnknownPublisher("orders publishes this")

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert (row.attempts, row.reason) == (QUICK.attempts, "UnknownPublisher")


async def test_a_command_that_nobody_handles_yet_is_sent_again(spine: Spine) -> None:
    """The service that does may be started after the one that sends it."""
    service = Service("mail")

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed) -> None:
        raise NotHandled("nobody here")

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert (row.attempts, row.reason) == (QUICK.attempts, "NotHandled")


async def test_then_it_parks_until_it_is_due(spine: Spine) -> None:
    service = Service("mail")
    attempts = list[int]()

    @service.on(Placed, retry=LATER)
    async def note(event: Placed, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise Broken("no answer")

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await parked(spine)
        assert (row.attempts, row.reason, row.error) == (1, "Broken", "Broken: no answer")
        assert "raise Broken" in row.traceback
        assert row.due_us is not None
        assert 0 < row.due_us - row.last_us <= 3_600_000_000
        await turns()
    assert attempts == [1]


async def test_attempts_are_counted_across_a_restart(spine: Spine) -> None:
    service = Service("mail")
    attempts = list[int]()

    @service.on(Placed, retry=FOR_EVER)
    async def note(event: Placed, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise Broken

    await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: len(attempts) >= 3)
    before = len(attempts)
    async with spine.running(service):
        await until(lambda: len(attempts) >= before + 3)
    assert attempts == list(range(1, len(attempts) + 1))


@pytest.mark.promise("handler fails")
async def test_after_the_last_attempt_it_is_dead_with_all_that_is_known(spine: Spine) -> None:
    service = Service("mail")

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed) -> None:
        raise Broken("no answer")

    await spine.publish(Placed(number=7))
    async with spine.running(service):
        (row,) = await dead(spine)
    assert (row.attempts, row.reason, row.error, row.key) == (3, "Broken", "Broken: no answer", "ann")
    assert 'raise Broken("no answer")' in row.traceback
    assert row.record is not None
    assert row.record.data == b'{"customer":"ann","number":7,"note":""}'
    assert row.first_us <= row.last_us


async def test_a_failing_key_holds_its_own_events_in_order_and_no_other(spine: Spine) -> None:
    service = Service("mail")
    broken, tried, handled = True, 0, list[tuple[str, int]]()

    @service.on(Placed, retry=FOR_EVER)
    async def note(event: Placed) -> None:
        nonlocal tried
        if event.customer == "ann" and event.number == 1 and broken:
            tried += 1
            raise Broken
        handled.append((event.customer, event.number))

    await spine.publish(*[Placed(customer=name, number=number) for number in range(5) for name in ("ann", "bob")])
    async with spine.running(service):
        await until(lambda: len(handled) == 6 and tried > 3)
        await spine.publish(
            *[Placed(customer=name, number=number) for number in range(5, 8) for name in ("ann", "bob")]
        )
        await until(lambda: ("bob", 7) in handled)
        await until(lambda: subscription(spine).waiting.count == 7, "for the rest of the key to be stored behind")
        behind = await rows(spine, "parked")
        assert ["behind"] * 6 == [row.reason for row in behind if row.reason != "Broken"]
        broken = False
        await until(lambda: len(handled) == 16)
    assert list(range(8)) == [number for name, number in handled if name == "ann"]
    assert list(range(8)) == [number for name, number in handled if name == "bob"]


async def test_what_waits_behind_survives_a_restart_in_order(spine: Spine) -> None:
    service = Service("mail")
    broken, handled = True, list[int]()

    @service.on(Placed, retry=FOR_EVER)
    async def note(event: Placed) -> None:
        if event.number == 0 and broken:
            raise Broken
        handled.append(event.number)

    await spine.publish(*[Placed(number=number) for number in range(20)])
    async with spine.running(service):
        await until(lambda: subscription(spine).waiting.count == 20)
    assert handled == []
    broken = False
    await spine.publish(*[Placed(number=number) for number in range(20, 30)])
    async with spine.running(service):
        await until(lambda: len(handled) == 30)
    assert handled == list(range(30))


async def test_the_queue_behind_a_failing_key_is_bounded(spine: Spine, monkeypatch: Any) -> None:
    """At the bound events wait in memory, the window fills, and reading stops: nothing is lost, and order stays."""
    monkeypatch.setattr(waiting, "BEHIND_MAX", 10)
    monkeypatch.setattr(engine, "WINDOW", 300)
    service = Service("mail")
    broken, handled = True, list[int]()

    @service.on(Placed, retry=FOR_EVER)
    async def note(event: Placed) -> None:
        if broken:
            raise Broken
        handled.append(event.number)

    async with spine.running(service):
        await spine.publish(Placed(number=0))
        await parked(spine)
        await spine.publish(*[Placed(number=number) for number in range(1, 501)])
        await spine.publish(*[Placed(number=number) for number in range(501, 1001)])
        await until(lambda: subscription(spine).capacity < 256, "until it reads no further")
        assert len(await rows(spine)) <= 310, "the bound, and what was on its way to be stored"
        assert subscription(spine).lanes.size <= 300
        (problem,) = await until(lambda: spine.health()["problems"])
        assert "reads no further" in problem
        broken = False
        await until(lambda: len(handled) == 1001)
        assert handled == list(range(1001))
        await until(lambda: subscription(spine).waiting.count == 0)


async def test_loading_again_does_not_count_what_waits_twice(spine: Spine) -> None:
    """Otherwise a subscription that is loaded often enough would take itself for full."""
    service = Service("mail")

    @service.on(Placed, retry=LATER)
    async def note(event: Placed) -> None:
        raise Broken

    await spine.publish(*[Placed(number=number) for number in range(5)])
    async with spine.running(service):
        await until(lambda: subscription(spine).waiting.count == 5)
        for _ in range(3):
            await host(spine)._restart()
        assert subscription(spine).waiting.count == 5


class Down(Exception): ...


class VeryDown(Down): ...


async def outcome(spine: Spine, error: type[Exception], **errors: Any) -> str:
    service = Service("mail", errors=errors.get("service"))

    @service.on(Placed, retry=ONCE, errors=errors.get("handler", {}))
    async def note(event: Placed) -> None:
        raise error

    await spine.publish(Placed())
    async with spine.running(service):

        async def some() -> Any:
            return await rows(spine)

        (row,) = await until(some)
    return str(row.state)


async def test_the_nearest_class_of_the_error_decides(spine: Spine) -> None:
    assert await outcome(spine, VeryDown, handler={Exception: Dead, Down: LATER}) == "parked"


async def test_the_errors_own_class_comes_before_its_parents(spine: Spine) -> None:
    assert await outcome(spine, VeryDown, handler={Down: LATER, VeryDown: Dead}) == "dead"


async def test_the_handlers_word_comes_before_the_services(spine: Spine) -> None:
    assert await outcome(spine, Down, handler={Down: LATER}, service={Down: Dead}) == "parked"


async def test_the_services_word_about_a_nearer_class_comes_before_the_handlers(spine: Spine) -> None:
    assert await outcome(spine, VeryDown, handler={Down: Dead}, service={VeryDown: LATER}) == "parked"


async def test_drop_finishes_the_delivery_and_the_key_goes_on(spine: Spine) -> None:
    service = Service("mail")
    handled = list[int]()

    @service.on(Placed, errors={Down: Drop})
    async def note(event: Placed) -> None:
        if event.number == 0:
            raise Down
        handled.append(event.number)

    await spine.publish(Placed(number=0), Placed(number=1))
    async with spine.running(service):
        await until(lambda: handled == [1])
    assert await rows(spine, "dead", "parked") == []


async def test_reject_is_dead_at_once_with_its_word(spine: Spine) -> None:
    service = Service("mail")
    attempts = list[int]()

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise Reject("no such street")

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert attempts == [1]
    assert (row.reason, row.error) == ("rejected", "Reject: no such street")


@pytest.mark.parametrize("after", [3600, timedelta(hours=1), "at"])
async def test_retry_after_is_tried_when_it_asked_for(spine: Spine, after: Any) -> None:
    service = Service("mail")
    wanted = datetime.now(UTC) + timedelta(hours=1)

    @service.on(Placed)
    async def note(event: Placed) -> None:
        raise RetryAfter(wanted if after == "at" else after)

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await parked(spine)
    assert row.due_us is not None
    assert abs(row.due_us - wanted.timestamp() * 1e6) < 30e6
    assert row.attempts == 1


async def test_retry_after_counts_as_an_attempt(spine: Spine) -> None:
    service = Service("mail")

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed) -> None:
        raise RetryAfter(0)

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert row.attempts == 3


async def test_within_ends_the_attempts_whatever_their_number(spine: Spine) -> None:
    service = Service("mail")

    @service.on(Placed, retry=Retry(attempts=None, within=timedelta(milliseconds=300), first_s=0.001, most_s=0.001))
    async def note(event: Placed) -> None:
        raise Broken

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert row.attempts > 1
    assert (
        row.last_us - row.first_us >= 100_000
    )  # the last has begun by then, on a busy machine some time before the end


async def test_within_counts_from_its_own_first_attempt_for_what_waited_behind_another(
    timed: tuple[Store, HandClock],
) -> None:
    (store, clock), service = timed, Service("mail")
    handled = list[int]()

    @service.on(Placed, retry=Retry(attempts=None, within=timedelta(hours=1)))
    async def note(event: Placed, delivery: Delivery) -> None:
        if event.number == 2 or delivery.attempt == 1:
            raise RetryAfter(1800)
        handled.append(event.number)

    async with store.spine(clock=clock) as spine:
        await spine.publish(Placed(number=1), Placed(number=2))
        async with spine.running(service):
            await parked(spine, 2)
        clock.us += 1_800_000_000
        async with spine.running(service):
            await until(lambda: handled)
            await until(lambda: attempts_of(spine, 1))
        clock.us += 1_800_000_000
        async with spine.running(service):
            await until(lambda: attempts_of(spine, 2))
        (row,) = await rows(spine, "parked", "dead")
        assert row.state == "parked"


async def test_within_counts_anew_for_what_a_rewind_has_handled_again(timed: tuple[Store, HandClock]) -> None:
    (store, clock), service = timed, Service("mail")
    mended = False

    @service.on(Placed, retry=Retry(attempts=None, within=timedelta(hours=1), immediate=0), replayable=True)
    async def note(event: Placed, delivery: Delivery) -> None:
        if not mended:
            raise RetryAfter(1800)

    async with store.spine(clock=clock) as spine:
        await spine.publish(Placed())
        async with spine.running(service):
            await parked(spine)
        clock.us += 1_800_000_000
        mended = True
        async with spine.running(service):
            await until(lambda: attempts_of(spine))
        clock.us += 86_400_000_000
        mended = False
        (stored,) = await spine.journal.subscriptions()
        await spine.journal.control([Rewind(stored.number, 0)])
        async with spine.running(service):
            await until(lambda: attempts_of(spine, 1))
        clock.us += 1_800_000_000
        async with spine.running(service):
            await until(lambda: attempts_of(spine, 2))
        (row,) = await rows(spine)
        assert row.state == "parked"


async def attempts_of(spine: Spine, *count: int) -> bool:
    """Whether what waits has had so many; none: that nothing waits."""
    return [row.attempts for row in await rows(spine, "parked", "dead")] == [*count]


async def test_a_cancellation_that_the_handler_ran_into_itself_is_a_failed_attempt(spine: Spine) -> None:
    """Awaiting a task that somebody cancelled is an error of the handler's, and does not end its worker."""
    service = Service("mail")
    attempts = list[int]()

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            task = asyncio.create_task(asyncio.Event().wait())
            task.cancel()
            await task

    await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: attempts == [1, 2])


async def test_a_failure_says_which_attempt_of_how_many_and_when_the_next_one_is(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("email")

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed) -> None:
        raise Broken("no")

    await spine.publish(Placed(customer="ann"))
    async with spine.running(service):
        (row,) = await dead(spine)
    said = [record.__dict__ for record in caplog.records if " failed, attempt " in record.getMessage()]
    first, second, third = (line["message"] for line in said)
    event = id_text(row.record.id)
    assert f"email.note: orders.Placed {event} (key 'ann') failed, attempt 1 of 3, again at once: Broken: no" == first
    assert f"attempt 2 of 3, parked, next attempt {said[1]['next_attempt']} (in 0.0 s): Broken: no" in second
    assert "attempt 3 of 3, dead: Broken: no" in third
    assert [line["attempts_max"] for line in said] == [3, 3, 3]
    assert said[1]["next_attempt"].endswith("Z")
    assert said[2]["next_attempt"] is None


async def test_a_replay_that_fails_is_logged_as_more_than_the_attempts_that_there_are_to_be(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("email")

    @service.on(Placed, retry=Retry(attempts=1))
    async def note(event: Placed) -> None:
        raise Broken("no")

    await spine.publish(Placed(customer="ann"))
    async with spine.running(service):
        (row,) = await dead(spine)
        await spine.journal.control([Replay([row.number])])
        await until(lambda: "attempt 2" in caplog.text)
    assert "failed, attempt 2, past its 1, dead: Broken: no" in caplog.text
