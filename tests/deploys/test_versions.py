"""An event, and eventspine itself, in a version that the code beside it does not know (R8, R9)."""

from __future__ import annotations

import pytest

from .harness import NOTHING, STILL_S, Deploy, until

GIVEN_BACK = "select count(*) from spine_deliveries where state = 'parked' and reason = 'newer-version'"
WRITE = {"desk.write": "till.Counted"}


@pytest.mark.promise("release replaced", "sqlite processes")
def test_a_producer_that_goes_on_ahead_and_a_consumer_that_goes_back_lose_nothing(deploy: Deploy) -> None:
    """Events of a version that the consumer does not know are given back, and wait for one that does."""
    producer = deploy.load("CarvedBefore")
    old = deploy.release("readers1")
    deploy.progress(60, "readers.by_version")
    deploy.stop_publishing(producer)
    (deploy.folder / "stop").unlink()
    producer = deploy.load("Carved")
    until(lambda: 8 == deploy.number(GIVEN_BACK), deploy.told)  # the first of every key; the others wait behind it
    new = deploy.release("readers2")
    deploy.progress(60, "readers.by_version")
    deploy.replace(old, new)
    back = deploy.release("readers1", "--roll-back")
    deploy.leads(back, service="readers")
    until(lambda: 8 == deploy.number(GIVEN_BACK), deploy.told)
    deploy.replace(new, back)
    again = deploy.release("readers2", "--roll-back")
    deploy.leads(again, service="readers")
    deploy.progress(60, "readers.by_version")
    deploy.stop_publishing(producer)
    deploy.settle("readers.by_version")

    assert NOTHING == deploy.reckon({"readers.by_version": "till.Carved"})
    assert [] == deploy.dead()


def test_r9_a_release_of_eventspine_that_adds_to_every_table_works_beside_the_one_before(deploy: Deploy) -> None:
    publishers = [deploy.load()]
    old = deploy.release("desk1")
    deploy.progress(40, "desk.write")
    new = deploy.release("desk1", "--release", 2)
    publishers.append(deploy.load("Counted", "q", "--keys", 4, "--pause", 0.05, "--release", 2))
    deploy.leads(old, new)
    restarted = deploy.release("desk1")  # the older one is started anew, on the newer file
    deploy.leads(old, new, restarted)
    deploy.replace(new, restarted)
    deploy.leads(old, restarted)
    deploy.progress(40, "desk.write")
    deploy.stop_publishing(*publishers)
    deploy.settle("desk.write")

    assert NOTHING == deploy.reckon(WRITE)
    assert deploy.stood_still_s("desk.write") < STILL_S
    assert [("by release 2",)] == deploy.query("select distinct added from spine_events")


def test_r9_a_release_that_removes_is_refused_while_an_older_one_lives_and_disturbs_nobody(deploy: Deploy) -> None:
    publisher = deploy.load()
    old = deploy.release("desk1", "--release", 2)
    refused = deploy.begins("desk1", "--release", 3)
    assert 0 != refused.end()
    assert f"desk (pid {old.pid}, eventspine 2.0)" in refused.said()
    assert "Upgrade it to 3.0 or later, or stop it" in refused.said()
    deploy.progress(40, "desk.write")
    assert 0 == old.terminate()
    new = deploy.release("desk1", "--release", 3)
    refused = deploy.begins("desk1", "--release", 2)
    assert 0 != refused.end()
    assert "migrated to schema 3 by a newer release" in refused.said()
    until(lambda: "JournalVersion" in str(deploy.lines("troubles")), "the publisher of before to be told")
    publisher.kill()
    publisher = deploy.load("Counted", "p", "--keys", 8, "--release", 3)
    deploy.progress(40, "desk.write")
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write")

    assert NOTHING == deploy.reckon(WRITE)
    assert 0 == new.terminate()
