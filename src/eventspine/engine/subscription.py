"""A running subscription: records in, attempts at its handler, units out, verdicts back.

    admit ─▶ lanes ─▶ worker: decode, handle ─▶ committer ─▶ verdict ─▶ the key goes on
                          │ raised                             │ failed
                          └────────▶ again · park · die ◀──────┘

What may be lost when the process dies at any point here: nothing. The cursor moves in the unit that finishes an event,
parks it or gives it up, and in no other way."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ..envelope import Envelope
from ..errors import Fenced, SpineError, Undecodable
from ..journal.cursors import is_finished
from ..journal.port import WHOLE_FEED, Change, Delivery, Done, Fence, Put, Record, StartMark, State, Unit, Verdict
from ..journal.port import Subscription as Registered
from ..service import Handler
from .batches import BatchWorkers, run_one
from .calls import caller
from .careful import run_marked
from .lanes import Item, Lane, Lanes, Part, Stored
from .outcomes import Again, Die, Finish, Park, after_failure
from .workers import Workers

if TYPE_CHECKING:
    from ..observe.correlation import Cause
    from .host import Host

log = logging.getLogger("eventspine.engine")

WINDOW = 4096  # deliveries in memory at most; also what an unclean take-over may find handed out (R16)
BYTES_MAX = 64_000_000  # of their data
BEHIND_MAX = 10_000  # rows waiting behind parked keys; at the bound the subscription reads no further
TRACEBACK_MAX = 16_000
GIVEN_BACK_US = 10_000_000  # an event of a newer version is looked at again after this long
NEWER = "newer-version"
WAITS_FOR_WORD = 1 << 62  # dead, and its key waits until somebody replays or drops it


class Subscription:
    def __init__(self, handler: Handler, stored: Registered, host: Host) -> None:
        self.handler = handler
        self.host = host
        self.name = stored.name
        self.number = stored.number
        self.uid = stored.uid
        self.clock = host.clock
        self.journal = host.journal
        self.committer = host.committer
        self.lanes = Lanes()
        self.parts: dict[int, Part] = {}
        self.readers = {kind.name: kind for kind in handler.types}
        self.whole = handler.order == "feed"
        self.rows: dict[int, Delivery] = {}  # order="feed": rows of deliveries that the cursor stands before
        self.bytes = 0
        self.behind = 0
        self.handled = 0
        self.failures = 0
        self.progressed = host.clock.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self.marks: dict[tuple[int, int], tuple[int, int]] = {}  # (partition, position): started, started alone
        self.call = caller(self) if handler.batch is None else partial(run_one, self)
        self.workers = Workers(self) if handler.batch is None else BatchWorkers(self)
        self.update(stored)

    def update(self, stored: Registered) -> None:
        self.state = stored.state
        self.generation = stored.generation
        self.republish = stored.republish

    @property
    def resources(self) -> Any:
        return self.host.resources

    @property
    def capacity(self) -> int:
        """How many more records may be admitted now."""
        return 0 if self.bytes >= BYTES_MAX else WINDOW - self.lanes.size

    # --- admitting ----------------------------------------------------------------------------------------------

    def admit(self, records: Sequence[Record], scanned: int) -> None:
        parts, readers, lanes = self.parts, self.readers, self.lanes
        whole, keyed = self.whole, self.handler.order == "key"
        for record in records:
            part = parts.get(WHOLE_FEED if whole else record.slot & 15)
            position = record.position
            if part is None or position <= part.scanned or record.type not in readers:
                continue
            if part.beyond and is_finished(0, part.beyond, position):
                continue
            item = Item(record, part, part.last)
            part.last = position
            if part.careful:
                part.careful -= 1
                item.suspect = True
            self.bytes += len(record.data)
            if whole and self.rows:
                self._recall(item)
            key = WHOLE_FEED if whole else (record.channel, record.key) if keyed and record.key is not None else position
            if not lanes.add(item, key):
                self._store_behind(item)
        for part in parts.values():
            if scanned > part.scanned:
                part.scanned = scanned
        self.workers.wake()

    def _recall(self, item: Item) -> None:
        """Its row, if it was tried before: the attempts go on from there, and not before they are due."""
        row = self.rows.pop(_record(item).position, None)
        if row is not None:
            item.number, item.attempts, item.first_us, item.late = row.number, row.attempts, row.first_us, row.late
            item.waits = WAITS_FOR_WORD if row.state == "dead" else 0 if row.reason == NEWER else row.due_us or 0

    def refresh_whole(self, lane: Lane, known: dict[int, Delivery]) -> None:
        """order="feed": the delivery that the feed stands at was replayed, retried or dropped."""
        item = lane.next
        if item is None or not item.number:
            return
        row = known.get(item.number)
        if row is None:
            self.drop_whole(item)
        elif row.state == "parked":
            item.attempts, item.late, item.waits = row.attempts, row.late, row.due_us or 0
            self.lanes.hurry(lane)

    def drop_whole(self, item: Item) -> None:
        """Its row is gone: pass it."""
        item.lane.next, item.lane.taken = None, True
        item.part.taken += 1
        unit = Unit(fences=[Fence(item.part.lease, item.part.epoch)])
        self._finish_range(item, unit)
        self.committer.submit(unit, partial(self.verdict, item))

    def passed(self) -> None:
        """Finish what was read and not wanted, so that the cursor shows it."""
        for part in self.parts.values():
            if part.scanned > part.last and part.alive:
                done = Done(self.number, part.number, [(part.last, part.scanned)], self.generation)
                part.last = part.scanned
                self.committer.submit(Unit(fences=[Fence(part.lease, part.epoch)], done=[done]), self._passed)

    def _passed(self, verdict: Verdict) -> None:
        if verdict.kind == "fenced":
            self.host.reload(self)

    # --- one item -----------------------------------------------------------------------------------------------

    async def handle(self, item: Item) -> None:
        """One attempt, from a worker. Cancellation leaves the item as it is: unsettled."""
        if item.waits and item.waits > self.clock.now_us():
            self._wait(item)
        elif item.record is None and not await self.load(item):
            self.gone(item)
        elif item.suspect:
            await run_marked(self, item)
        else:
            await self.call(item)

    def _wait(self, item: Item) -> None:
        if item.waits == WAITS_FOR_WORD:
            self.lanes.hold(item)
        else:
            self.lanes.again(item, item.waits)
            self.plan()

    async def load(self, item: Item) -> bool:
        rows = await self.journal.deliveries(numbers=[item.number], states=["parked"])
        if not rows or rows[0].record is None:
            return False
        item.record = rows[0].record
        self.bytes += len(item.record.data)
        return True

    def decode(self, record: Record) -> Any:
        kind = self.readers[record.type]
        if kind.version_declared and record.version > kind.version:
            raise _Newer
        try:
            return kind.decode(record.data)
        except Undecodable:
            if record.version > kind.version:
                raise _Newer from None
            raise

    def record_of(self, event: Any, id: bytes, time: datetime | None, cause: Cause) -> Record:
        return self.host.record_of(event, id=id, time=time, cause=cause)

    def complete(self, item: Item, unit: Unit) -> None:
        """Add to the unit what says that this delivery is finished."""
        part = item.part
        unit.fences.append(Fence(part.lease, part.epoch))
        if item.number:
            unit.changes.append(Change(item.number, state="settled", attempts=item.attempts + 1))
        elif item.failure is not None:
            unit.puts.append(self._put(item, "settled", None, attempts=item.attempts + 1))
        self._finish_range(item, unit)

    def _finish_range(self, item: Item, unit: Unit) -> None:
        part = item.part
        if not item.number or part.number == WHOLE_FEED:
            position = _record(item).position
            unit.done.append(Done(self.number, part.number, [(item.after, position)], self.generation))
        if item.suspect:
            unit.starts.append(StartMark(self.number, part.number, _record(item).position, clear=True))

    def succeeded(self, item: Item, unit: Unit | None) -> None:
        """The handler returned; commit what it changed."""
        if unit is None and item.plain:
            self.committer.finish(self, item)
            return
        unit = unit or Unit()
        self.complete(item, unit)
        self.committer.submit(unit, partial(self.verdict, item))

    async def is_finished(self, item: Item) -> bool:
        """Whether the cursor, as committed, says so (or its row, where it has one)."""
        if item.number and not self.whole:
            rows = await self.journal.deliveries(numbers=[item.number], records=False)
            return not rows or rows[0].state == "settled"
        for cursor in await self.journal.cursors([self.number]):
            if cursor.partition == item.part.number:
                return is_finished(cursor.position, cursor.beyond, _record(item).position)
        return False

    def settled(self, item: Item) -> None:
        """The unit is durable."""
        self._settle_row(item)
        self._release(item)
        self._progress(1)

    # --- verdicts -----------------------------------------------------------------------------------------------

    def finished(self, items: Sequence[Item], verdict: Verdict) -> None:
        """The verdict on deliveries without effects."""
        if not verdict.ok:
            for item in items:
                self.verdict(item, verdict)
            return
        release = self.lanes.release
        for item in items:
            self.bytes -= len(item.record.data)  # type: ignore[union-attr]  # handled, so loaded
            release(item)
        self._progress(len(items))

    def verdict(self, item: Item, verdict: Verdict) -> None:
        if verdict.ok:
            self.settled(item)
        elif verdict.kind == "fenced":
            self.fenced(item)
        else:
            error = verdict.error or SpineError("the unit failed")
            self.failed(item, error.__cause__ if isinstance(error.__cause__, Exception) else error)

    def fenced(self, item: Item) -> None:
        """Somebody else owns this now: what the handler changed is dropped, and the owner handles it."""
        self.host.fenced += 1
        log.info("%s: %s is no longer ours; its effects were dropped", self.name, _name(item))
        self._release(item)
        self.host.reload(self)

    def _progress(self, count: int) -> None:
        self.handled += count
        self.progressed = self.clock.monotonic()
        self.workers.wake()
        self.host.room()

    def _release(self, item: Item) -> None:
        self.bytes -= len(item.record.data) if item.record is not None else 0
        self.lanes.release(item)
        self.workers.wake()
        self.plan()

    def _settle_row(self, item: Item) -> None:
        if item.number:
            kept = [stored for stored in item.lane.stored if stored.number != item.number]
            self._rows(len(kept) - len(item.lane.stored))
            item.lane.stored = kept

    def _rows(self, more: int) -> None:
        """Count the rows of keys that wait; at the bound, no more are added, and reading stops by itself."""
        self.behind += more
        self.lanes.full = self.behind >= BEHIND_MAX

    def gone(self, item: Item) -> None:
        """Its row was dropped, or settled by someone else."""
        self._settle_row(item)
        self._release(item)

    # --- failures -----------------------------------------------------------------------------------------------

    def failed(self, item: Item, error: BaseException) -> None:
        now_us = self.clock.now_us()
        if not item.part.alive:
            self._release(item)
            return
        if isinstance(error, _Newer):
            self._park(item, Park(now_us + GIVEN_BACK_US, NEWER), "", "")
            return
        if isinstance(error, Fenced):
            self.fenced(item)
            return
        item.attempts += 1
        item.first_us = item.first_us or now_us
        self.failures += 1
        handler = self.handler
        tables = (handler.errors, self.host.service.errors)
        outcome = after_failure(
            error, item.attempts, item.first_us, now_us, handler.retry, tables, self.clock.random
        )
        text, trace = _text(error)
        self._log(item, outcome, text)
        match outcome:
            case Again():
                item.failure = (type(error).__name__, text)
                self.lanes.again(item)
                self.workers.wake()
            case Park():
                self._park(item, outcome, text, trace)
            case Die(reason):
                self.die(item, reason, text, trace)
            case Finish(reason):
                item.failure = (f"dropped: {reason}", text)
                item.attempts -= 1
                self.succeeded(item, None)

    def _log(self, item: Item, outcome: object, text: str) -> None:
        what = {Again: "again at once", Park: "parked", Die: "dead", Finish: "dropped"}[type(outcome)]
        level = logging.ERROR if isinstance(outcome, Die) else logging.WARNING
        log.log(level, "%s: %s failed, attempt %d, %s: %s", self.name, _name(item), item.attempts, what, text)

    def _park(self, item: Item, park: Park, text: str, trace: str) -> None:
        item.failure = (park.reason, text)
        unit = self._stored_unit(item, "parked", park.due_us, text, trace, finishes=not self.whole)
        self.committer.submit(unit, partial(self._parked, item, park.due_us))

    def die(self, item: Item, reason: str, text: str, trace: str = "") -> None:
        item.failure = (reason, text)
        finishes = not (self.whole and self.handler.on_dead == "waits")
        unit = self._stored_unit(item, "dead", None, text, trace, finishes=finishes)
        self.committer.submit(unit, partial(self._died, item))

    def _stored_unit(
        self, item: Item, state: State, due_us: int | None, text: str, trace: str, *, finishes: bool
    ) -> Unit:
        unit = Unit(fences=[Fence(item.part.lease, item.part.epoch)])
        reason = item.failure[0] if item.failure else ""
        if item.number:
            unit.changes.append(
                Change(
                    item.number, state=state, attempts=item.attempts, deaths=item.deaths, due_us=due_us, reason=reason,
                    error=text, traceback=trace,
                )  # fmt: skip
            )
        else:
            unit.puts.append(self._put(item, state, due_us, attempts=item.attempts, trace=trace))
        if finishes:
            self._finish_range(item, unit)
        return unit

    def _put(self, item: Item, state: State, due_us: int | None, *, attempts: int, trace: str = "") -> Put:
        reason, text = item.failure or ("behind", "")
        record = _record(item)
        return Put(self.number, item.part.number, record, state, attempts, due_us, reason, text, trace, item.late)

    def _parked(self, item: Item, due_us: int, verdict: Verdict) -> None:
        if not verdict.ok:
            self._unstored(item, verdict)
            return
        item.number = item.number or verdict.numbers[0]
        if self.whole:
            item.waits = due_us
            self.lanes.again(item, due_us)
        else:
            self._keep(item).due_us = due_us
            self._hold_back(item.lane)
            self._release(item)
        self._progress(0)
        self.plan()

    def _died(self, item: Item, verdict: Verdict) -> None:
        if not verdict.ok:
            self._unstored(item, verdict)
            return
        item.number = item.number or verdict.numbers[0]
        if self.handler.on_dead == "goes_on":
            self.gone(item)
        elif self.whole:
            item.waits = WAITS_FOR_WORD
            self.lanes.hold(item)
        else:
            self._keep(item).dead = True
            self._hold_back(item.lane)
            self._release(item)
        self._progress(1)

    def _unstored(self, item: Item, verdict: Verdict) -> None:
        """A row could not be written, for a reason that asking again does not change."""
        if verdict.kind != "fenced":
            log.error("%s: %s could not be stored: %s", self.name, _name(item), verdict.error)
        self.fenced(item)

    def _keep(self, item: Item) -> Stored:
        for stored in item.lane.stored:
            if stored.number == item.number:
                break
        else:
            stored = Stored(item.number, _record(item).position, item.part, None)
            self.keep(item.lane, stored)
        stored.attempts, stored.deaths = item.attempts, item.deaths
        stored.first_us, stored.late = item.first_us, item.late
        return stored

    # --- queueing behind a key that waits -------------------------------------------------------------------------

    def keep(self, lane: Lane, stored: Stored) -> None:
        self.lanes.keep(lane, stored)
        self._rows(1)

    def _hold_back(self, lane: Lane) -> None:
        if not self.lanes.full:
            for item in self.lanes.behind(lane):
                self._store_behind(item)

    def _store_behind(self, item: Item) -> None:
        unit = self._stored_unit(item, "parked", None, "", "", finishes=True)
        self.committer.submit(unit, partial(self._stored_behind, item))

    def _stored_behind(self, item: Item, verdict: Verdict) -> None:
        lane = item.lane
        lane.pending -= 1
        self.lanes.size -= 1
        self.bytes -= len(_record(item).data)
        if verdict.ok and item.part.alive:
            self.keep(lane, Stored(verdict.numbers[0], _record(item).position, item.part, None))
        elif not verdict.ok:
            self.host.reload(self)
        self.lanes.proceed(lane)
        self._progress(0)
        self.plan()

    # --- time ---------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Have lanes woken when the next parked delivery is due; never before."""
        due_us = self.lanes.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_us is not None:
            wait_s = max(0.0, (due_us - self.clock.now_us()) / 1e6)
            self._timer = asyncio.get_running_loop().call_later(min(wait_s, 60.0), self._due)

    def _due(self) -> None:
        self._timer = None
        if self.lanes.wake(self.clock.now_us()):
            self.workers.wake()
        self.plan()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- for the host -------------------------------------------------------------------------------------------

    def drop(self, number: int) -> None:
        """This partition is no longer ours."""
        part = self.parts.pop(number, None)
        if part is not None:
            for item in self.lanes.forget(part):
                self.bytes -= len(item.record.data) if item.record is not None else 0

    @property
    def at_work(self) -> int:
        return sum(part.taken for part in self.parts.values())


class _Newer(Exception):
    """An event of a version that this process does not know: given back, not dead (R8)."""


def _record(item: Item) -> Record:
    assert item.record is not None, "an item is loaded before it is handled"
    return item.record


def _name(item: Item) -> str:
    record = _record(item)
    return f"{record.type} {Envelope(record).id} (key {record.key!r})"


def _text(error: BaseException) -> tuple[str, str]:
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}"[:2000], trace[-TRACEBACK_MAX:]
