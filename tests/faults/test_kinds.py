"""Every kind of handler, and events that are due later, while processes are killed at random."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from .harness import NOTHING, Child, Place, locked, until

KINDS = {
    f"kinds.{name}": "till.Counted"
    for name in ("whole", "loose", "run", "flaky", "threaded", "interactive", "joined")
}  # fmt: skip


def wrong_in_sparse(place: Place) -> list[str]:
    """Of the handler that changes something at every third event of a key only."""
    found = place.reckon({"kinds.sparse": "till.Counted"})
    ended = {run[1:3] for run in place.log("end") if run[0] == "kinds.sparse"}
    rows = place.query("select key, number from effects where handler = 'kinds.sparse' order by id")
    wanted = [(key, number) for key, number in place.of_feed("till.Counted") if number % 3 == 0]
    wrong = [f"never handled {one}" for one in place.of_feed("till.Counted") if one not in ended]
    wrong += [f"effects {rows}"] * (sorted(rows) != sorted(wanted))
    return wrong + found.out_of_order + found.twice + found.keys


def killed_at_random(place: Place, chance: random.Random, start: Callable[[], Child]) -> None:
    for _ in range(3):
        many = len(place.log()) + chance.randrange(1, 200)
        child = start()
        until(lambda: len(place.log()) >= many, place.told)  # noqa: B023
        child.kill()


@pytest.mark.promise("process killed", "sqlite processes")
def test_every_kind_of_handler_does_everything_once_whatever_is_killed(place: Place) -> None:
    publisher = place.start("publish", "--keys", 5, "--pause", 0.05).ready()
    killed_at_random(place, random.Random(3), lambda: place.start("consume", "--services", "kinds"))
    place.stop_publishing(publisher)
    place.start("consume", "--services", "kinds")
    place.settle(*KINDS, "kinds.sparse")

    assert [] == place.dead()
    assert [] == wrong_in_sparse(place)
    found = place.reckon(KINDS)
    found.out_of_order = [one for one in found.out_of_order if not one.startswith("kinds.loose")]
    assert NOTHING == found
    whole = place.query("select key, number from effects where handler = 'kinds.whole' order by id")
    assert place.of_feed("till.Counted") == whole


@pytest.mark.promise("lock held", "sqlite processes")
def test_every_kind_of_handler_does_everything_once_when_leases_run_out_in_the_midst_of_it(place: Place) -> None:
    """Events are then loaded anew while units of theirs are still on their way, in the same process and lease."""
    publisher = place.start("publish", "--keys", 5, "--pause", 0.05).ready()
    for _ in range(2):
        place.start("consume", "--services", "kinds", "--lease", 0.5).ready()
    for _ in range(2):
        place.progress(10, "kinds.run")
        with locked(place.path):
            until(place.leases_ran_out, "all leases to run out")
    place.stop_publishing(publisher)
    place.settle(*KINDS, "kinds.sparse")

    assert [] == wrong_in_sparse(place)
    found = place.reckon(KINDS)
    found.out_of_order = [one for one in found.out_of_order if not one.startswith("kinds.loose")]
    assert NOTHING == found


@pytest.mark.promise("process killed", "sqlite processes")
def test_r11_what_is_due_later_comes_once_and_never_early_whatever_is_killed(place: Place) -> None:
    late = ["--after", 0.4]
    publisher = place.start("publish", *late).ready()
    killed_at_random(place, random.Random(4), lambda: place.start("consume"))
    publisher.kill()
    publisher = place.start("publish", *late).ready()
    place.receipts(20)
    place.stop_publishing(publisher)
    place.start("consume")
    place.settle()

    assert NOTHING == place.reckon()
    assert 0 == place.number(
        "select count(*) from spine_events where type = 'till.Counted' and recorded_us < time_us + 400000"
    )
