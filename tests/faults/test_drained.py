"""SIGTERM under load: what is in hand finishes, nothing else begins, and the next process does the rest."""

from __future__ import annotations

import signal

from eventspine.keys import slot_of_key

from .harness import NOTHING, Child, Place, until

MODULE = "tests.faults.services"


def terminated_with_work_in_hand(place: Place, consumer: Child) -> int:
    until(lambda: len(place.log()) >= len(place.log("end")) + 10, lambda: f"work to be in hand\n{place.told()}")
    return consumer.terminate()


def cut(place: Place, consumer: Child) -> list[tuple[str, str, int, str, int]]:
    """Handler runs of this process that began and did not end."""
    ended = set(place.log("end"))
    return [run for run in place.log() if run[4] == consumer.pid and run not in ended]


def test_a_service_told_to_stop_under_load_finishes_what_it_has_begun(place: Place) -> None:
    publisher = place.start("publish", "--keys", 20, "--do", "work").ready()
    first = place.spine("run", f"{MODULE}:books", f"{MODULE}:mail", faults="work")
    assert 0 == terminated_with_work_in_hand(place, first), first.said()
    assert "everything in hand was finished" in first.said()
    assert [] == cut(place, first)
    assert place.effects() == len(place.log("end")) - place.effects("mail.tell") > 0  # all that it did is stored
    assert set() == place.owners() - {None}  # nobody has to wait for its leases

    place.start("consume")
    place.stop_publishing(publisher)
    place.settle()
    assert NOTHING == place.reckon()
    assert len(set(place.log())) == len(place.log())  # not one event was begun twice


def test_what_is_being_given_to_another_process_finishes_too(place: Place) -> None:
    """Its partitions have been given up, and are given back when nothing of them is in hand any more."""
    assert 0 == place.start("publish", "--keys", 20, "--count", 2, "--do", "wait").end()
    first = place.start("consume", "--services", "books", faults="wait").ready()
    until(lambda: 20 == len(place.log()), "an event of every key to be in hand")
    other = place.start("consume").ready()
    until(
        lambda: 8 == len(partitions := first.health()["services"][0]["partitions"]) and partitions,
        "its share to be half",
    )
    kept = first.health()["services"][0]["partitions"]
    first.signal(signal.SIGTERM)
    mine = [key for key in (f"p-{number}" for number in range(20)) if slot_of_key(key) % 16 in kept]
    for key in mine:
        place.touch(f"go-{key}")
    until(lambda: len(mine) <= place.effects(), "what it keeps to be finished")
    assert 0 == place.start("publish", "--keys", 20, "--count", 5, name="q").end()
    place.touch("go")

    assert 0 == first.end(), first.said()
    assert [] == cut(place, first)
    place.settle()
    assert NOTHING == place.reckon()
    assert len(set(place.log())) == len(place.log())
    assert other.alive


def test_without_a_drain_handlers_are_cut(place: Place) -> None:
    publisher = place.start("publish", "--keys", 20, "--do", "work").ready()
    first = place.start("consume", "--without", "drain", faults="work").ready()
    terminated_with_work_in_hand(place, first)
    place.stop_publishing(publisher)

    assert [] != cut(place, first)


def test_what_is_not_finished_by_the_deadline_is_done_by_the_next_process(place: Place) -> None:
    publisher = place.start("publish", "--keys", 20, "--do", "wait").ready()
    first = place.spine("run", f"{MODULE}:books", f"{MODULE}:mail", "--drain-s", "0.3", faults="wait")
    assert 0 == terminated_with_work_in_hand(place, first), first.said()
    assert "what was still in hand after 0.3s will be handled again" in first.said()
    assert [] != cut(place, first)

    place.start("consume")
    place.stop_publishing(publisher)
    place.settle()
    assert NOTHING == place.reckon()
