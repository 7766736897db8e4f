"""The rows of a run: what a projection holds in its hand while it goes through some hundred events.

A row is read once for the run, changed in memory, and written once, if it has changed. Which rows a run needs is known
only when the projection asks for them, and it is a plain function that waits for nothing. So it is called until it needs
nothing more: `row(...)` of one that is not in memory ends that call, its key is noted, all that were noted are read in one
go, and the run begins again. A projection may therefore be called several times for one event; of all calls but the last
nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..clock import time_of
from ..envelope import Envelope
from ..errors import SpineError, ViewRefused
from ..journal.port import Record, Statement
from ..keys import key_text
from .views import ViewType

Key = tuple[Any, ...]
Values = tuple[Any, ...]
_ABSENT: Any = object()


class Missing(BaseException):
    """A row is not in memory yet. No error: `except Exception` in a projection must not take it for one."""


def _no_record(_: Any) -> Record:
    raise SpineError("The projection has returned; when an event happened is asked while it is handled.")


class Rows:
    """What a projection is given: `View[...]` in its signature."""

    def __init__(self, view: ViewType, table: str, *, sql: bool, everything: bool = False) -> None:
        self._view = view
        self._table = table
        self._sql = sql  # whether there is a table
        self._everything = everything  # what is not in memory is nowhere
        self._known: dict[Key, Values | None] = {}  # as committed; None: there is no such row
        self._live: dict[Key, Any] = {}  # as this run has them; None: deleted
        self._statements: list[Statement] = []
        self._tenant: Any = None
        self._lane: str | None = None
        self.wanted: dict[Key, None] = {}
        self.current: Any = None  # the event whose turn it is
        self.record_of: Callable[[Any], Record] = _no_record
        self._one = view.columns[0].store if len(view.key) == 1 else None

    # --- what a projection says -------------------------------------------------------------------------------------

    @property
    def table(self) -> str:
        """The table of this version, for SQL of one's own."""
        return self._table

    @property
    def happened(self) -> datetime:
        """When the event happened, as its publisher said."""
        return Envelope(self.record_of(self.current)).time

    @property
    def recorded(self) -> datetime:
        """When the event was recorded in this journal. It never goes back along the feed."""
        return time_of(self.record_of(self.current).recorded_us)

    def row(self, *key: Any) -> Any:
        """The row of this key, to be changed; with its defaults if there is none, and then it is there."""
        at = self._at(key)
        found = self._live.get(at, _ABSENT)
        if found is _ABSENT:
            values = self._committed(at)
            found = self._live[at] = self._view.fresh(at) if values is None else self._view.load(values)
        elif found is None:
            found = self._live[at] = self._view.fresh(at)
        return found

    def get(self, *key: Any) -> Any:
        """The row of this key, to be changed, or None."""
        at = self._at(key)
        found = self._live.get(at, _ABSENT)
        if found is _ABSENT:
            values = self._committed(at)
            if values is None:
                return None
            found = self._live[at] = self._view.load(values)
        return found

    def delete(self, *key: Any) -> None:
        """Delete the row of this key, if there is one."""
        self._live[self._at(key)] = None

    def execute(self, sql: str, /, *, expect_rows: int | None = None, **parameters: Any) -> None:
        """Run this SQL in the unit: for projections that would rather write than read. `{table}` in the text stands for
        the table of this version."""
        if not self._sql:
            raise ViewRefused(
                f"{self._view.where} is in memory here, and has no SQL. Use view.row(...), or a journal with tables.",
                view=self._view.name,
            )
        self._statements.append(Statement(sql.replace("{table}", self._table), parameters, expect_rows))

    # --- for the run --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Everything as it was committed."""
        self._live.clear()
        self._statements.clear()

    def turn_to(self, tenant: Any, lane: str | None) -> None:
        """The event whose turn it is: its tenant, and its key where that is all it may touch."""
        self._tenant = tenant
        self._lane = lane

    def found(self, rows: Mapping[Key, Values]) -> None:
        """What there was of the rows that were wanted."""
        for key in self.wanted:
            self._known[key] = rows.get(key)
        self.wanted.clear()

    def changes(self) -> tuple[list[Values], list[Key]]:
        """Rows to write, and keys to delete."""
        written: list[Values] = []
        deleted: list[Key] = []
        store, known, parts = self._view.store, self._known, len(self._view.key)
        for key, row in self._live.items():
            if row is None:
                if known.get(key, _ABSENT) is not None:
                    deleted.append(key)
                continue
            values = store(row)
            if values[:parts] != key:
                raise ViewRefused(
                    f"A row of {self._view.where} has another key than it was asked for by: {values[:parts]} instead of {key}. "
                    "Delete it, and write the one with the other key.",
                    view=self._view.name,
                )
            if values != known.get(key):
                written.append(values)
        self._check_one_way(written, deleted)
        return written, deleted

    @property
    def statements(self) -> Sequence[Statement]:
        return self._statements

    @property
    def live(self) -> Mapping[Key, Any]:
        return self._live

    # --- inside -----------------------------------------------------------------------------------------------------

    def _at(self, key: Sequence[Any]) -> Key:
        if self._one is not None and len(key) == 1 and self._view.tenant is None:
            try:
                at: Key = (self._one(key[0]),)
            except (TypeError, ValueError):
                at = self._view.key_of(key)
        else:
            at = self._view.key_of(key, self._tenant)
        if self._lane is not None:
            self._check_lane(at)
        return at

    def _check_lane(self, at: Key) -> None:
        """Rows of different keys are changed side by side, so no two of them may change the same."""
        lane = self._lane or ""
        text = key_text([part if isinstance(part, int) else str(part) for part in at])
        if text != lane and not text.startswith(f"{lane}:"):
            raise ViewRefused(
                f'With order="key" an event of {lane!r} can\'t touch the row {text!r} of {self._view.where}: events of another key '
                'may be changing it now. Begin the key of the view with that of its events, or leave out order="key".',
                view=self._view.name,
                key=lane,
            )

    def _committed(self, at: Key) -> Values | None:
        values = self._known.get(at, _ABSENT)
        if values is _ABSENT:
            if self._everything:
                return None
            self.wanted[at] = None
            raise Missing
        return values  # type: ignore[no-any-return]

    def _check_one_way(self, written: list[Values], deleted: list[Key]) -> None:
        if self._statements and (written or deleted):
            raise ViewRefused(
                f"A projection of {self._view.where} both changes rows and executes SQL; rows are written when the run is over, so "
                "which of the two came first would be lost. Do it one way.",
                view=self._view.name,
            )
