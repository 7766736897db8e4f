"""Deleting beside work: who is killed at it loses nothing for anybody, and another goes on with it."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing

import pytest

from .harness import Child, Place, until

LEASE_S = 1.0
KEPT_S = 0.5


def keeping(place: Place, role: str, *more: object, name: str, die_at: int = 0, when: str = "before") -> Child:
    line = ["-m", "tests.faults.keeping", KEPT_S, die_at, when, role, place.folder, "--name", name, *more]
    return place.begin(name, [sys.executable, *map(str, line)], "")


def deleted(place: Place) -> int:
    return place.number(
        "select coalesce(sum(json_extract(j.value, '$[3]')), 0) from spine_meta m, json_each(m.value) j where m.name = 'deleted'"
    )


def sweeps(place: Place, more: int) -> None:
    before = deleted(place)
    until(lambda: deleted(place) >= before + more, place.told)


def check(place: Place) -> None:
    """What was acknowledged had its effects, each once and in order, wherever its event is by now."""
    for handler in ("books.book", "mail.tell"):
        rows = place.query("select key, number from effects where handler = ? order by id", handler)
        assert {} == {row: count for row, count in Counter(rows).items() if count > 1}
        assert set(place.acknowledged()) == set(rows)
        for key in {key for key, _ in rows}:
            numbers = [number for of, number in rows if of == key]
            assert sorted(numbers) == numbers
    with closing(sqlite3.connect(place.path)) as own:
        assert [("ok",)] == own.execute("pragma integrity_check").fetchall()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_while_it_deletes(place: Place, when: str) -> None:
    publisher = keeping(place, "publish", name="p").ready()
    first = keeping(place, "consume", "--lease", LEASE_S, name="first", die_at=3, when=when).ready()
    until(lambda: not first.alive, place.told)
    before = deleted(place)
    assert 0 < before <= 60  # what it had committed, a few at a time
    others = [keeping(place, "consume", "--lease", LEASE_S, name=f"{n}").ready() for n in range(2)]
    sweeps(place, 200)
    owner = "select p.pid from spine_leases l join spine_processes p on p.id = l.owner where l.name = 'upkeep'"
    assert place.number(owner) in {other.pid for other in others}

    place.stop_publishing(publisher)
    place.settle()
    check(place)
    sent = 2 * len(place.acknowledged())
    until(lambda: place.number("select count(*) from spine_events") == 1, place.told)  # the end of the feed stays
    assert sent == deleted(place) + 1
    assert all(0 == other.terminate() for other in others)


@pytest.mark.promise("process killed", "sqlite processes")
def test_killed_again_and_again(place: Place) -> None:
    publisher = keeping(place, "publish", name="p").ready()
    for round in range(4):
        ends = keeping(
            place,
            "consume",
            "--lease",
            LEASE_S,
            name=f"c{round}",
            die_at=round + 1,
            when=["before", "after"][round % 2],
        )
        until(lambda ends=ends: not ends.alive, place.told)
    last = keeping(place, "consume", "--lease", LEASE_S, name="last").ready()
    place.stop_publishing(publisher)
    place.settle()
    check(place)
    assert 0 == last.terminate()


def test_a_stopped_process_deletes_nothing_when_it_wakes_up(place: Place) -> None:
    """Its lease has another owner by then, who may have heard of a longer time."""
    publisher = keeping(place, "publish", name="p").ready()
    first = keeping(place, "consume", "--lease", LEASE_S, name="first").ready()
    sweeps(place, 20)
    first.stop_outside_a_commit()
    second = keeping(place, "consume", "--lease", LEASE_S, name="second").ready()
    epoch = "select epoch from spine_leases where name = 'upkeep'"
    until(lambda: place.number(epoch) == 2, place.told)
    sweeps(place, 20)
    began = time.monotonic()
    first.go_on()
    sweeps(place, 20)
    assert 2 == place.number(epoch), f"after {time.monotonic() - began:g} s"
    place.stop_publishing(publisher)
    place.settle()
    check(place)
    assert [0, 0] == [first.terminate(), second.terminate()]
