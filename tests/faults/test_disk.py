"""A disk that is full, and a file that another program has locked: both pass, and nothing is lost or done twice."""

from __future__ import annotations

import pytest

from .harness import NOTHING, Place, locked, until

LEASE_S = 1.0
SMALL = 256 * 1024  # the journal's files are soon larger, whatever is checkpointed, and these tests' own are not


@pytest.mark.promise("disk full", "sqlite processes")
def test_a_full_disk_refuses_what_is_published_and_goes_on_when_there_is_space(place: Place) -> None:
    publisher = place.start("publish", "--pause", 0.05, name="p").ready()
    consumer = place.start("consume", "--lease", LEASE_S).ready()
    place.progress(20)
    place.limit_files(SMALL, publisher, consumer)
    until(
        lambda: any(line.startswith("JournalFull p ") for line in place.lines("troubles")), "publishing to be refused"
    )
    until(lambda: "no space" in str(consumer.health()["problems"]), "the consumer to know why nothing gets through")
    assert "degraded" == consumer.health()["status"]
    told = place.acknowledged()
    assert place.number("select count(*) from spine_events") >= len(told)  # reads go on

    place.limit_files(0, publisher, consumer)
    until(lambda: len(place.acknowledged()) > len(told) + 20, "publishing to go on")
    until(lambda: "ok" == consumer.health()["status"], "the consumer to be well again")
    place.stop_publishing(publisher)
    place.settle()
    assert NOTHING == place.reckon()
    assert 0 == consumer.terminate()


@pytest.mark.promise("lock held", "sqlite")
def test_so_it_does_where_one_process_publishes_and_handles(place: Place) -> None:
    one = place.start("consume", "--publishes", "--lease", LEASE_S).ready()
    place.progress(20)
    with locked(place.path):
        until(place.leases_ran_out, "all leases to run out")
    place.progress(20)
    place.touch("stop")
    place.settle()

    assert NOTHING == place.reckon()
    assert 0 == one.terminate()


@pytest.mark.promise("lock held", "sqlite processes")
def test_another_program_holds_the_write_lock_for_longer_than_a_lease(place: Place) -> None:
    """Patient processes wait; an impatient one is told, and publishes again under the same id."""
    patient = place.start("publish", name="p").ready()
    impatient = place.start("publish", "--busy", 0.3, name="q").ready()
    consumers = [place.start("consume", "--lease", LEASE_S).ready() for _ in range(2)]
    place.progress(20)
    with locked(place.path):
        until(lambda: [line for line in place.lines("troubles") if "JournalBusy q" in line], "the impatient to be told")
        until(place.leases_ran_out, "all leases to run out")
    assert not [line for line in place.lines("troubles") if " p " in line]
    place.progress(20)
    place.stop_publishing(patient, impatient)
    place.settle()

    assert NOTHING == place.reckon()
    assert all(consumer.alive for consumer in consumers)
