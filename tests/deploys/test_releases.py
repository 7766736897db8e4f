"""Old and new code side by side under load (R8): a handler is added, renamed, removed, widened, and all of it taken back.
Nothing is lost, nothing is done twice, keys keep their order, and no key waits for longer than two leases."""

from __future__ import annotations

import re

import pytest

from .harness import LEASE_S, NOTHING, STILL_S, Deploy, until

COUNTED, REFUNDED = "till.Counted", "till.Refunded"


def test_a_handler_that_is_added_begins_with_what_is_published_after_its_registration(deploy: Deploy) -> None:
    """`start="now"`, to the event; and with the first event, where it says so."""
    publisher = deploy.load()
    old = deploy.release("desk1")
    deploy.progress(60, "desk.write")
    deploy.note_registrations()
    new = deploy.release("desk2")
    deploy.leads(new)
    deploy.progress(60, "desk.count")
    deploy.replace(old, new)
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write", "desk.count", "desk.archive")

    assert NOTHING == deploy.reckon({"desk.write": COUNTED, "desk.archive": COUNTED})
    expected = deploy.published_after(at := deploy.registered_at("desk.count"), COUNTED)
    assert at > 0
    assert sorted(expected) == sorted(deploy.handled("desk.count"))
    assert deploy.stood_still_s("desk.write") < STILL_S


def test_a_handler_that_is_renamed_goes_on_where_it_was(deploy: Deploy) -> None:
    publisher = deploy.load()
    old = deploy.release("desk1")
    deploy.progress(60, "desk.write")
    new = deploy.release("desk3")
    deploy.leads(new)
    deploy.progress(60, "desk.compose")
    deploy.replace(old, new)
    deploy.stop_publishing(publisher)
    deploy.settle("desk.compose")

    assert NOTHING == deploy.reckon({"desk.write|desk.compose": COUNTED})
    assert deploy.handled("desk.write")
    assert deploy.stood_still_s("desk.write", "desk.compose") < STILL_S


def test_what_may_be_a_rename_is_refused_and_who_is_at_work_is_not_disturbed(deploy: Deploy) -> None:
    publisher = deploy.load()
    old = deploy.release("desk1")
    deploy.progress(60, "desk.write")
    refused = deploy.begins("desk5")
    assert 0 != refused.end()
    assert "renamed_from='write'" in refused.said()
    assert re.search(r"'desk.write' \([\d,]+ events? not finished\)", refused.said())
    deploy.progress(60, "desk.write")
    assert {old.pid} == deploy.owners("desk")
    assert (0, 0) == (old.health()["services"][0]["fenced"], old.health()["services"][0]["restarts"])
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write")

    assert NOTHING == deploy.reckon({"desk.write": COUNTED})
    assert deploy.stood_still_s("desk.write") < STILL_S
    retiring = deploy.release("desk5", "--retire", "desk.write")
    deploy.leads(retiring)
    assert [("retired",)] == deploy.query("select state from spine_subscriptions where name = 'desk.write'")


def test_a_handler_that_is_removed_keeps_its_backlog_until_it_is_back(deploy: Deploy) -> None:
    publisher = deploy.load()
    old = deploy.release("desk2")
    deploy.progress(60, "desk.archive")
    new = deploy.release("desk1")
    deploy.leads(new)
    suspended = "select count(*) from spine_subscriptions where state = 'suspended'"
    assert 2 == deploy.number(suspended)
    deploy.replace(old, new)
    deploy.progress(60, "desk.write")
    again = deploy.release("desk2", "--roll-back")
    deploy.leads(again)
    deploy.progress(60, "desk.count")
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write", "desk.count", "desk.archive")

    assert NOTHING == deploy.reckon({"desk.write": COUNTED, "desk.count": COUNTED, "desk.archive": COUNTED})
    assert 0 == deploy.number(suspended)
    assert deploy.stood_still_s("desk.write") < STILL_S


def widened(deploy: Deploy, *without: str) -> set[tuple[str, int]]:
    """The old process sleeps while the new one registers, and wakes up with its leases. Gives the events of the new type,
    published since, that nobody has handled."""
    safeguards = ("--without", *without) if without else ()
    publishers = [deploy.load(), deploy.load("Refunded", "r")]
    old = deploy.release("desk1", *safeguards)
    deploy.progress(60, "desk.write")
    deploy.note_registrations()
    old.stop_outside_a_commit()
    new = deploy.release("desk4", *safeguards)
    deploy.receipts(40)
    old.go_on()
    deploy.leads(new, *([old] if without else []))
    deploy.progress(60, "desk.write")
    deploy.receipts(200)
    deploy.replace(old, new)
    deploy.stop_publishing(*publishers)
    deploy.settle("desk.write")
    wanted = deploy.published_after(deploy.registered_at("desk.write", "Refunded"), REFUNDED)
    assert wanted
    return set(wanted) - set(deploy.handled("desk.write"))


@pytest.mark.promise("release replaced", "sqlite processes")
def test_a_filter_that_is_widened_loses_nothing_to_the_old_process(deploy: Deploy) -> None:
    assert set() == widened(deploy)
    without_what_was_passed(deploy)
    assert NOTHING == deploy.reckon({"desk.write": f"{COUNTED}|{REFUNDED}"})
    assert deploy.stood_still_s("desk.write", keys="p-") < STILL_S


def without_what_was_passed(deploy: Deploy) -> None:
    """What nobody wanted while it was passed is no loss."""
    handled = set(deploy.handled("desk.write"))
    deploy.forget([one for one in deploy.of_feed(REFUNDED) if one not in handled])


def test_without_generations_and_the_fence_the_old_process_passes_what_the_new_one_wants(deploy: Deploy) -> None:
    assert widened(deploy, "generations", "widening")


def test_a_release_is_announced_when_it_is_ready_and_until_then_the_old_one_works(deploy: Deploy) -> None:
    """However long its lifespan takes."""
    publishers = [deploy.load(), deploy.load("Refunded", "r")]
    old = deploy.release("slow1")
    deploy.progress(60, "desk.write")
    deploy.note_registrations()
    new = deploy.begins("slow2")
    until(lambda: new.pid in deploy.loading(), new.said)
    deploy.progress(round(3 * LEASE_S / 0.05) * 8, "desk.write")  # at their pace, more than two leases
    assert {old.pid} == deploy.owners("desk")
    deploy.touch("loaded")
    deploy.leads(new.ready())
    deploy.progress(60, "desk.write")
    deploy.replace(old, new)
    deploy.stop_publishing(*publishers)
    deploy.settle("desk.write")

    wanted = deploy.published_after(deploy.registered_at("desk.write", "Refunded"), REFUNDED)
    assert set() == set(wanted) - set(deploy.handled("desk.write"))
    assert deploy.stood_still_s("desk.write", keys="p-") < STILL_S


@pytest.mark.parametrize("flag", [(), ("--roll-back",)], ids=["when the newer has ended", "at once"])
@pytest.mark.promise("release replaced", "sqlite processes")
def test_a_roll_back_says_what_it_passes_and_does_the_rest(deploy: Deploy, flag: tuple[str, ...]) -> None:
    publishers = [deploy.load(), deploy.load("Refunded", "r")]
    assert 0 == deploy.release("desk1").terminate()
    new = deploy.release("desk4")
    deploy.progress(100, "desk.write")
    old_first = deploy.release("desk1", *flag)
    if not flag:
        deploy.progress(100, "desk.write")
        assert {new.pid} == deploy.owners("desk"), "the older one waits"
        assert "or at once with --roll-back" in old_first.said()
    else:
        deploy.leads(old_first)
    deploy.replace(new, old_first)
    deploy.leads(old_first)
    deploy.progress(60, "desk.write")
    deploy.stop_publishing(*publishers)
    deploy.settle("desk.write")

    told = re.search(rf"desk.write: this release does not know {REFUNDED}: (\d+) events of it", old_first.said())
    assert told
    refunds = set(deploy.of_feed(REFUNDED))
    handled = {one for one in deploy.handled("desk.write") if one[0].startswith("r")}
    assert len(refunds - handled) >= int(told[1])
    assert handled
    without_what_was_passed(deploy)
    assert NOTHING == deploy.reckon({"desk.write": f"{COUNTED}|{REFUNDED}"})
    assert (
        deploy.stood_still_s("desk.write", keys="p-") < STILL_S + LEASE_S
    )  # the two leases, and a beat to see them over
