"""The memory journal: the same promises as on disk, but for durability, in one process and without threads.

A commit applies at once and in order, so concurrent committers are serialised by the event loop alone. It has no time
or randomness of its own: both come from its clock, and the same calls give the same journal. Several spines of one
process may share one MemoryJournal; it is closed when each that opened it has closed it, and keeps what it holds.
It has no tables: whoever hands it SQL is told to use a SQLite journal.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NoReturn

from ..clock import Clock, SystemClock
from ..errors import JournalError, SettingsError, UnitFailed
from . import _memory_control as control, _memory_retention as retention
from ._memory_retention import there
from ._memory_tables import Tables
from ._memory_units import NO_SQL, commit_unit, rings
from ._records import Wanted, filter_of
from .asking import check_cut, check_names, check_number
from .cursors import Range
from .cutting import begins_later
from .port import (
    OWN_FEED,
    Backup,
    ChannelSize,
    Control,
    Cursor,
    Deleted,
    Delivery,
    Fence,
    Keep,
    Lease,
    LeaseView,
    Noted,
    Page,
    Process,
    Record,
    Registered,
    Registration,
    State,
    StreamCut,
    StreamHead,
    Subscription,
    Sweep,
    Timer,
    Transaction,
    Unit,
    Verdict,
)
from .retention import said

PAGE_BYTES_MAX = 4 * 1024 * 1024
WINDOW_MIN = 2048  # how many records a page with filters may pass over; the loop is not held for longer


class MemoryJournal:
    incarnation = "1"
    sql, dialect = False, ""
    backups = False

    def __init__(self, clock: Clock | None = None, url: str = "memory://") -> None:
        self.clock = clock or SystemClock()
        self.url = url
        self.id = self.clock.entropy(16).hex()
        self._tables = Tables()
        self._opened = 0
        self._watchers: dict[object, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}
        self._ringing: set[object] = set()

    def exists(self) -> bool:
        return self._opened > 0

    async def open(self) -> None:
        self._opened += 1

    async def close(self) -> None:
        self._opened = max(0, self._opened - 1)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        return self._commit(units)

    def _commit(self, units: Sequence[Unit]) -> list[Verdict]:
        tables, now_us = self._live(), self.clock.now_us()
        verdicts, news = [], False
        for unit in units:
            verdict = commit_unit(tables, unit, now_us)
            verdicts.append(verdict)
            news = news or (verdict.kind == "done" and rings(unit))
        if news:
            self._ring()
        return verdicts

    async def begin(self, limit_s: float) -> Transaction:
        _refuse_sql()

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        raise SettingsError(
            "The memory journal has no connection to write on, for within= or delivery.join(). Use a journal on the database of your "
            'connection, such as sqlite:///spine.db; in a test, testing.spine(..., url=f"sqlite:///{tmp_path}/spine.db") on the file of your '
            "connection. Or publish without within=, and change rows with delivery.execute() (testing.spine(..., sql=True))."
        )

    async def fire(self, now_us: int, limit: int) -> int:
        records = self._live().take_due(now_us, limit)
        if records:
            self._tables.append(records, self.clock.now_us())
            self._ring()
        return len(records)

    async def control(self, operations: Sequence[Control]) -> int:
        changed = control.carry_out(self._live(), operations, self.clock.now_us())
        if changed:
            self._ring()
        return changed

    # --- who does the work ------------------------------------------------------------------------------------------

    async def register(self, registration: Registration, now_us: int) -> Registered:
        before = self._live().control
        registered = control.register(self._tables, registration, now_us, self.clock.entropy)
        if self._tables.control != before:
            self._ring()
        return registered

    async def lease(
        self, process: Process, take: Sequence[str], release: Sequence[str], now_us: int, until_us: int
    ) -> LeaseView:
        tables = self._live()
        if control.lease(tables, process._replace(until_us=until_us), take, release, now_us):
            self._ring()  # somebody else may be waiting for what was given back
        return LeaseView(
            {name: held for name, held in tables.leases.items() if held.owner == process.id},
            [row for row in tables.processes.values() if row.service == process.service and row.until_us > now_us],
            tables.control,
        )

    async def leave(self, process: Process) -> None:
        control.leave(self._live(), process)
        self._ring()

    # --- reading the feed -------------------------------------------------------------------------------------------

    async def head(self) -> int:
        return len(self._live().feed)

    async def feed(
        self,
        after: int,
        *,
        limit: int,
        upto: int | None = None,
        channels: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        types: Sequence[str] | None = None,
        private: bool = False,
    ) -> Page:
        feed = self._live().feed
        end = min(len(feed), after + max(limit, WINDOW_MIN), len(feed) if upto is None else upto)
        window = there(feed[after:end]) if self._tables.holes else feed[after:end]
        wanted = filter_of(Wanted(channels, partitions, types, private))
        records = list(islice(filter(wanted, window), limit))
        if window and self._tables.feed_bytes[end] - self._tables.feed_bytes[after] > PAGE_BYTES_MAX:
            records, cut = _bounded(records)
            if cut:
                return Page(records, records[-1].position)
        if len(records) == limit:
            return Page(records, records[-1].position)
        return Page(records, max(after, end), end < len(feed))

    async def position_at(self, time_us: int) -> int:
        return self._live().position_at(time_us)

    async def stream(
        self, service: str, stream: str, *, after: int = 0, limit: int = 1000, folded: bool = False
    ) -> list[Record]:
        check_names(service, stream)
        check_number("after", after)
        check_number("limit", limit)
        tables = self._live()
        positions = tables.streams.get((service, stream), [])[after : after + limit]
        if positions and not positions[0]:
            raise begins_later(service, stream, tables.first(service, stream))
        return [tables.feed[position - 1] for position in positions]

    async def streams(self, service: str | None, after: tuple[str, str], limit: int) -> list[StreamHead]:
        check_names(service, *after)
        check_number("limit", limit)
        there = sorted(self._live().streams.items())
        wanted = (row for row in there if row[0] > after and service in (None, row[0][0]) and row[1])
        feed = self._live().feed
        return [
            StreamHead(*name, len(positions), feed[positions[-1] - 1].type) for name, positions in islice(wanted, limit)
        ]

    async def stream_version(self, service: str, stream: str) -> int:
        check_names(service, stream)
        return len(self._live().streams.get((service, stream), ()))

    async def event(self, id: bytes) -> Record | None:
        position = self._live().by_id.get(id)
        return self._tables.feed[position - 1] if position else None

    async def correlated(self, correlation: str, limit: int = 10_000) -> list[Record]:
        tables = self._live()
        positions = list(tables.by_correlation.get(correlation, ()))
        if first := tables.by_id.get(_id_of(correlation)):
            positions = sorted({first, *positions})
        return [tables.feed[position - 1] for position in positions[:limit]]

    # --- reading the rest -------------------------------------------------------------------------------------------

    async def subscriptions(self, service: str | None = None) -> list[Subscription]:
        rows = self._live().subscriptions.values()
        return [row for row in rows if service in (None, row.service)]

    async def cursors(self, subscriptions: Sequence[int]) -> list[Cursor]:
        tables = self._live()
        return [
            Cursor(number, partition, position, list(beyond), feed)
            for number in subscriptions
            for (feed, partition), (position, beyond) in tables.cursors.get(number, {}).items()
        ]

    async def deliveries(
        self,
        *,
        subscriptions: Sequence[int] | None = None,
        states: Sequence[State] | None = None,
        partitions: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        events: Sequence[bytes] | None = None,
        after: int = 0,
        limit: int = 1000,
        records: bool = True,
    ) -> list[Delivery]:
        stored = self._live().deliveries
        asked = stored if numbers is None else sorted(set(numbers) & stored.keys())
        rows = (
            row if records else row._replace(record=None)
            for row in (stored[number] for number in asked if number > after)
            if (subscriptions is None or row.subscription in subscriptions)
            and (states is None or row.state in states)
            and (partitions is None or row.partition in partitions)
            and (events is None or (row.record and row.record.id in events))
        )
        return list(islice(rows, limit))

    async def starts(self, subscription: int) -> dict[tuple[int, int], tuple[int, int]]:
        return {
            (partition, position): mark
            for (owner, feed, partition), marks in self._live().starts.items()
            if (owner, feed) == (subscription, OWN_FEED)
            for position, mark in marks.items()
        }

    async def marks(self, subscription: int, origin: str, channel: str) -> dict[int, tuple[int, Sequence[Range]]]:
        slots = self._live().marks.get((subscription, origin, channel), {})
        return {slot: (upto, list(beyond)) for slot, (upto, beyond) in sorted(slots.items())}

    async def notes(
        self, service: str, kind: str, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1000
    ) -> list[Noted]:
        kept = self._live().notes.get((service, kind), {})
        wanted = sorted(kept if keys is None else set(keys) & kept.keys())
        return [Noted(key, *kept[key][:2]) for key in wanted if keys is not None or key > after][:limit]

    async def control_version(self) -> int:
        return self._live().control

    async def next_due(self) -> int | None:
        return self._live().next_due()

    async def timers(self, limit: int = 1000) -> list[Timer]:
        return sorted(self._live().timers.values(), key=lambda timer: (timer.due_us, timer.record.id))[:limit]

    async def processes(self) -> list[Process]:
        return list(self._live().processes.values())

    async def leases(self) -> list[Lease]:
        return list(self._live().leases.values())

    async def declarations(self, service: str) -> list[tuple[int, str]]:
        return list(self._live().generations.get(service, ()))

    async def describe(self) -> dict[str, str | int | None]:
        tables = self._live()
        return {
            "kind": "memory",
            "id": self.id,
            "durability": "nothing: it ends with its process",
            "data_bytes": tables.feed_bytes[-1] - tables.deleted_bytes,
            **retention.facts(tables, self.clock.now_us()).described(),
        }

    # --- growth -----------------------------------------------------------------------------------------------------

    async def keep(self, service: str, channels: Mapping[str, int | None], now_us: int) -> None:
        tables = self._live()
        tables.keeps = list(said(tables.keeps, service, channels, now_us) or tables.keeps)

    async def keeps(self) -> list[Keep]:
        return list(self._live().keeps)

    async def sweep(self, channel: str, *, after: int, upto: int, limit: int, fence: Fence | None = None) -> Sweep:
        return retention.sweep(self._live(), channel, after, upto, limit, fence)

    async def deleted(self) -> list[Deleted]:
        return [row for _, row in sorted(self._live().deleted.items())]

    async def cut(self, service: str, stream: str, *, before: int, expected: int | None = None) -> StreamCut:
        check_cut(service, stream, before, expected)
        return retention.cut(self._live(), service, stream, before, expected)

    async def cut_off(self) -> list[Deleted]:
        return list(self._live().cut_off)

    async def channel_sizes(self) -> list[ChannelSize]:
        return retention.channel_sizes(self._live())

    async def backup(
        self, target: Path, *, force: bool = False, progress: Callable[[str, float], None] | None = None
    ) -> Backup:
        raise SettingsError(
            "The memory journal ends with its process, and can't be copied. Use a SQLite journal to keep what happens."
        )

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        _refuse_sql()

    async def run_tables(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        raise SettingsError(f"{service} has tables of its own. {NO_SQL}", service=service)

    # --- waking up --------------------------------------------------------------------------------------------------

    def lock_holder(self) -> tuple[int, int] | None:
        return None

    def waiting_since(self) -> float | None:
        return None

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self._watchers[key] = (asyncio.get_running_loop(), changed)
        return lambda: self._watchers.pop(key, None) and None

    def _ring(self) -> None:
        """Each watcher once, however many commits come before its loop turns. It may stop watching meanwhile."""
        for key, (loop, _) in self._watchers.items():
            if key not in self._ringing and not loop.is_closed():
                self._ringing.add(key)
                loop.call_soon(self._wake, key)

    def _wake(self, key: object) -> None:
        self._ringing.discard(key)
        if watcher := self._watchers.get(key):
            watcher[1]()

    def _live(self) -> Tables:
        if not self._opened:
            raise JournalError(
                "The journal is not open. Open it first, or keep its spine open for as long as it is used."
            )
        return self._tables


def _refuse_sql() -> NoReturn:
    raise UnitFailed(NO_SQL)


def _bounded(records: list[Record]) -> tuple[list[Record], bool]:
    """At most some megabytes of them, and at least one."""
    sizes = accumulate(len(record.data) for record in records)
    fitting = max(1, sum(size <= PAGE_BYTES_MAX for size in sizes))
    return records[:fitting], fitting < len(records)


def _id_of(correlation: str) -> bytes:
    try:
        return uuid.UUID(correlation).bytes
    except ValueError:
        return correlation.encode()  # a foreign id, that was no UUID when it came in
