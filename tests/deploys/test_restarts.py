"""The same release again: restarted one by one, killed, stopped for too long, started twenty times in a row."""

from __future__ import annotations

import random
import signal

import pytest

from eventspine.keys import slot_of_key

from .harness import LEASE_S, NOTHING, STILL_S, Child, Deploy, until

WRITE = {"desk.write": "till.Counted"}


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.promise("release replaced", "sqlite processes")
def test_three_processes_are_replaced_one_by_one(deploy: Deploy, with_signal: signal.Signals) -> None:
    publisher = deploy.load()
    running = [child.ready() for child in [deploy.begins("desk1") for _ in range(3)]]
    deploy.leads(*running)
    for old in list(running):
        deploy.replace(old, old, with_signal)
        running = [*running[1:], deploy.release("desk1")]
    deploy.leads(*running)
    deploy.progress(40, "desk.write")
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write")

    assert NOTHING == deploy.reckon(WRITE)
    assert deploy.stood_still_s("desk.write") < STILL_S
    if with_signal == signal.SIGTERM:
        assert sorted(set(deploy.log())) == sorted(deploy.log()), "nothing was begun twice"


KEYS = 32


def not_taken_over_while_another_drains(deploy: Deploy, *without: str) -> set[str]:
    """A process with a slow event in hand is told to stop. Gives the keys, apart from those of the slow event's partition,
    that another process which is free does not work on meanwhile."""
    publisher = deploy.load("Counted", "p", "--keys", KEYS, "--pause", 0.05, "--do", "wait:p-0:5")
    draining = deploy.release("desk1", *(("--without", *without) if without else ()), faults="wait")
    until(lambda: ("desk.write", "p-0", 5) in [run[:3] for run in deploy.log()], "the slow event to begin")
    other = deploy.release("desk1")
    deploy.leads(draining, other)
    draining.signal(signal.SIGTERM)
    free = {key for key in (f"p-{number}" for number in range(KEYS)) if partition(key) != partition("p-0")}

    def not_taken_over() -> set[str]:
        return free - {run[1] for run in deploy.log("end") if run[4] == other.pid}

    if without:
        deploy.receipts(KEYS * 20)
    else:
        until(lambda: not not_taken_over(), deploy.told)
    assert draining.alive
    left = not_taken_over()
    deploy.touch("go")
    assert 0 == draining.end(), draining.said()
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write")
    assert NOTHING == deploy.reckon(WRITE)
    return left


def partition(key: str) -> int:
    return slot_of_key(key) % 16


def test_a_process_that_drains_holds_up_only_what_its_slowest_handler_is_at(deploy: Deploy) -> None:
    assert set() == not_taken_over_while_another_drains(deploy)


def test_if_all_were_kept_until_the_end_of_the_drain_others_would_wait_for_the_slowest(deploy: Deploy) -> None:
    assert not_taken_over_while_another_drains(deploy, "giving-back")


def test_a_process_that_is_stopped_past_its_lease_during_a_deploy_settles_nothing_late(deploy: Deploy) -> None:
    publisher = deploy.load()
    old = deploy.release("desk1")
    deploy.progress(40, "desk.write")
    old.stop_outside_a_commit()
    new = deploy.release("desk2")
    deploy.leads(new)
    deploy.progress(40, "desk.write")
    old.go_on()
    deploy.progress(40, "desk.write")
    deploy.replace(old, new)
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write", "desk.archive")

    assert NOTHING == deploy.reckon(WRITE | {"desk.archive": "till.Counted"})
    assert LEASE_S / 3 < deploy.stood_still_s("desk.write") < STILL_S  # nobody could know before the lease ran out


@pytest.mark.parametrize("without", [[], ["fences", "repetition"]], ids=["fenced", "without the fence"])
def test_what_a_stopped_process_had_in_hand_happens_once(deploy: Deploy, without: list[str]) -> None:
    assert 0 == deploy.start("publish", "--keys", 8, "--count", 2, "--do", "wait").end()
    old = deploy.release("desk1", *(("--without", *without) if without else ()), faults="wait")
    until(lambda: 8 == len(deploy.log()), "an event of every key to be in hand")
    old.stop_outside_a_commit()
    new = deploy.release("desk2")
    deploy.leads(new)
    deploy.settle("desk.write", "desk.archive")
    old.go_on()
    deploy.touch("go")
    until(lambda: 8 <= len([run for run in deploy.log("end") if run[4] == old.pid]), "the late handlers to return")
    assert 0 == old.terminate()

    twice = len(deploy.reckon(WRITE).twice)
    assert twice >= 8 if without else twice == 0  # until it is ended it may have gone on with what comes next, too


def test_twenty_quick_restarts_disturb_nothing(deploy: Deploy) -> None:
    """Some are ended when they are ready, some killed before they are, some while others start."""
    chance = random.Random(20)
    publisher = deploy.load()
    deploy.release("desk1")
    coming: list[Child] = []
    for number in range(20):
        child = deploy.begins("desk1")
        coming.append(child)
        if number % 4 == 0:
            child.ready()
        if len(coming) > 2:
            end = coming.pop(chance.randrange(len(coming)))
            end.signal(chance.choice([signal.SIGTERM, signal.SIGKILL]))
            end.end()
    deploy.progress(40, "desk.write")
    for child in coming:
        child.ready()
        assert 0 == child.terminate()
    deploy.stop_publishing(publisher)
    deploy.settle("desk.write")

    assert NOTHING == deploy.reckon(WRITE)
    assert deploy.stood_still_s("desk.write") < STILL_S
