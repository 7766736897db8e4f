"""Rolling deploys: releases of a service beside one another (R8), and releases of eventspine (R9)."""

from __future__ import annotations

import pytest

from .harness import NOTHING, Child, Place, Reckoning, until

WRITE = "till.Counted|till.Refunded"
LETTERS = {"letters.write|letters.compose": WRITE, "letters.count": "till.Counted"}


def release(place: Place, number: int, *more: object) -> Child:
    return place.start("consume", "--services", f"letters{number}", *more).ready()


def leads(place: Place, child: Child) -> None:
    until(lambda: {child.pid} == place.owners("letters"), place.told)


@pytest.mark.promise("release replaced", "sqlite processes")
def test_r8_a_service_is_deployed_four_times_under_load(place: Place) -> None:
    """A filter is widened, a handler renamed and another added, that one removed, and then all of it is rolled back.
    Every release starts while the one before is at work."""
    publishers = [place.start("publish").ready()]
    first = release(place, 1)
    place.progress(10, "letters.write")
    second = release(place, 2)
    publishers.append(place.start("publish", "--type", "Refunded", name="r").ready())
    leads(place, second)
    place.progress(20, "letters.write")
    first.kill()
    third = release(place, 3)
    leads(place, third)
    assert 0 == second.terminate()
    place.progress(20, "letters.compose")
    fourth = release(place, 4)
    leads(place, fourth)
    third.kill()
    place.progress(20, "letters.compose")
    again = release(place, 3, "--roll-back")
    leads(place, again)
    place.progress(20, "letters.count")
    assert 0 == fourth.terminate()
    place.stop_publishing(*publishers)
    place.settle("letters.compose", "letters.count")

    assert NOTHING == place.reckon(LETTERS)
    assert place.of_feed("till.Refunded")


@pytest.mark.promise("release replaced", "sqlite")
def test_r8_where_one_process_takes_the_place_of_another_nothing_is_passed(place: Place) -> None:
    """Stopped or killed first, then the next release is started: forward, and back."""
    publishers = [place.start("publish").ready(), place.start("publish", "--type", "Refunded", name="r").ready()]
    for number, handler, killed in (
        (1, "letters.write", True),
        (2, "letters.write", False),
        (3, "letters.compose", True),
    ):
        alone = release(place, number)
        place.progress(10, handler)
        alone.kill() if killed else alone.terminate()
    release(place, 2, "--roll-back", "--retire", "letters.count")
    place.progress(10, "letters.write")
    place.stop_publishing(*publishers)
    place.settle("letters.write")

    written = place.reckon({"letters.compose|letters.write": WRITE})
    assert [] == [one for one in written.lost if "'r-" not in one]
    assert NOTHING == Reckoning(
        written.unstored, written.stored_twice, [], written.twice, written.out_of_order, written.keys
    )


def test_r8_did_old_and_new_share_the_work_the_old_would_pass_what_only_the_new_wants(place: Place) -> None:
    publisher = place.start("publish").ready()
    release(place, 1, "--without", "generations")
    second = release(place, 2, "--without", "generations")
    until(lambda: second.pid in place.owners("letters"), place.told)
    assert 0 == place.start("publish", "--type", "Refunded", "--keys", 20, "--count", 3, name="r").end()
    place.stop_publishing(publisher)
    place.settle("letters.write")

    assert any("('r-" in one for one in place.reckon({"letters.write": WRITE}).lost)


def test_r9_releases_that_add_share_the_file_and_one_that_removes_waits_for_the_old_to_end(place: Place) -> None:
    publisher = place.start("publish", name="p").ready()
    old = place.start("consume").ready()
    place.progress(10)
    added = place.start("consume", "--release", 2).ready()
    until(lambda: {old.pid, added.pid} == place.owners(), "both to have their shares")
    place.progress(20)
    refused = place.start("consume", "--release", 3)
    assert 0 != refused.end()
    assert f"pid {old.pid}, eventspine 0.1.0" in refused.said()
    place.progress(20)

    assert (0, 0) == (old.terminate(), added.terminate())
    place.start("consume", "--release", 3).ready()
    until(lambda: "JournalVersion" in str(place.lines("troubles")), "the old publisher to be refused")
    until(lambda: not place.unfinished(), place.told)
    publisher.kill()
    successor = place.start("publish", "--release", 3, name="p").ready()
    place.progress(20)
    place.stop_publishing(successor)
    place.settle()
    assert NOTHING == place.reckon()


def test_r23_a_member_that_an_enum_does_not_have_is_dead_until_the_consumer_knows_it(place: Place) -> None:
    old = place.start("consume", "--services", "readers1").ready()
    green = [f"green:p-{key}:2" for key in range(3)]
    assert 0 == place.start("publish", "--type", "Painted", "--count", 4, "--do", *green).end()
    until(lambda: 6 * 4 - 3 == place.effects("readers.by_colour"), place.told)
    assert [(f"p-{key}", "undecodable", 0) for key in range(3)] == sorted(place.dead())
    assert 0 == old.terminate()

    place.start("consume", "--services", "readers2").ready()
    assert 0 == place.spine("dead", "replay", "--reason", "undecodable").end()
    place.settle("readers.by_colour")
    found = place.reckon({"readers.by_colour": "till.Painted"})
    assert ([], [], []) == (found.lost, found.twice, place.dead())


def test_r8_a_newer_version_than_it_knows_is_given_back_and_waits_for_the_next_release(place: Place) -> None:
    old = place.start("consume", "--services", "readers1").ready()
    assert 0 == place.start("publish", "--type", "Carved", "--count", 4).end()
    parked = "select count(*) from spine_deliveries where state = 'parked' and reason in ('newer-version', 'behind')"
    until(lambda: 6 * 4 == place.number(parked), place.told)
    assert 0 == place.effects("readers.by_version")
    assert 0 == old.terminate()

    place.start("consume", "--services", "readers2").ready()
    place.settle("readers.by_version")
    assert NOTHING == place.reckon({"readers.by_version": "till.Carved"})
    assert [] == place.dead()
