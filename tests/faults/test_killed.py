"""SIGKILL: of a publisher, of a consumer at every point of a commit, of everybody at once."""

from __future__ import annotations

import random
import signal

import pytest

from .harness import NOTHING, Place, Reckoning

POINTS = ["handled", "before begin", "begun", "written", "at commit", "committed, nobody told", "told"]


@pytest.mark.promise("process killed", "sqlite processes")
@pytest.mark.promise("published twice", "sqlite processes")
def test_killed_publishers_lose_nothing_acknowledged_and_store_nothing_twice(place: Place) -> None:
    assert NOTHING == after_killed_publishers(place, 4)


def after_killed_publishers(place: Place, times: int) -> Reckoning:
    """What was not acknowledged is published again under the same id."""
    for _ in range(times):
        publisher = place.start("publish", "--pause", 0, name="p").ready()
        place.receipts(60)
        publisher.kill()
    assert 0 == place.start("publish", "--pause", 0, "--count", max(n for _, n in place.acknowledged()), name="p").end()
    place.start("consume")
    place.settle()
    return place.reckon()


@pytest.mark.promise("process killed", "sqlite processes")
def test_a_consumer_killed_at_every_point_of_a_commit_does_everything_once(place: Place) -> None:
    publisher = place.start("publish").ready()
    for point in POINTS:
        consumer = place.start("consume", "--at", point, 3, "kill")
        assert -9 == consumer.end(), consumer.said()
    last = place.start("consume").ready()
    place.progress(20)
    place.stop_publishing(publisher)
    place.settle()

    assert NOTHING == place.reckon()
    assert [] == place.dead()
    assert 0 == last.terminate()


@pytest.mark.promise("process killed", "sqlite processes")
def test_consumers_killed_at_random_while_others_take_over(place: Place) -> None:
    chance = random.Random(4)
    publishers = [place.start("publish", name=name) for name in ("p", "q")]
    consumers = [place.start("consume").ready() for _ in range(2)]
    for _ in range(6):
        place.progress(chance.randrange(1, 40))
        consumers.pop(0).kill()
        consumers.append(place.start("consume"))
    place.stop_publishing(*publishers)
    place.settle()

    assert NOTHING == place.reckon()
    assert [] == place.dead()


@pytest.mark.promise("all killed", "sqlite processes")
def test_all_processes_killed_at_once(place: Place) -> None:
    assert NOTHING == after_all_were_killed_at_once(place, 3)
    assert [] == place.dead()


def after_all_were_killed_at_once(place: Place, times: int) -> Reckoning:
    for _ in range(times):
        everybody = [place.start("publish", name=name) for name in ("p", "q")]
        everybody += [place.start("consume", "--services", name) for name in ("books", "mail")]
        place.progress(50)
        for child in everybody:
            child.signal(signal.SIGKILL)
        for child in everybody:
            child.end()
    place.start("consume")
    place.settle()
    return place.reckon()
