"""Tumbling windows: an event belongs to the window in which it happened, and one that comes too late is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventspine import Event, Service, Spine, Tumbling, View, testing
from eventspine.errors import DeclarationError, ViewRefused
from eventspine.journal.port import Journal

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Sold(Event, context="shop", key="sku"):
    sku: str = "tea"
    units: int = 1
    at: datetime | None = None


class Amended(View, key=("sku", "start")):
    sku: str
    start: str
    units: int = 0
    amended: int = 0


class Counted(View, key=("sku", "start")):
    sku: str
    start: str
    units: int = 0
    late: int = 0


def service(view: type[Any], windows: Tumbling) -> Service[Any]:
    reports: Service[Any] = Service("reports")

    @reports.projection(view, Sold)
    def count(view: View[Any], event: Sold) -> None:
        if row := windows.row(view, event.sku, at=event.at):
            row.units += event.units

    return reports


async def windows_of(spine: Any, view: type[Any]) -> dict[str, Any]:
    return {row.start: row for row in await spine.view(view).all()}


async def sold(view: type[Any], windows: Tumbling, *times: datetime) -> tuple[dict[str, Any], Any]:
    """What each hour sold when events that happened at these times were all recorded at noon."""
    async with testing.spine(service(view, windows), start=NOON) as spine:
        for time in times:
            await spine.publish(Sold(), time=time)
        await spine.idle()
        then = await spine.view(view).as_of(await spine.journal.head())
        found = await windows_of(spine, view)
        assert {row.start: row for row in then.all()} == found  # whenever it is folded
        return found, spine


async def test_an_event_belongs_to_the_hour_in_which_it_happened() -> None:
    found, _ = await sold(Amended, Tumbling(HOUR), NOON, NOON + timedelta(minutes=59, seconds=59.999999), NOON + HOUR)
    assert {start: row.units for start, row in found.items()} == {"2026-03-01T12:00:00Z": 2, "2026-03-01T13:00:00Z": 1}
    assert {row.amended for row in found.values()} == {0}


@pytest.mark.parametrize(
    ("grace", "late"),
    [(timedelta(0), True), (timedelta(minutes=59), True), (HOUR, True), (timedelta(minutes=61), False)],
)
async def test_an_event_is_late_when_it_is_recorded_after_the_window_s_end_and_its_grace(
    grace: timedelta, late: bool
) -> None:
    at = NOON - 2 * HOUR  # its window ended an hour ago
    found, _ = await sold(Amended, Tumbling(HOUR, grace=grace), at)
    row = found["2026-03-01T10:00:00Z"]
    assert (row.units, row.amended) == (1, int(late))


async def test_a_late_event_is_counted_and_what_the_window_says_stays_as_it_was() -> None:
    found, _ = await sold(Counted, Tumbling(HOUR, late="counted"), NOON - HOUR, NOON)
    assert [(row.units, row.late) for row in found.values()] == [(0, 1), (1, 0)]


async def test_a_view_built_anew_a_year_later_has_the_same_late_events(journal: Callable[[], Journal]) -> None:
    """Recorded and happened are stored with the event: what is late does not depend on when it is folded."""
    shop: Service[Any] = Service("shop")
    now = datetime.now(UTC)
    first = service(Counted, Tumbling(HOUR, grace=timedelta(minutes=5), late="counted"))
    async with Spine(journal(), service=shop) as spine:
        await spine.publish(Sold(), time=now - timedelta(days=1))
        receipt = await spine.publish(Sold(), time=now)
        async with spine.running(first):
            await spine.view(Counted).wait(receipt, timeout_s=20)
        found = sorted((row.units, row.late) for row in await spine.view(Counted).all())
        await asyncio.sleep(0)
        then = await spine.view(Counted).as_of(2)
    assert found == [(0, 1), (1, 0)] == sorted((row.units, row.late) for row in then.all())


async def test_a_field_of_the_event_may_say_when_it_happened() -> None:
    async with testing.spine(service(Amended, Tumbling(HOUR)), start=NOON) as spine:
        await spine.publish(Sold(at=NOON + 5 * HOUR))
        await spine.idle()
        assert list(await windows_of(spine, Amended)) == ["2026-03-01T17:00:00Z"]


@pytest.mark.parametrize("minutes", [1, 15, 60, 24 * 60])
def test_windows_meet_without_a_gap_and_begin_in_utc(minutes: int) -> None:
    windows = Tumbling(timedelta(minutes=minutes), grace=timedelta(minutes=3))
    start = windows.start(NOON + timedelta(minutes=7, microseconds=1))
    assert windows.start(windows.end(start)) == windows.start(windows.end(start) + timedelta(microseconds=1))
    assert windows.start(windows.end(start) - timedelta(microseconds=1)) == start
    assert not windows.is_final(start, windows.end(start))
    assert windows.is_final(start, windows.end(start) + timedelta(minutes=3))
    assert windows.start(datetime(1969, 12, 31, 23, 59, tzinfo=UTC)) < "1970"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tumbling(timedelta(0)),
        lambda: Tumbling(HOUR, grace=-HOUR),
        lambda: Tumbling(HOUR, late="dropped"),  # type: ignore[arg-type]
        Tumbling,
        lambda: Tumbling(3600),  # type: ignore[arg-type]
        lambda: Tumbling(None),  # type: ignore[arg-type]
        lambda: Tumbling(hours=1),  # type: ignore[call-arg]
        lambda: Tumbling(HOUR, HOUR),  # type: ignore[misc]
        lambda: Tumbling(HOUR, every=HOUR),  # type: ignore[misc]
        lambda: Tumbling(HOUR, grace=600),  # type: ignore[arg-type]
        lambda: Tumbling(HOUR, late=[]),  # type: ignore[arg-type]
        lambda: Tumbling(HOUR, gracious=HOUR),  # type: ignore[call-arg]
    ],
)
def test_windows_that_can_t_be_are_refused_where_they_are_declared(make: Callable[[], Any]) -> None:
    with pytest.raises(DeclarationError):
        make()


def test_windows_may_be_named() -> None:
    assert HOUR == Tumbling(every=HOUR).every


async def test_a_view_without_the_column_for_late_events_says_which() -> None:
    class Bare(View, key=("sku", "start")):
        sku: str
        start: str
        units: int = 0

    with pytest.raises(DeclarationError, match=r"reports\.count: Bare has no column 'late', .*: write late: int = 0"):
        service(Bare, Tumbling(HOUR, late="counted"))
    with pytest.raises(DeclarationError, match="write amended: int = 0"):
        service(Bare, Tumbling(HOUR))


async def test_a_view_whose_windows_are_not_seen_in_its_code_is_found_with_its_first_event() -> None:
    class Bare(View, key=("sku", "start")):
        sku: str
        start: str
        units: int = 0

    reports: Service[Any] = Service("reports")
    hidden = [Tumbling(HOUR, late="counted")]

    @reports.projection(Bare, Sold)
    def count(view: View[Bare], event: Sold) -> None:
        hidden[0].row(view, event.sku)

    async with testing.spine(reports, start=NOON) as spine:
        await spine.publish(Sold())  # in time
        with pytest.raises(ViewRefused, match="write late: int = 0"):
            await spine.idle()


def test_a_view_whose_key_does_not_end_with_the_start_of_a_window_is_refused() -> None:
    class Numbered(View, key=("sku", "start")):
        sku: str
        start: int
        units: int = 0
        amended: int = 0

    with pytest.raises(DeclarationError, match="'start', is to be the start of a window, and so a str"):
        service(Numbered, Tumbling(HOUR))


def test_windows_of_which_no_row_is_asked_are_nobodys_business() -> None:
    class Plain(View, key="start"):
        start: str
        units: int = 0

    reports: Service[Any] = Service("reports")
    hours = Tumbling(HOUR)

    @reports.projection(Plain, Sold)
    def count(view: View[Plain], event: Sold) -> None:
        view.row(hours.start(view.happened)).units += 1


def test_happened_and_recorded_are_no_columns() -> None:
    for name in ("happened", "recorded"):
        with pytest.raises(DeclarationError, match="choose another name"):
            type(View)("Bad", (View,), {"__annotations__": {"a": int, name: int}, "a": 0, name: 0}, key="a")
