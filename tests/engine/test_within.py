"""`Retry(within=...)` on virtual time: the last attempt comes when the time is over, whatever the backoff or the handler asks for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventspine import Retry, RetryAfter, Service, testing

from .material import Broken, Placed

MINUTE = Retry(attempts=None, within=timedelta(minutes=1))
BEGAN = datetime(2030, 1, 1, tzinfo=UTC)


def failing(times: list[float], now: Callable[[], datetime], retry: Retry, error: Any = Broken) -> Service[Any]:
    service: Service[Any] = Service("mail")

    @service.on(Placed, retry=retry)
    async def note(event: Placed) -> None:
        times.append((now() - BEGAN).total_seconds())
        raise error

    return service


async def attempts_of(retry: Retry, seed: int, error: Any = Broken) -> tuple[list[float], Any]:
    times = list[float]()
    service = failing(times, lambda: spine.now, retry, error)
    spine = testing.spine(service, failures="retry", seed=seed, start=BEGAN)
    async with spine:
        await spine.publish(Placed())
        await spine.advance(days=1)
        (row,) = spine.dead()
    return times, row


async def test_the_last_attempt_comes_when_the_time_is_over() -> None:
    for seed in range(40):
        times, row = await attempts_of(MINUTE, seed)
        assert times[-1] == pytest.approx(60.0, abs=0.001), seed
        assert times == sorted(times)
        assert (row.reason, row.attempts) == ("Broken", len(times))


async def test_the_log_and_the_row_say_that_it_was_the_time(caplog: pytest.LogCaptureFixture) -> None:
    _, row = await attempts_of(Retry(attempts=8, within=timedelta(seconds=1), first_s=300.0), seed=1)
    said = [record.getMessage() for record in caplog.records if " failed, attempt " in record.getMessage()]
    assert "(in 1.0 s), the last one of Retry(within=1 s): Broken" in said[-2]
    assert "attempt 3 of 8, dead, as Retry(within=1 s) is over: Broken" in said[-1]
    assert row.error.endswith(", as Retry(within=1 s) is over")


async def test_a_time_of_many_days_is_told_in_digits(caplog: pytest.LogCaptureFixture) -> None:
    month = Retry(attempts=None, within=timedelta(days=30), first_s=1e9, most_s=1e9)
    times = list[float]()
    async with testing.spine(failing(times, lambda: spine.now, month), failures="retry", seed=1, start=BEGAN) as spine:
        await spine.publish(Placed())
        await spine.advance(seconds=1)
    assert "the last one of Retry(within=2,592,000 s)" in caplog.text


async def test_the_number_of_attempts_ends_it_before_and_nothing_is_said_of_the_time() -> None:
    times, row = await attempts_of(Retry(attempts=3, within=timedelta(days=1)), seed=1)
    assert (len(times), row.error.partition("within")[1]) == (3, "")


async def test_retry_after_is_cut_too() -> None:
    times, _ = await attempts_of(MINUTE, seed=1, error=RetryAfter(40))
    assert times == pytest.approx([0.0, 40.0, 60.0], abs=0.001)
    times, _ = await attempts_of(MINUTE, seed=1, error=RetryAfter(timedelta(days=400)))
    assert times == pytest.approx([0.0, 60.0], abs=0.001)


async def test_who_waited_behind_another_has_its_time_from_its_own_first_attempt(tmp_path: Path) -> None:
    """Also where it was stored, behind, by a process that has ended."""
    times = list[float]()
    service = failing(times, lambda: spine.now, MINUTE)
    url = f"sqlite:///{tmp_path}/spine.db"
    spine = testing.spine(service, failures="retry", seed=1, start=BEGAN, url=url)
    async with spine:
        await spine.publish(Placed(), Placed())
        await spine.idle()
        assert len(spine.parked()) == 2
    spine = testing.spine(service, failures="retry", seed=1, start=BEGAN + timedelta(seconds=50), url=url)
    async with spine:
        await spine.advance(hours=1)
        assert len(spine.dead()) == 2
    assert max(times) == pytest.approx(120.0, abs=0.1)
