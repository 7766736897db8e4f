"""Which numbered messages are new: what was not settled at a queue may come again after what followed it."""

from __future__ import annotations

from eventspine.engine.arrivals import Arrivals

LANE = ("origin", 7)


def test_of_a_log_whatever_comes_first_is_where_a_lane_begins() -> None:
    arrivals = Arrivals[str](ordered=True)
    assert arrivals.judge(LANE, 3) == "new"
    assert arrivals.take(LANE, 3) == (0, 3)
    assert arrivals.judge(LANE, 2) == "known"


def test_of_a_queue_only_while_nobody_else_had_it_and_what_comes_after_all_is_taken_late() -> None:
    """Another process may have fetched the first ones, and they come again when it is gone."""
    arrivals = Arrivals[str](ordered=True, queue=True)
    assert arrivals.judge(LANE, 3) == "early"
    assert arrivals.judge(LANE, 3, first_owner=True) == "new"
    assert arrivals.take(LANE, 3) == (2, 3)
    assert arrivals.judge(LANE, 2) == "late"
    assert arrivals.judge(LANE, 4) == "new"


def test_what_is_early_waits_for_what_is_before_it() -> None:
    arrivals = Arrivals[str](ordered=True, queue=True)
    assert arrivals.hold(LANE, 2, "b", 0.0) is None
    assert arrivals.hold(LANE, 2, "b again", 0.0) == "b"
    assert arrivals.judge(LANE, 1) == "new"
    arrivals.take(LANE, 1)
    assert arrivals.next_of(LANE) == (2, "b")


def test_a_lane_whose_beginning_never_comes_goes_on_after_a_while() -> None:
    arrivals = Arrivals[str](ordered=True, queue=True)
    arrivals.hold(LANE, 3, "c", 0.0)
    assert arrivals.give_up(29.0, 30.0, 100) == []
    assert arrivals.give_up(30.0, 30.0, 100) == [(LANE, None)]
    assert arrivals.next_of(LANE) == (3, "c")


def test_what_is_held_is_bounded_by_its_number_and_by_its_bytes() -> None:
    arrivals = Arrivals[str](ordered=False, queue=True)
    for number in (2, 3):
        arrivals.hold(LANE, number, "b", 0.0, 600)
    assert arrivals.give_up(1.0, 30.0, 2, 1200) == []
    assert arrivals.give_up(1.0, 30.0, 1, 1200) == arrivals.give_up(1.0, 30.0, 2, 1199) == [(LANE, None)]
    arrivals.next_of(LANE)
    assert arrivals.held_bytes == 600
    arrivals.drop(lambda _: True)
    assert (arrivals.held, arrivals.held_bytes) == (0, 0)


def test_what_follows_without_a_hole_is_known_as_such_at_once_and_is_known_when_it_comes_again() -> None:
    arrivals = Arrivals[str](ordered=True)
    assert arrivals.follow(LANE, 1) is None  # nothing is known of the lane
    arrivals.take(LANE, 1)
    assert arrivals.follow(LANE, 2) == (1, 2)
    assert arrivals.follow(LANE, 2) is None
    assert arrivals.judge(LANE, 2) == "known"
    assert arrivals.follow(LANE, 4) is None


def test_what_is_forgotten_is_loaded_again_and_what_is_held_is_not_forgotten() -> None:
    arrivals = Arrivals[str](ordered=False)
    for origin in ("forgotten", "held"):
        arrivals.load(origin, {})
        arrivals.take((origin, 3), 1)
    arrivals.hold(("held", 3), 3, "three", 0.0)
    assert {"held"} == arrivals.forget()
    assert "known" == arrivals.judge(("held", 3), 1)
    arrivals.load("forgotten", {3: (1, [])})
    assert "known" == arrivals.judge(("forgotten", 3), 1)
    assert "new" == arrivals.judge(("forgotten", 3), 2)


def test_nothing_simply_follows_where_a_hole_was_given_up_and_what_came_after_it_was_dropped() -> None:
    arrivals = Arrivals[str](ordered=True)
    arrivals.take(LANE, 1)
    arrivals.hold(LANE, 3, "c", 0.0)
    arrivals.give_up(30.0, 30.0, 100)
    arrivals.drop(lambda _: True)
    for number in (2, 3):
        assert arrivals.follow(LANE, number) is None
        assert arrivals.judge(LANE, number) == "new"
        arrivals.take(LANE, number)
    assert arrivals.judge(LANE, 3) == "known"
    assert arrivals.follow(LANE, 4) == (3, 4)
