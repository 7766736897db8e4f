"""Many deliveries that wait: what is done for each must not grow with their number, or the loop stands still."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from eventspine.engine.lanes import Lane, Lanes, Part, Stored

MANY = 20_000
PART = Part(0, "mail//0", 1, 0, [], 1, 0)


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def waiting_lanes() -> tuple[Lanes, list[Lane]]:
    lanes = Lanes()
    for number in range(MANY):
        lane = lanes.lane(number)
        lanes.keep(lane, Stored(number, number, PART, due_us=1_000_000 + number))
        lanes.proceed(lane)
    return lanes, list(lanes.lanes.values())


@pytest.mark.parametrize("due_us", [5, None])
def test_many_keys_are_planned_anew_at_once(due_us: int | None) -> None:
    """As when an operator has them all tried again. One by one it took eleven seconds, and with them the leases."""
    lanes, several = waiting_lanes()
    for lane in several:
        lane.stored[0].due_us = due_us
    assert seconds(lambda: lanes.hurry(several)) < 1.0
    lanes.wake(10)
    taken = [item for _ in range(MANY) if (item := lanes.take())]
    assert [item.number for item in taken] == list(range(MANY))


def test_who_is_ready_already_is_not_made_ready_twice() -> None:
    lanes, several = waiting_lanes()
    lanes.wake(2_000_000)
    lanes.hurry(several[:2])
    assert len(lanes.ready) == MANY


def test_many_rows_of_one_key_are_kept_in_their_order() -> None:
    lanes = Lanes()
    lane = lanes.lane("ann")

    def keep() -> None:
        for number in range(MANY):
            lanes.keep(lane, Stored(number, number, PART, due_us=None))

    assert seconds(keep) < 1.0
    lanes.keep(lane, Stored(MANY, 7, PART, due_us=None))
    assert [stored.position for stored in lane.stored[6:10]] == [6, 7, 7, 8], "a late one goes to its place"
