"""Schedules: which times they have, what of them was missed, and what is refused where it is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from eventspine import Delivery, Service
from eventspine.errors import DeclarationError, MissingExtra
from eventspine.schedules import ALL_MAX, GRACE_US, Cron, Every, Missed, Schedule, Step, next_step, schedule_of

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
BERLIN = ZoneInfo("Europe/Berlin")


def us(*when: int, zone: Any = UTC, fold: int = 0) -> int:
    return round(datetime(*when, tzinfo=zone, fold=fold).timestamp() * 1e6)  # type: ignore[arg-type, misc]


def told(schedule: Schedule, since: int, count: int) -> list[str]:
    found = []
    for _ in range(count):
        since = schedule.after(since)
        found.append(f"{datetime.fromtimestamp(since / 1e6, BERLIN):%d %H:%M%z}")
    return found


# --- which times ------------------------------------------------------------------------------------------------------


@given(st.integers(10**6, 10**13), st.integers(0, 4 * 10**15), st.integers(1, 1000))
def test_every_has_the_multiples_of_its_interval_whoever_asks(interval: int, now: int, count: int) -> None:
    schedule = Every(interval)
    due = schedule.after(now)
    assert (due % interval, due > now, due - interval <= now) == (0, True, True)
    assert schedule.back(now, count) == due - count * interval


LINES = ["* * * * *", "*/7 * * * *", "0 3 * * *", "30 2 * * *", "0 2,3 * * *", "*/30 */2 * * *", "15 10 * * MON-FRI"]


@given(
    st.sampled_from(LINES),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe"]),
    st.integers(us(2026, 1, 1), us(2027, 1, 1)),
    st.integers(1, 5),
)
def test_the_times_of_a_cron_line_ascend_and_the_way_back_meets_the_same_ones(
    line: str, zone: str, now: int, count: int
) -> None:
    schedule = Cron(line, zone)
    then, times = now - 12 * DAY, list[int]()
    while (then := schedule.after(then)) <= now:
        assert not times or then > times[-1]
        times.append(then)
    assert schedule.back(now, count) == times[-count]


def test_an_hour_that_is_skipped_or_comes_twice_is_as_with_debians_cron() -> None:
    spring, autumn = us(2026, 3, 29, 0, 50, zone=BERLIN), us(2026, 10, 25, 0, 50, zone=BERLIN)
    fixed, running = Cron("30 2 * * *", "Europe/Berlin"), Cron("*/30 * * * *", "Europe/Berlin")
    assert told(fixed, spring, 2) == ["29 03:00+0200", "30 02:30+0200"], "at once after the gap"
    assert told(fixed, autumn, 2) == ["25 02:30+0200", "26 02:30+0100"], "once"
    assert told(running, spring, 3) == ["29 01:00+0100", "29 01:30+0100", "29 03:00+0200"]
    assert told(running, autumn, 6)[2:] == ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100"]


def test_in_the_second_of_two_equal_hours_no_time_of_the_first_is_given() -> None:
    second = us(2026, 10, 25, 2, 45, zone=BERLIN, fold=1)
    assert told(Cron("50 2 * * *", "Europe/Berlin"), second, 1) == ["26 02:50+0100"]


@pytest.mark.parametrize("schedule", [Every(90 * MINUTE), Cron("0 3 * * MON", "Europe/Berlin")])
def test_a_stored_rule_is_read_as_it_was(schedule: Schedule) -> None:
    assert schedule_of(schedule.spec) == schedule


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Every(5 * MINUTE), "every 5 minutes"),
        (Every(HOUR), "every hour"),
        (Every(HOUR + 30 * MINUTE), "every 1 hour 30 minutes"),
        (Every(1_500_000), "every 1.5 seconds"),
        (Every(DAY), "every day"),
        (Cron("0 3 * * *"), "cron 0 3 * * *"),
        (Cron("0 3 * * *", "Europe/Berlin"), "cron 0 3 * * * (Europe/Berlin)"),
    ],
)
def test_a_rule_is_told_in_words(schedule: Schedule, words: str) -> None:
    assert schedule.words == words


# --- what was missed --------------------------------------------------------------------------------------------------

NOON = us(2026, 6, 1, 12)


@pytest.mark.parametrize("missed", ["once", "all", "skip"])
@pytest.mark.parametrize("schedule", [Every(HOUR), Cron("0 * * * *")])
def test_nothing_is_due_before_its_time_and_one_run_at_its_time(schedule: Schedule, missed: Missed) -> None:
    assert next_step(schedule, missed, NOON, NOON + HOUR - 1) is None
    assert next_step(schedule, missed, NOON, NOON + HOUR) == Step(NOON + HOUR, NOON + HOUR)


@pytest.mark.parametrize("schedule", [Every(HOUR), Cron("0 * * * *")])
def test_of_missed_runs_one_is_made_or_all_in_order_or_none(schedule: Schedule) -> None:
    now = NOON + 3 * HOUR + GRACE_US + 1
    last = NOON + 3 * HOUR
    assert next_step(schedule, "once", NOON, now) == Step(last, last)
    assert next_step(schedule, "all", NOON, now) == Step(NOON + HOUR, NOON + HOUR)
    assert next_step(schedule, "skip", NOON, now) == Step(None, last)
    assert next_step(schedule, "skip", NOON, now - 1) == Step(last, last), "a minute is what a deploy takes"


@pytest.mark.parametrize("schedule", [Every(MINUTE), Cron("* * * * *")])
def test_all_is_bounded_by_the_newest_thousand(schedule: Schedule) -> None:
    def first(count: int) -> int:
        step = next_step(schedule, "all", NOON, NOON + count * MINUTE)
        assert step is not None and step.tick == step.upto
        return (step.upto - NOON) // MINUTE

    assert [first(ALL_MAX - 1), first(ALL_MAX), first(ALL_MAX + 1), first(3 * ALL_MAX)] == [1, 1, 2, 2 * ALL_MAX + 1]


# --- what is refused --------------------------------------------------------------------------------------------------

shop: Service[Any] = Service("shop")


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: shop.every(seconds=0.5), "a second at least"),
        (shop.every, "a second at least"),
        (lambda: shop.every(minutes=-5), "a second at least"),
        (lambda: shop.every(weeks=10**9), "a hundred years at most"),
        (lambda: shop.every(days=10**400), "a hundred years at most"),
        (lambda: shop.every(minute=5), "shop.every: no such option: minute. Known: .*hours, minutes, "),  # type: ignore[call-arg]
        (lambda: shop.every(minutes="5"), "minutes='5' is not a number"),  # type: ignore[arg-type]
        (lambda: shop.every(hours=float("nan")), "is not a number"),
        (lambda: shop.every(lambda: None), r"in parentheses: @shop.every\(minutes=5\)"),  # type: ignore[arg-type]
        (lambda: shop.every(timedelta(hours=1), minutes=5), r"@shop.every\(minutes=5\) or"),
        (lambda: shop.every(minutes=5, missed="never"), "none of 'once', 'all' and 'skip'"),  # type: ignore[arg-type]
        (lambda: shop.cron("61 * * * *"), "its minute field is wrong"),
        (lambda: shop.cron("0 25 * * *"), "its hour field is wrong"),
        (lambda: shop.cron("0 0 31 2 *"), "no month of these has such a day"),
        (lambda: shop.cron("0 3 * *"), "has five fields .* this one has 4"),
        (lambda: shop.cron(""), "this one has 0"),
        (lambda: shop.cron("@daily"), r"write '0 0 \* \* \*'"),
        (lambda: shop.cron(lambda: None), "takes a cron line"),  # type: ignore[arg-type]
        (lambda: shop.cron("0 3 * * *", zone="Europe/Entenhausen"), "knows no time zone 'Europe/Entenhausen'"),
        (lambda: shop.cron("0 3 * * *", zone="../etc/passwd"), "knows no time zone"),
        (lambda: shop.cron("0 3 * * *", zone=UTC), "not the name of a time zone"),  # type: ignore[arg-type]
        (lambda: shop.cron("0 3 * * *", missed=True), "none of 'once'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_schedule_is_refused_where_it_is_written(declare: Callable[[], Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declare()


def two(one: int, other: int) -> None: ...
def giving() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("options", "function", "says"),
    [
        ({}, two, r"shop.two takes 2 arguments; .* delivery.time"),
        ({}, giving, "has a yield in it"),
        ({}, 7, r"@shop.every\(...\) stands above a function"),
        ({"concurrency": 2}, lambda: None, "no such option: concurrency"),
        ({"name": "x", "timeout_s": 0}, lambda: None, "timeout_s above 0"),
        ({"name": "x", "retry": 3}, lambda: None, r"retry=Retry\(attempts=3\)"),
        ({"name": "shop.x"}, lambda: None, "name='x'"),
        ({"name": "x", "on_dead": "stops"}, lambda: None, "on_dead='stops' must be 'goes_on' or 'waits'"),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused(options: Any, function: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        shop.every(hours=1, **options)(function)


def test_a_name_is_taken_once_by_handlers_of_any_kind() -> None:
    service: Service[Any] = Service("twice")
    service.every(hours=1, name="tidy")(lambda: None)
    with pytest.raises(DeclarationError, match="has a handler named 'tidy' already"):
        service.cron("0 3 * * *", name="tidy")(lambda: None)


def test_without_the_extra_cron_lines_say_what_to_install_and_intervals_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)  # what an import finds that is not there
    with pytest.raises(MissingExtra, match=r'pip install "eventspine\[cron\]"'):
        shop.cron("0 3 * * *")
    assert shop.every(hours=1)


def test_decorators_give_the_function_back() -> None:
    service: Service[Any] = Service("tidying")

    @service.every(hours=1)
    async def tidy(delivery: Delivery) -> None: ...

    @service.cron("0 3 * * *")
    def report() -> None: ...

    assert (tidy.__name__, report.__name__, list(service.handlers)) == ("tidy", "report", ["tidy", "report"])
    assert [handler.is_async for handler in service.handlers.values()] == [True, False]


def test_included_handlers_are_those_of_the_service_that_includes_them() -> None:
    part, whole = Service[None]("part"), Service[None]("whole")
    part.every(hours=1, name="tidy")(lambda: None)
    whole.include(part)
    assert [kind.name for kind in whole.handlers["tidy"].types] == ["whole.tidy/tick"]
