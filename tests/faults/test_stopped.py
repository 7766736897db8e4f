"""SIGSTOP and SIGCONT: a process that wakes up late can settle nothing (R13); one stopped inside a commit is named (R6)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .harness import NOTHING, Child, Place, until

LEASE_S = 2.0
KEYS = 10


def stopped_for_longer_than_its_lease(place: Place, *more: object) -> tuple[Child, float]:
    """A process that was stopped with an event of every key in hand, until another had done its work. How long the other
    took to take over."""
    assert 0 == place.start("publish", "--keys", KEYS, "--count", 3, "--do", "wait").end()
    late = place.start("consume", "--lease", LEASE_S, *more, faults="wait").ready()
    until(lambda: KEYS == len(place.log()), "an event of every key to be in hand")
    other = place.start("consume", "--lease", LEASE_S).ready()
    late.stop_outside_a_commit()
    stopped = time.monotonic()
    until(lambda: {other.pid} == place.owners(), "all leases to be taken over")
    took = time.monotonic() - stopped
    place.settle()
    return late, took


def goes_on(place: Place, late: Child) -> Any:
    """The late one continues, and its handlers return. Its health when it has seen what became of them."""
    late.go_on()
    place.touch("go")
    until(lambda: KEYS <= len([run for run in place.log("end") if run[4] == late.pid]), "the late handlers to return")

    def seen() -> Any:
        books = late.health()["services"][0]
        return books if not books["subscriptions"][0]["in_memory"] else None

    return until(seen, "the late process to have its verdicts")


@pytest.mark.promise("process stopped", "sqlite processes")
def test_r13_a_process_that_was_stopped_past_its_lease_settles_nothing(place: Place) -> None:
    late, took = stopped_for_longer_than_its_lease(place)
    assert took < 2 * LEASE_S
    assert KEYS == goes_on(place, late)["fenced"]
    until(lambda: late.pid in place.owners(), "the late one to have its share again")
    assert 0 == place.start("publish", "--keys", KEYS, "--count", 6).end()
    place.settle()

    assert NOTHING == place.reckon()


@pytest.mark.parametrize(("without", "keys_twice"), [(["repetition"], 0), (["repetition", "fences"], KEYS)])
def test_it_is_the_fence_that_keeps_the_late_effects_out(place: Place, without: list[str], keys_twice: int) -> None:
    """Were there no fence, a unit that finishes what is finished would still be known as a repetition; without either,
    its effects happen again."""
    late, _ = stopped_for_longer_than_its_lease(place, "--without", *without)
    goes_on(place, late)

    booked_twice = [effect for effect in place.reckon().twice if effect.startswith("books.book")]
    assert keys_twice == len(booked_twice)


@pytest.mark.parametrize("then", ["continued", "killed"])
@pytest.mark.promise("stopped in a commit", "sqlite processes")
def test_r6_a_process_stopped_inside_a_commit_is_named_until_it_goes_on_or_dies(place: Place, then: str) -> None:
    publisher = place.start("publish").ready()
    holder = place.start("consume", "--at", "written", 3, "stop")
    until(lambda: holder.stopped, "the holder to stop")
    other = place.start("consume", "--lease", LEASE_S)
    until(lambda: str(holder.pid) in str(publisher.health()["problems"]), "the publisher to know whom it waits for")
    until(lambda: str(holder.pid) in _doctor(place), "the doctor to name the holder")
    told = len(place.acknowledged())
    assert "degraded" == publisher.health()["status"]

    if then == "continued":
        holder.go_on()
    else:
        holder.kill()
    until(lambda: len(place.acknowledged()) > told + 20, "the publisher to go on")
    other.ready()
    until(lambda: "ok" == publisher.health()["status"], "the publisher to be well again")
    place.stop_publishing(publisher)
    place.settle()

    assert NOTHING == place.reckon()


def _doctor(place: Place) -> str:
    doctor = place.spine("doctor", "--json")
    doctor.end()
    return str(json.loads(doctor.errors.read_text())["findings"])
