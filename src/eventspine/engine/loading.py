"""Loading: what a subscription needs to know when it gets partitions, and when rows were changed from outside.

Cursors, deliveries that wait, and start marks are read before the first record is admitted, so that nothing overtakes
what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ..journal.cursors import is_finished
from ..journal.port import OWN_FEED, WHOLE_FEED, Cursor, Delivery, Fence, Lease, StartMark, Unit
from .lanes import Lane, Part, Stored

if TYPE_CHECKING:
    from .subscription import Subscription

NEWER = "newer-version"  # the reason of a delivery given back because this process is too old for it
ROWS = 1000
SUSPECTS = 2048  # deliveries that a dead owner may have handed out, per subscription and partition (R16)


@lru_cache(maxsize=4096)  # every beat asks it of every partition that is held
def partition_of(lease: str) -> int:
    """By the name of its lease."""
    return int(lease.rpartition("/")[2])


async def adopt(subscriptions: Sequence[Subscription], leases: Sequence[Lease]) -> None:
    """Take up these partitions where the cursor stands."""
    if not subscriptions:
        return
    journal = subscriptions[0].journal
    cursors = {
        (cursor.subscription, cursor.partition): cursor
        for cursor in await journal.cursors([one.number for one in subscriptions])
        if cursor.feed == OWN_FEED
    }
    for one in subscriptions:
        marks = await journal.starts(one.number)
        found: list[tuple[Lease, Cursor]] = []
        for lease in leases:
            number = partition_of(lease.name)
            cursor = cursors.get((one.number, number))
            if (number == WHOLE_FEED) == one.whole and cursor is not None:
                found.append((lease, cursor))
        # A feed may stand at what was to wait when it died: if it is to go on by now, it still is not handled again unasked.
        rows = await _rows(one, [cursor.partition for _, cursor in found], dead=one.whole)
        waiting = {(row.partition, row.position) for row in rows} if marks else set()
        for lease, cursor in found:
            part = one.parts[cursor.partition] = _part(one, lease, cursor)
            _suspect(one, part, {place: mark for place, mark in marks.items() if place[0] == part.number}, waiting)
            if lease.unclean or part.careful:
                part.careful, one.suspects = True, SUSPECTS
        whole = next((cursor for _, cursor in found if one.whole), None)
        attach(one, rows, whole)


def _part(one: Subscription, lease: Lease, cursor: Cursor) -> Part:
    position, beyond = cursor.position, list(cursor.beyond)
    return Part(cursor.partition, lease.name, lease.epoch, position, beyond, one.generation, scanned=position)


Place = tuple[int, int]  # partition, position


def _suspect(one: Subscription, part: Part, marks: Mapping[Place, tuple[int, int]], waiting: set[Place]) -> None:
    """What was in hand when the owner before died. A mark of what is finished, and has no row that waits, is nobody's any more: who
    made it was no longer the owner when it came to its end."""
    for place, mark in marks.items():
        if place not in waiting and is_finished(part.last, part.beyond, place[1]):
            gone = StartMark(one.number, *place, times=0)
            one.committer.submit(Unit(fences=[Fence(part.lease, part.epoch)], starts=[gone]), lambda _: None)
        else:
            one.marks[place] = mark
            part.careful = True


async def _rows(one: Subscription, partitions: Sequence[int], *, dead: bool = False) -> list[Delivery]:
    """Rows that keep a key waiting, without their data."""
    rows: list[Delivery] = []
    dead = dead or one.handler.on_dead == "waits"
    while partitions:
        page = await one.journal.deliveries(
            subscriptions=[one.number],
            states=["parked", "dead"] if dead else ["parked"],
            partitions=partitions,
            after=rows[-1].number if rows else 0,
            limit=ROWS,
        )
        rows += [row._replace(record=row.record and row.record._replace(data=b"")) for row in page]
        if len(page) < ROWS:
            break
    return rows


def attach(one: Subscription, rows: Iterable[Delivery], whole: Cursor | None) -> None:
    """`whole`: under order="feed", where the cursor stands, if any of these may be parked though it has passed them."""
    lanes: dict[Lane, set[int]] = {}  # and the rows that each has already
    changed: list[Lane] = []
    for row in rows:
        part = one.parts.get(row.partition)
        if part is None:
            continue
        if one.whole and not _passed(whole, row):
            one.waiting.rows[row.position] = row
            continue
        if row.state == "dead" and one.whole:
            continue
        lane = _lane(one, row)
        if lane not in lanes:
            lanes[lane] = {stored.number for stored in lane.stored}
        if row.number not in lanes[lane]:
            one.waiting.keep(lane, _stored(row, part))
            changed.append(lane)
    one.lanes.hurry(changed)
    one.workers.wake()
    one.plan()


def _passed(whole: Cursor | None, row: Delivery) -> bool:
    """Whether the feed has gone on without it, so that it is handled from its row: else it comes again where the cursor stands."""
    return whole is not None and is_finished(whole.position, whole.beyond, row.position)


def _lane(one: Subscription, row: Delivery) -> Lane:
    if one.whole:
        return one.lanes.lane(WHOLE_FEED)
    keyed = row.key is not None and one.handler.order == "key" and row.record is not None
    return one.lanes.lane((row.record.channel, row.key) if keyed and row.record else row.position)


async def look_at_rows(one: Subscription) -> None:
    """Replayed, retried and dropped deliveries: rows that others have changed."""
    before = one.waiting.numbers()
    rows = await _rows(one, list(one.parts))
    whole = await _whole(one, rows)
    known = {row.number: row for row in rows}
    at_work = {item.number for item in one.workers.in_hand()}
    gone = before - known.keys() - at_work  # what has parked since is no part of the answer, and stays
    lanes = list(one.lanes.lanes.values())
    if one.whole:
        for lane in lanes:
            one.waiting.refresh_whole(lane, known, gone)
    one.lanes.hurry([lane for lane in lanes if _refresh(lane, known, gone)])
    one.waiting.recount()
    one.waiting.looks += 1
    attach(one, [row for row in rows if row.number not in at_work], whole)


async def _whole(one: Subscription, rows: Iterable[Delivery]) -> Cursor | None:
    """Read after the rows: one that the cursor passed in between has been settled, and is not found when its turn comes."""
    if not one.whole or not any(row.state == "parked" for row in rows):
        return None
    cursors = await one.journal.cursors([one.number])
    return next((cursor for cursor in cursors if (cursor.feed, cursor.partition) == (OWN_FEED, WHOLE_FEED)), None)


def _refresh(lane: Lane, known: dict[int, Delivery], gone: set[int]) -> bool:
    """Whether its rows are others than they were."""
    kept = [stored for stored in lane.stored if stored.number not in gone or lane.taken]
    changed = len(kept) < len(lane.stored)
    lane.stored = kept
    for stored in kept:
        row = known.get(stored.number)
        if row is None or row.reason == NEWER:  # given back: its time is this process's own matter
            continue
        if row.attempts < stored.attempts:  # read before the last attempt was stored
            continue
        if (row.due_us, row.state == "dead") != (stored.due_us, stored.dead):
            stored.due_us, stored.dead, stored.late = row.due_us, row.state == "dead", stored.late or row.late
            stored.attempts = row.attempts
            changed = True
    return changed


def _stored(row: Delivery, part: Part) -> Stored:
    due_us = 0 if row.reason == NEWER else row.due_us
    stored = Stored(row.number, row.position, part, due_us)
    stored.dead = row.state == "dead"
    stored.attempts, stored.deaths = row.attempts, row.deaths
    stored.first_us = row.first_us if row.attempts else 0  # it only waited behind another: its time has not begun
    stored.late = row.late or part.number == WHOLE_FEED
    stored.suspect = part.careful
    return stored
