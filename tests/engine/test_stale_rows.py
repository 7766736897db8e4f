"""Rows are read while handlers go on; what is read late must not undo what is known since, nor be forgotten."""

from __future__ import annotations

import asyncio

from eventspine import Service, Spine
from eventspine.engine.lanes import Lane, Part, Stored
from eventspine.engine.loading import _refresh
from eventspine.journal.port import Delivery

from .material import Placed, subscription, until


def row(attempts: int, due_us: int) -> Delivery:
    return Delivery(7, 1, 0, 3, 0, "ann", "parked", attempts, 0, due_us, "Broken", "", "", False, 0, 0, None)


def test_a_row_read_before_its_last_attempt_was_stored_does_not_take_the_count_back() -> None:
    lane, stored = Lane("ann"), Stored(7, 3, Part(0, "lease", 1, 0, [], 1, 0), 200)
    stored.attempts = 2
    lane.stored = [stored]

    assert not _refresh(lane, {7: row(1, 100)}, set())
    assert (2, 200) == (stored.attempts, stored.due_us)


def waits_soon(spine: Spine) -> Lane:
    """As if a row had been loaded just now, due in a moment, of the key that a handler has in hand."""
    one = subscription(spine)
    lane = one.lanes.lane(("orders", "ann"))
    assert lane.taken
    one.waiting.keep(lane, Stored(99, 99, next(iter(one.parts.values())), one.clock.now_us() + 20_000))
    one.lanes.proceed(lane)
    one.plan()
    return lane


async def test_a_row_that_came_while_its_key_was_in_hand_is_taken_up_when_due(spine: Spine) -> None:
    service, go_on = Service("email"), asyncio.Event()

    @service.on(Placed)
    async def waits(event: Placed) -> None:
        await go_on.wait()

    async with spine.running(service):
        await spine.publish(Placed())
        await until(lambda: subscription(spine).lanes.taken)
        lane = waits_soon(spine)
        go_on.set()
        await until(lambda: not lane.stored, "the row is looked for, and gone")


async def test_and_so_when_what_was_in_hand_is_given_back(spine: Spine) -> None:
    service = Service("email")

    @service.on(Placed)
    async def note(event: Placed) -> None: ...

    async with spine.running(service):
        one = subscription(spine)
        await until(lambda: one.parts)
        one.workers.halt()
        await spine.publish(Placed())
        await until(lambda: one.lanes.ready)
        item = one.lanes.take()
        assert item is not None
        lane = waits_soon(spine)
        assert one._timer is None
        one.back([item])
        assert one._timer is not None
        one.workers.start()
        await until(lambda: not lane.stored)
