"""What the parent of `--processes` decides: pure, and asked here without a process."""

from __future__ import annotations

import pytest

from eventspine.cli.restarts import Again, AwaitChange, Ended, GiveUp, LockWatch, after_end

DIED = Ended(-9, started=True, lived_s=5)
FAILED = Ended(1, started=False, lived_s=0.2)


def decide(ended: Ended, troubles: int = 0, *, others: bool = False, reloads: bool = False):
    return after_end(ended, troubles, others_at_work=others, reloads=reloads)


def test_pauses_grow_while_it_keeps_dying():
    pauses, troubles = [], 0
    for _ in range(8):
        then = decide(DIED, troubles)
        pauses.append(then.after_s)
        troubles = then.troubles
    assert [0.5, 1, 2, 4, 8, 16, 30, 30] == pauses


def test_a_while_at_work_begins_anew():
    assert Again(0.5, 1) == decide(DIED._replace(lived_s=61), 6)


def test_one_that_was_told_to_end_is_replaced_at_once():
    assert Again(0.0, 0) == decide(Ended(0, started=True, lived_s=5))


def test_one_that_ends_well_again_and_again_is_not_a_hot_loop():
    assert Again(1.0, 2) == decide(Ended(0, started=True, lived_s=0.1), 1)


@pytest.mark.parametrize("troubles", [0, 1])
def test_a_start_that_fails_is_tried_again(troubles):
    assert Again(0.5 * 2**troubles, troubles + 1) == decide(FAILED, troubles)


def test_three_starts_that_fail_end_the_parent():
    assert GiveUp(1) == decide(FAILED, 2)
    assert GiveUp(3) == decide(FAILED._replace(code=3), 2)
    assert GiveUp(1) == decide(FAILED._replace(code=-11), 2), "killed by a signal"


def test_what_no_other_attempt_can_change_ends_it_at_once():
    assert GiveUp(2) == decide(FAILED._replace(code=2))


def test_not_while_others_are_at_work():
    assert Again(16.0, 6) == decide(FAILED._replace(code=2), 5, others=True)


def test_in_development_the_next_change_is_awaited():
    assert AwaitChange() == decide(FAILED._replace(code=2), 9, reloads=True)
    assert Again(0.5, 1) == decide(DIED, reloads=True)


def test_a_lock_that_changes_hands_or_is_written_under_is_not_held():
    watch = LockWatch()
    assert [0, 2, 0, 0, 3] == [
        watch.held_s(now, *seen)
        for now, seen in [(1, (7, 10, 1)), (3, (7, 10, 1)), (4, (7, 11, 1)), (5, (7, 11, 2)), (8, (7, 11, 2))]
    ]
