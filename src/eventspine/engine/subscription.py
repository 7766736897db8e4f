"""A running subscription: records in, attempts at its handler, units out, verdicts back.

    admit ─▶ lanes ─▶ worker: decode, handle ─▶ committer ─▶ verdict ─▶ the key goes on
                          │ raised                             │ failed
                          └────────▶ again · park · die ◀──────┘

What may be lost when the process dies at any point here: nothing. The cursor moves in the unit that finishes an event,
parks it or gives it up, and in no other way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ..clock import Alarm, Clock
from ..errors import Fenced, SpineError, Undecodable
from ..journal.cursors import is_finished
from ..journal.port import (
    WHOLE_FEED,
    Change,
    Done,
    Fence,
    Journal,
    Record,
    StartMark,
    Subscription as Registered,
    Unit,
    Verdict,
)
from ..journal.registry import unknown
from ..publishing import Speaker
from ..service import Handler
from .batches import BatchWorkers, run_one
from .calls import attempt, caller
from .careful import run_marked
from .failures import culprit, name_of, record_of
from .lanes import Item, Lanes, Part
from .loading import SUSPECTS
from .waiting import Newer, Waiting
from .workers import Workers

if TYPE_CHECKING:
    from ..observe.correlation import Cause
    from .host import Host


WINDOW = SUSPECTS  # deliveries in memory at most, per subscription
BYTES_MAX = 64_000_000  # of their data


class Subscription:
    def __init__(self, handler: Handler, stored: Registered, host: Host) -> None:
        self.handler = handler
        self.host = host
        self.name = stored.name
        self.number = stored.number
        self.uid = stored.uid
        self.clock: Clock = host.clock
        self.journal: Journal = host.journal
        self.committer = host.committer
        channels = {kind.context for kind in handler.types}
        self.lanes: Lanes = Lanes(host.broker.shuffle if len(channels) > 1 else None)
        self.parts: dict[int, Part] = {}
        self.readers = {name: kind for kind in handler.types for name in kind.names}
        self.decoders = {
            name: (kind.decode, kind.version if kind.version_declared else None, kind.version)
            for name, kind in self.readers.items()
        }
        self.whole = handler.order == "feed"
        self.bytes = 0
        self.handled = 0
        self.progressed = host.clock.monotonic()
        self._timer: Alarm | None = None
        self.waiting = Waiting(self)
        self.suspects = 0  # how many more records an owner that died may have had in hand (R16)
        self.marks: dict[tuple[int, int], tuple[int, int]] = {}  # (partition, position): started, started alone
        self.follows = True  # an event may be handled before the one before it in its key is stored
        self.invoke, self.with_delivery = caller(self)
        self.call = partial(attempt if handler.batch is None else run_one, self)
        self.workers = Workers(self) if handler.batch is None else BatchWorkers(self)
        self.update(stored)

    def update(self, stored: Registered) -> None:
        self.state = stored.state
        self.generation = stored.generation
        self.republish = stored.republish
        # A newer release has widened its filter: run by this code, it would pass what that one wants (R8).
        self.outdated = bool(unknown(stored, self.readers))

    @property
    def active(self) -> bool:
        return self.state == "active" and not self.outdated

    @property
    def waits_for_dead(self) -> bool:
        return self.handler.on_dead == "waits"

    @property
    def resources(self) -> Any:
        return self.host.resources

    @property
    def capacity(self) -> int:
        """How many more records may be admitted now."""
        return 0 if self.bytes >= BYTES_MAX else WINDOW - self.lanes.size

    # --- admitting ----------------------------------------------------------------------------------------------

    def admit(self, records: Sequence[Record], scanned: int) -> None:
        parts, readers, add = self.parts, self.readers, self.lanes.add
        now = self.clock.monotonic()
        whole, keyed = self.whole, self.handler.order == "key"
        size = 0
        for record in records:
            # By number, as in all that is done for every event: a tuple's names cost several times as much.
            position = record[0]
            part = parts.get(WHOLE_FEED if whole else record[3] & 15)
            if part is None or position <= part.scanned or record[5] not in readers:
                continue
            if part.beyond and is_finished(0, part.beyond, position):
                continue
            item = Item(record, part, part.last)
            part.last = position
            size += len(record[14])
            if part.careful and self.suspects:
                self.suspects -= 1
                item.suspect, item.plain, item.single = True, False, (part.number, position) in self.marks
            if whole and self.waiting.rows:
                self.waiting.recall(item)
            key = WHOLE_FEED if whole else (record[2], record[4]) if keyed and record[4] is not None else position
            if not add(item, key):
                self.waiting.store_behind(item)
        self.bytes += size
        for part in parts.values():
            if scanned > part.scanned:
                part.scanned = scanned
                self.progressed = now
        self.workers.wake()

    def passed(self) -> None:
        """Finish what was read and not wanted, so that the cursor shows it: of all partitions in one unit."""
        done: list[tuple[Part, Done]] = []
        for part in self.parts.values():
            if part.scanned > part.last and part.alive:
                done.append((part, Done(self.number, part.number, [(part.last, part.scanned)], part.generation)))
                part.last = part.scanned
        if done:
            self._pass(done)

    def _pass(self, done: Sequence[tuple[Part, Done]]) -> None:
        unit = Unit(fences=[Fence(part.lease, part.epoch) for part, _ in done], done=[one for _, one in done])
        self.committer.submit(unit, partial(self._passed, done))

    def _passed(self, done: Sequence[tuple[Part, Done]], verdict: Verdict) -> None:
        """If one of several is no longer ours, each is asked by itself: the others are."""
        if verdict.kind != "fenced":
            return
        if len(done) == 1:
            self.host.load_missing(self)
            return
        for one in done:
            self._pass([one])

    # --- one item -----------------------------------------------------------------------------------------------

    async def handle(self, item: Item) -> None:
        """One attempt, from a worker. Cancellation leaves the item as it is: unsettled."""
        if item.waits and item.waits > self.clock.now_us():
            self.waiting.wait(item)
        elif item.record is None and not await self.load(item):
            return
        elif item.suspect:
            await run_marked(self, item)
        else:
            await self.host.runtime.gate.opened()
            await self.call(item)

    async def load(self, item: Item) -> bool:
        """False: it is not to be handled after all, and is in hand no more."""
        looks = self.waiting.looks
        rows = await self.journal.deliveries(numbers=[item.number], states=["parked", "dead"])
        if not rows or rows[0].record is None:
            self.gone(item)
            return False
        if rows[0].state == "dead":
            self.waiting.still_dead(item, looks)
            return False
        item.record = rows[0].record
        self.bytes += len(item.record.data)
        return True

    def decode(self, record: Record) -> Any:
        decode, newest, known = self.decoders[record.type]
        if newest is not None and record.version > newest:
            raise Newer
        if record.version < known:
            return self.readers[record.type].read(record.data, record.version)
        try:
            return decode(record.data)
        except Undecodable:
            if record.version > known:
                raise Newer from None
            raise

    def record_of(self, event: Any, id: bytes, time: datetime | None, cause: Cause) -> Record:
        return self.host.record_of(event, id=id, time=time, cause=cause)

    @property
    def speaker(self) -> Speaker:
        return Speaker(self.host.publisher, self.host.middleware)

    def complete(self, item: Item, unit: Unit) -> None:
        """Add to the unit what says that this delivery is finished."""
        part = item.part
        unit.fences.append(Fence(part.lease, part.epoch))
        if item.number:
            unit.changes.append(Change(item.number, state="settled", attempts=item.attempts + 1))
        elif item.failure is not None:
            unit.puts.append(self.waiting.put(item, "settled", None, item.attempts + 1))
        self.finish_range(item, unit)

    def finish_range(self, item: Item, unit: Unit) -> None:
        part = item.part
        if not item.of_row:
            position = record_of(item).position
            unit.done.append(Done(self.number, part.number, [(item.after, position)], part.generation))
        if item.suspect:
            unit.starts.append(StartMark(self.number, part.number, record_of(item).position, times=0))

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
        if item.of_row:
            rows = await self.journal.deliveries(numbers=[item.number], records=False)
            return not rows or rows[0].state == "settled"
        for cursor in await self.journal.cursors([self.number]):
            if cursor.partition == item.part.number:
                return is_finished(cursor.position, cursor.beyond, record_of(item).position)
        return False

    def settled(self, item: Item) -> None:
        """The unit is durable."""
        item.mark = None
        if item.number:
            self.waiting.settle(item)
        self.release(item)
        self.progress(1)

    # --- verdicts -----------------------------------------------------------------------------------------------

    def finished(self, items: Sequence[Item], verdict: Verdict) -> None:
        """The verdict on deliveries without effects. None of them can have failed: if they could not be stored, that is an
        error of the engine's, and they are loaded again."""
        if not verdict.ok:
            self.lanes.refused(items)
            if verdict.kind != "fenced":
                self.workers.stumbled(items, verdict.error or SpineError("what was handled could not be stored"))
                return
            for item in items:
                self.fenced(item)
            return
        self.bytes -= self.lanes.release_all(items)
        self.progress(len(items))
        self.plan()

    def verdict(self, item: Item, verdict: Verdict) -> None:
        if verdict.ok:
            self.waiting.repeated(item, verdict)
            self.settled(item)
        elif verdict.kind == "fenced" and _row_changed(item, verdict):
            self.finished_by_another(item)
        elif verdict.kind == "fenced":
            self.fenced(item)
        else:
            self.waiting.failed(item, culprit(self, verdict.error or SpineError("the unit failed")))

    def finished_by_another(self, item: Item) -> None:
        self.host.fenced += 1
        self.waiting.say(
            item, logging.INFO, "%s: %s was settled by somebody else; its effects were dropped", name_of(item)
        )
        self.gone(item)

    def fenced(self, item: Item) -> None:
        """Somebody else owns this now: what the handler changed is dropped, and the owner handles it."""
        self.host.fenced += 1
        self.waiting.say(item, logging.INFO, "%s: %s is no longer ours; its effects were dropped", name_of(item))
        self._load_again(item)

    def comes_again(self, item: Item) -> None:
        """What it follows in its key was refused, or was not stored yet when it joined a transaction: nothing is wrong with it."""
        said = "%s: %s is handled again, since what comes before it in its key was not stored yet; its effects were dropped"
        self.waiting.say(item, logging.INFO, said, name_of(item))
        self._load_again(item)

    def _load_again(self, item: Item) -> None:
        self.release(item)
        if item.part.alive:  # else it is known already, and loaded anew
            self.drop(item.part.number)
            self.host.load_missing(self)

    def progress(self, count: int) -> None:
        self.handled += count
        self.progressed = self.clock.monotonic()
        self.workers.wake()
        self.host.room()
        if self.handler.schedule is not None:
            self.host.runtime.periodic.happened()

    def release(self, item: Item) -> None:
        if item.mark is not None:  # else the unit that finished it took the mark along
            self.waiting.unsuspect(item)
        self.bytes -= len(item.record.data) if item.record is not None else 0
        self.lanes.release(item)
        self.workers.wake()
        self.plan()

    def back(self, items: list[Item]) -> None:
        """Items of a run that were not handled after all."""
        self.bytes -= sum(len(item.record.data) for item in items if item.forgotten and item.record is not None)
        self.lanes.back(items)
        self.plan()  # rows of theirs may have been loaded while they were in hand

    def gone(self, item: Item) -> None:
        """Its row was dropped, or settled by someone else."""
        if item.number:
            self.waiting.settle(item)
        self.release(item)

    # --- time ---------------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Have lanes woken when the next parked delivery is due; never before."""
        due_us = self.lanes.next_due()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_us is not None:
            self._timer = self.clock.call_at(due_us, self._due)

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
            self.waiting.recount()

    @property
    def at_work(self) -> int:
        """Handed out, verdict pending; also what was handed out before a partition was given up or loaded again."""
        return self.lanes.taken


def _row_changed(item: Item, verdict: Verdict) -> bool:
    """Its row was dropped while it was handled. Nothing else of the partition is concerned."""
    return item.of_row and isinstance(verdict.error, Fenced) and verdict.error.details.get("delivery") == item.number
