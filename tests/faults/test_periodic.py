"""Periodic work by several processes: each run once, one after the other, whoever is killed."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from .harness import Place, until

CLOCK = ("--services", "clockwork")
STRIKE = "clockwork.strike"


def strokes(place: Place) -> list[int]:
    """The seconds that have struck, in the order in which they did."""
    if not place.effects(STRIKE):
        return []
    return [second for (second,) in place.query("select number from effects where handler = ? order by id", STRIKE)]


def wait_for(place: Place, more: int) -> None:
    before = place.effects(STRIKE)
    until(lambda: place.effects(STRIKE) >= before + more, lambda: f"{more} strokes\n{place.told()}")


def without_a_gap(seconds: list[int]) -> bool:
    return all(second + 1 == later for second, later in itertools.pairwise(seconds))


def test_of_three_processes_one_runs_it_each_time(place: Place) -> None:
    for child in [place.start("consume", *CLOCK) for _ in range(3)]:
        child.ready()
    wait_for(place, 5)

    assert without_a_gap(strokes(place))
    runs = Counter(number for _, _, number, _, _ in place.log())
    assert set(runs.values()) == {1}


def test_a_process_killed_in_the_middle_of_a_run_leaves_it_to_another(place: Place) -> None:
    hung = place.start("consume", *CLOCK, faults="hang").ready()
    until(place.log, "for a run to begin")
    others = [place.start("consume", *CLOCK).ready() for _ in range(2)]
    holder = until(lambda: next((child for child in [hung, *others] if child.pid == place.log()[0][4]), None), "")
    holder.kill()
    wait_for(place, 4)

    seconds = strokes(place)
    (first, key) = place.log()[0][2:4]
    again = [(idem, pid) for _, _, number, idem, pid in place.log() if number == first]
    assert seconds[0] == first, "the run that was interrupted comes before all others"
    assert without_a_gap(seconds)
    assert {idem for idem, _ in again} == {key}
    assert len({pid for _, pid in again}) == 2


@pytest.mark.promise("process killed", "sqlite processes")
def test_processes_killed_at_random_lose_no_stroke_and_strike_none_twice(place: Place) -> None:
    chance = random.Random(11)
    children = [place.start("consume", *CLOCK).ready() for _ in range(2)]
    for _ in range(5):
        wait_for(place, chance.randrange(1, 3))
        children.pop(chance.randrange(2)).kill()
        children.append(place.start("consume", *CLOCK).ready())
    for child in children:
        child.kill()
    children = [place.start("consume", *CLOCK)]
    wait_for(place, 3)

    assert without_a_gap(strokes(place))
    assert [] == place.dead()


@pytest.mark.promise("process stopped", "sqlite processes")
def test_a_stopped_process_that_wakes_up_late_strikes_nothing_twice(place: Place) -> None:
    one = place.start("consume", *CLOCK).ready()
    wait_for(place, 2)
    place.start("consume", *CLOCK).ready()
    one.stop_outside_a_commit()
    wait_for(place, 3)
    one.go_on()
    wait_for(place, 3)

    assert without_a_gap(strokes(place))


def test_without_fences_two_processes_still_bring_a_time_in_once(place: Place) -> None:
    """Ids derive from times: what fences keep apart would otherwise meet in the feed."""
    one = place.start("consume", *CLOCK, "--without", "fences").ready()
    wait_for(place, 1)
    one.stop_outside_a_commit()
    place.start("consume", *CLOCK, "--without", "fences").ready()
    wait_for(place, 3)
    one.go_on()
    wait_for(place, 3)

    kind = "clockwork.strike/tick"
    times = place.query("select time_us, count(*) from spine_events where type = ? group by 1", kind)
    assert {count for _, count in times} == {1}
