"""Rows are read while handlers go on; what is read late must not undo what is known since."""

from __future__ import annotations

from eventspine.engine.lanes import Lane, Part, Stored
from eventspine.engine.loading import _refresh
from eventspine.journal.port import Delivery


def row(attempts: int, due_us: int) -> Delivery:
    return Delivery(7, 1, 0, 3, 0, "ann", "parked", attempts, 0, due_us, "Broken", "", "", False, 0, 0, None)


def test_a_row_read_before_its_last_attempt_was_stored_does_not_take_the_count_back() -> None:
    lane, stored = Lane("ann"), Stored(7, 3, Part(0, "lease", 1, 0, [], 1), 200)
    stored.attempts = 2
    lane.stored = [stored]

    assert not _refresh(lane, {7: row(1, 100)}, set())
    assert (2, 200) == (stored.attempts, stored.due_us)


def test_a_replayed_row_counts_from_the_beginning() -> None:
    lane, stored = Lane("ann"), Stored(7, 3, Part(0, "lease", 1, 0, [], 1), None)
    stored.attempts, stored.dead = 5, True
    lane.stored = [stored]

    assert _refresh(lane, {7: row(0, 100)}, set())
    assert (0, False) == (stored.attempts, stored.dead)
