"""Tumbling windows: how many, how much, per hour or day, with events that come late.

    HOURS = Tumbling(timedelta(hours=1), grace=timedelta(minutes=10), late="counted")

    @reports.projection(SalesByHour, OrderPlaced)            # class SalesByHour(View, key=("sku", "start")): ...
    def count(view: View[SalesByHour], event: OrderPlaced) -> None:
        if row := HOURS.row(view, event.sku):
            row.orders += 1

An event belongs to the window in which it happened. It is late when it was recorded here after that window's end and its
grace. Both times are stored with the event, so a view that is built anew, or looked at as of a position, has the same
late events as the first time, whatever the clock says by then; a mark that is moved by what was seen would have others when
the order is another. Recording times never go back along the feed, so nothing is added to a window behind a late event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import DeclarationError, ViewRefused

if TYPE_CHECKING:
    from .views import View

V = TypeVar("V")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATE = ("amended", "counted")


class Tumbling:
    """Windows of this length, one after the other, in UTC. The last column of the view's key, a str, is the window's start.

    `late="amended"`: a late event changes its window like any other, and raises its column `amended`.
    `late="counted"`: it only raises the column `late` of its window; what the window says stays as it was."""

    def __init__(
        self,
        every: timedelta,
        *,
        grace: timedelta = timedelta(0),
        late: Literal["amended", "counted"] = "amended",
    ) -> None:
        if every <= timedelta(0):
            raise DeclarationError(f"Tumbling({every!r}): a window has a length, such as timedelta(hours=1).")
        if grace < timedelta(0):
            raise DeclarationError(
                f"Tumbling(grace={grace!r}): that is how long after its end a window waits; not less than 0."
            )
        if late not in _LATE:
            raise DeclarationError(f'Tumbling(late={late!r}) is neither "amended" nor "counted".')
        self.every, self.grace, self.late = every, grace, late

    def start(self, time: datetime) -> str:
        """Of the window in which this happened: `2026-03-01T12:00:00Z`, which sorts as times do."""
        return _text(time - (time - _EPOCH) % self.every)

    def end(self, start: str) -> datetime:
        return datetime.fromisoformat(start) + self.every

    def is_final(self, start: str, now: datetime) -> bool:
        """Whether what is recorded from now on comes too late for this window."""
        return self.end(start) + self.grace <= now

    def row(self, view: View[V], *key: Any, at: datetime | None = None) -> V | None:
        """The row of the event's window, to be changed; None when it came too late, and was counted as that.

        `at`: when it happened, where a field of the event says so; else as its publisher said."""
        happened = view.happened if at is None else at
        if happened.tzinfo is None:
            raise ViewRefused(f"at={happened.isoformat()} has no time zone; a window begins at a time that has one.")
        start = self.start(happened)
        row = view.row(*key, start)
        if self.is_final(start, view.recorded):
            self._mark(row)
            if self.late == "counted":
                return None
        return row

    def _mark(self, row: Any) -> None:
        column = "amended" if self.late == "amended" else "late"
        if not hasattr(row, column):
            raise ViewRefused(
                f'{type(row).__name__} has no column {column!r}, in which late="{self.late}" says how many came late: '
                f"write {column}: int = 0."
            )
        setattr(row, column, getattr(row, column) + 1)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
