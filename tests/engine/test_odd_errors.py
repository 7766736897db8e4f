"""Errors of handlers that are like no others: each fails one attempt, holds its own key, and harms nothing else."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventspine import Batch, Delivery, RetryAfter, Service, Spine
from eventspine.engine import failures

from .material import ONCE, QUICK, SHOP, WAIT_S, Broken, Mailed, Placed, dead, host, subscription, until


class Speechless(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class NotAnException(BaseException):
    """As the time limits of some libraries are."""


ODD = {
    "sys.exit": SystemExit(3),
    "base": NotAnException("no"),
    "group": BaseExceptionGroup("some", [NotAnException("no"), Broken()]),
    "cancelled": asyncio.CancelledError(),
    "surrogate": Broken("no such file: caf\udce9.txt"),
    "nul": Broken("no such customer: a\0b"),
    "str": Speechless(),
    "recursion": RecursionError("too deep"),
}
IN_THREADS = {**ODD, "stop": StopIteration(), "interrupt": KeyboardInterrupt(), "generator": GeneratorExit()}


def failing(error: BaseException, how: str) -> tuple[Service[Any], list[int]]:
    service, handled = Service("email"), list[int]()

    def one(event: Placed) -> None:
        if event.customer == "bad":
            raise error
        handled.append(event.number)

    async def also(event: Placed) -> None:
        one(event)

    async def many(events: list[Placed]) -> None:
        for event in events:
            one(event)

    if how == "batch":
        service.on(Placed, retry=QUICK, batch=Batch(10), name="note")(many)
    else:
        service.on(Placed, retry=QUICK, name="note")(one if how == "def" else also)
    return service, handled


@pytest.mark.parametrize("what", ["execute", "publish"])
async def test_what_is_not_awaited_of_a_delivery_is_said_where_it_was(spine: Spine, what: str) -> None:
    """Mistaken for what a spine's own publish is: Python says no more than that it is no awaitable."""
    email: Service[None] = Service("email", publishes=["email"])

    @email.on(Placed, retry=ONCE)
    async def note(event: Placed, delivery: Delivery) -> None:
        if what == "execute":
            await delivery.execute("select 1")  # type: ignore[func-returns-value]
        else:
            await delivery.publish(Mailed(customer=event.customer), Mailed(customer="bob"))  # type: ignore[misc]

    async with spine.running(email):
        await spine.publish(Placed(customer="ann", number=1))
        (row,) = await dead(spine)
    assert "TypeError" in row.error
    assert "they take effect with the handler, and are not awaited." in row.error


CASES = [(name, how) for how in ("async", "batch") for name in ODD] + [(name, "def") for name in IN_THREADS]


@pytest.mark.parametrize(("name", "how"), CASES)
async def test_whatever_is_raised_is_an_attempt_that_failed(spine: Spine, name: str, how: str) -> None:
    service, handled = failing(IN_THREADS[name], how)
    await spine.publish(*[Placed(customer=who, number=number) for number in range(3) for who in ("bad", "ann", "bob")])
    async with spine.running(service):
        rows = await dead(spine, 3)
        await until(lambda: len(set(handled)) == 3)
        one = subscription(spine)
        await until(lambda: one.handled >= 9)
        assert {row.attempts for row in rows} == {3}
        assert host(spine).fenced == 0, "nothing was loaded anew, and nobody's work was done again"
    assert not spine._runtimes


@pytest.mark.parametrize("batch", [None, Batch(10)], ids=["one", "batch"])
@pytest.mark.parametrize("ends", ["by itself", "out of time"])
async def test_a_handler_that_cancels_its_own_task_has_failed(spine: Spine, batch: Any, ends: str) -> None:
    """So do some libraries that limit time, and some of these leave the task marked as cancelled."""
    service, handled = Service("email"), list[int]()

    @service.on(Placed, retry=QUICK, concurrency=1, timeout_s=0.2, batch=batch)
    async def note(given: Any) -> None:
        events = given if batch else [given]
        if "bad" in [event.customer for event in events]:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with suppress(asyncio.CancelledError if ends == "out of time" else ()):
                await asyncio.sleep(0)
            await asyncio.sleep(WAIT_S)
        handled.extend(event.number for event in events)

    await spine.publish(*[Placed(customer=who, number=number) for number, who in enumerate(("bad", "ann", "bob"))])
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: len(handled) == 2)
    assert row.reason == ("HandlerTimeout" if ends == "out of time" else "CancelledError")
    assert row.attempts == 3


class Held:
    """As a connection that its handler has not closed."""


@pytest.mark.parametrize("how", ["async", "def", "batch", "def batch"])
async def test_what_a_failed_handler_has_left_behind_is_let_go_at_once(spine: Spine, how: str) -> None:
    """Its locks may be in the way of the very commit that says that it has failed; and who waits makes nothing to be collected."""
    left = list[weakref.ref[Held]]()

    def fails(given: Any) -> None:
        held = Held()
        left.append(weakref.ref(held))
        raise Broken

    async def fails_too(given: Any) -> None:
        fails(given)

    service: Service[Any] = Service("email")
    batch = Batch(10) if "batch" in how else None
    service.on(Placed, retry=QUICK, batch=batch, name="note")(fails if "def" in how else fails_too)
    gc.disable()
    try:
        async with spine.running(service):
            await spine.publish(Placed(customer="bad"))
            await dead(spine)
        assert [None] * 3 == [one() for one in left]
    finally:
        gc.enable()


async def test_an_error_that_cannot_be_written_is_told_in_what_can(spine: Spine) -> None:
    service, _ = failing(ODD["surrogate"], "async")
    await spine.publish(Placed(customer="bad"))
    async with spine.running(service):
        (row,) = await dead(spine)
    assert row.error == r"Broken: no such file: caf\udce9.txt"


async def test_without_that_care_its_row_is_never_stored(file: Spine, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(failures, "storable", lambda text: text)
    service, _ = failing(ODD["surrogate"], "async")
    await file.publish(Placed(customer="bad"))
    async with file.running(service):
        await until(lambda: "could not be stored" in caplog.text)


async def test_an_error_with_a_nul_is_told_in_what_postgresql_can_keep(postgres_url: str) -> None:
    service, handled = failing(ODD["nul"], "async")
    async with Spine(postgres_url, service=SHOP) as spine:
        await spine.publish(Placed(customer="bad"), Placed(customer="ann", number=1))
        async with spine.running(service):
            (row,) = await dead(spine)
            await until(lambda: handled == [1])
    assert row.error == r"Broken: no such customer: a\x00b"


@pytest.mark.parametrize("after", [float("inf"), 1e300, timedelta.max])
async def test_an_absurd_time_to_wait_is_a_long_one(spine: Spine, after: Any) -> None:
    service = Service("email")

    @service.on(Placed)
    async def note(event: Placed) -> None:
        raise RetryAfter(after)

    await spine.publish(Placed())

    async def waits() -> Any:
        return await spine.journal.deliveries(states=["parked"])

    async with spine.running(service):
        (row,) = await until(waits)
    assert row.due_us is not None
    assert row.due_us > spine.clock.now_us() + 90 * 365 * 86_400_000_000


@pytest.mark.parametrize("after", [float("nan"), "5", None])
def test_what_is_no_time_is_refused_where_it_is_raised(after: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="give seconds"):
        RetryAfter(after)


def test_retry_after_says_what_it_asked_for_with_its_unit() -> None:
    assert str(RetryAfter(4)).endswith("tried again after 4 s")
    assert str(RetryAfter(timedelta(hours=1))).endswith("tried again after 1:00:00")
    assert str(RetryAfter(datetime(2030, 1, 1, tzinfo=UTC))).endswith("tried again at 2030-01-01 00:00:00+00:00")
    assert str(RetryAfter(4, "the bank is closed")) == "the bank is closed"


async def test_retry_after_something_that_is_no_time_is_a_failed_attempt(spine: Spine) -> None:
    service = Service("mail")

    @service.on(Placed, retry=QUICK)
    async def note(event: Placed) -> None:
        raise RetryAfter("soon")  # type: ignore[arg-type]

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert row.attempts == 3
    assert "give seconds, a timedelta" in row.error
