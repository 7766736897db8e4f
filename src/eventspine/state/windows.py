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

import dis
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import DeclarationError, ViewRefused

if TYPE_CHECKING:
    from .views import View, ViewType

V = TypeVar("V")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATE = ("amended", "counted")


class Tumbling:
    """Windows of this length, one after the other, in UTC. The last column of the view's key, a str, is the window's start.

    `late="amended"`: a late event changes its window like any other, and raises its column `amended`.
    `late="counted"`: it only raises the column `late` of its window; what the window says stays as it was."""

    if TYPE_CHECKING:

        def __init__(
            self,
            every: timedelta,
            *,
            grace: timedelta = timedelta(0),
            late: Literal["amended", "counted"] = "amended",
        ) -> None: ...

    else:

        def __init__(self, *every: Any, grace: Any = timedelta(0), late: Any = "amended", **unknown: Any) -> None:
            every = (*every, unknown.pop("every")) if "every" in unknown else every
            _check(every, grace, late, unknown)
            (self.every,), self.grace, self.late = every, grace, late

    every: timedelta
    grace: timedelta
    late: str
    _fits: type | None = None  # the class of the last row that was looked at, and has its column

    @property
    def column(self) -> str:
        """Which says how many came late."""
        return "amended" if self.late == "amended" else "late"

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
        if type(row) is not self._fits:
            self._look_at(row)
        if self.is_final(start, view.recorded):
            self._mark(row)
            if self.late == "counted":
                return None
        return row

    def _mark(self, row: Any) -> None:
        setattr(row, self.column, getattr(row, self.column) + 1)

    def _look_at(self, row: Any) -> None:
        """With its first event, and not with the first that is late."""
        if not hasattr(row, self.column):
            raise ViewRefused(self._lacking(type(row).__name__))
        self._fits = type(row)

    def _lacking(self, view: str) -> str:
        return (
            f'{view} has no column {self.column!r}, in which Tumbling(..., late="{self.late}") says how many came late: write '
            f"{self.column}: int = 0."
        )

    def check(self, where: str, view: ViewType) -> None:
        """Raises DeclarationError for a view that can't have these windows."""
        kinds = {column.name: column.kind for column in view.columns}
        if kinds.get(self.column) != "integer":
            raise DeclarationError(f"{where}: {self._lacking(view.where)}", view=view.name)
        if kinds[view.key[-1]] != "text":
            raise DeclarationError(
                f"{where}: the last column of the key of {view.where}, {view.key[-1]!r}, is to be the start of a window, and so a "
                f"str: key=(..., {view.key[-1]!r}), and {view.key[-1]}: str.",
                view=view.name,
            )


def check_windows(where: str, view: ViewType, function: Callable[..., Any]) -> None:
    """Of the windows that a projection asks for rows, as far as its code says by what name: HOURS.row(...)."""
    for windows in _windows_of(function):
        windows.check(where, view)


def _windows_of(function: Callable[..., Any]) -> Iterator[Tumbling]:
    plain = inspect.unwrap(function)
    try:
        known = inspect.getclosurevars(plain)
    except (TypeError, ValueError):  # no function of Python's, or a name in it that has no value yet
        return
    names = {**known.globals, **known.nonlocals}
    for loaded, asked in pairwise(dis.get_instructions(plain)):
        found = names.get(loaded.argval) if isinstance(loaded.argval, str) else None
        if isinstance(found, Tumbling) and asked.argval == "row":
            yield found


def _check(every: tuple[Any, ...], grace: Any, late: Any, unknown: dict[str, Any]) -> None:
    if unknown or len(every) != 1 or not isinstance(every[0], timedelta):
        told = [*map(repr, every), *(f"{name}={value!r}" for name, value in unknown.items())]
        raise DeclarationError(
            f"Tumbling({', '.join(told)}) takes one length, a timedelta, and grace= and late=: Tumbling(timedelta(hours=1), "
            "grace=timedelta(minutes=10))."
        )
    if every[0] <= timedelta(0):
        raise DeclarationError(f"Tumbling({every[0]!r}): a window has a length, such as timedelta(hours=1).")
    if not isinstance(grace, timedelta) or grace < timedelta(0):
        raise DeclarationError(
            f"Tumbling(grace={grace!r}): that is how long after its end a window waits, such as timedelta(minutes=10); not less "
            "than 0."
        )
    if late not in _LATE:
        raise DeclarationError(f'Tumbling(late={late!r}) is neither "amended" nor "counted".')


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
