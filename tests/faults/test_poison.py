"""Events that do harm: one that always fails, one whose handler never returns, one that kills its process (R16, R17)."""

from __future__ import annotations

import random
import signal

import pytest

from .harness import NOTHING, Child, Place, until

KEPT = {"strict.keep": "till.Counted"}


def handled(place: Place, handler: str, key: str) -> list[int]:
    rows = place.query("select number from effects where handler = ? and key = ? order by id", handler, key)
    return [number for (number,) in rows]


@pytest.mark.promise("handler fails", "sqlite")
def test_a_poison_event_in_a_hot_key_stops_that_key_until_it_is_replayed(place: Place) -> None:
    consumer = place.start("consume", "--services", "strict", faults="fail").ready()
    assert 0 == place.start("publish", "--keys", 5, "--count", 20, "--do", "fail:p-0:5", "--pause", 0).end()
    until(lambda: [("p-0", "ValueError", 0)] == place.dead(), "the poison to be dead")
    until(lambda: 4 + 4 * 20 == place.effects("strict.keep"), "all others to be handled")
    consumer.kill()
    place.start("consume", "--services", "strict", faults="fail").ready()
    assert 0 == place.start("publish", "--keys", 5, "--count", 25, "--pause", 0).end()
    until(lambda: 4 + 4 * 25 == place.effects("strict.keep"), "all others to be handled, still")
    assert [1, 2, 3, 4] == handled(place, "strict.keep", "p-0")

    place.touch("mended")
    assert 0 == place.spine("dead", "replay", "--handler", "strict.keep").end()
    place.settle("strict.keep")
    assert list(range(1, 26)) == handled(place, "strict.keep", "p-0")
    assert NOTHING == place.reckon(KEPT)
    assert [] == place.dead()


@pytest.mark.promise("handler fails", "sqlite")
def test_a_handler_that_never_returns_dies_of_its_timeouts_beside_others(place: Place) -> None:
    assert 0 == place.start("publish", "--keys", 5, "--count", 10, "--do", "hang:p-0:2", "hang:p-1:3").end()
    consumer = place.start("consume", "--services", "impatient", faults="hang").ready()
    place.settle("impatient.wait_for_it")

    assert [("p-0", "HandlerTimeout", 0), ("p-1", "HandlerTimeout", 0)] == sorted(place.dead())
    assert 3 == len([run for run in place.log() if run[1:3] == ("p-0", 2)])  # its attempts
    assert NOTHING == place.reckon({"impatient.wait_for_it": "till.Counted"})
    assert 0 == consumer.terminate()


def test_r17_a_thread_that_never_returns_keeps_its_key_and_a_full_pool_ends_the_process(place: Place) -> None:
    """The first event of four keys never returns. Two of them leave a thread for everybody else; the third does not."""
    assert 0 == place.start("publish", "--keys", 6, "--count", 5, "--do", "hang:p-0:1", "hang:p-1:1").end()
    line = ["--line", "run", "tests.faults.services:threads", "--journal", place.url]
    consumer = place.start("spine", "--threads", 3, *line)
    until(lambda: 4 * 5 == place.effects("threads.compute"), place.told)
    assert consumer.alive
    assert {1} == {number for _, key, number, *_ in place.log() if key in ("p-0", "p-1")}
    assert 2 == len([run for run in place.log() if run[1] in ("p-0", "p-1")])  # no second attempt beside the first

    assert 0 == place.start("publish", "--keys", 1, "--count", 5, "--do", "hang:q-0:1", name="q").end()
    assert 1 == consumer.end(), consumer.said()
    place.touch("mended")
    place.start("spine", "--threads", 3, *line)
    place.settle("threads.compute")
    assert NOTHING == place.reckon({"threads.compute": "till.Counted"})
    assert [] == place.dead()


@pytest.mark.parametrize(("do", "kills"), [("exit", 0), ("kill", 3)])
@pytest.mark.promise("poison", "sqlite", "sqlite processes")
def test_r16_an_event_that_kills_its_process_dies_alone(place: Place, do: str, kills: int) -> None:
    """Nobody else dies with it, whatever else kills processes meanwhile; and everybody else is handled, once."""
    chance, kills_left = random.Random(5), kills
    assert 0 == place.start("publish", "--keys", 8, "--count", 10, "--do", f"{do}:p-3:4", "--pause", 0).end()
    deaths = 0
    while not place.dead():
        consumer = place.start("consume", faults=do)
        many = len(place.log()) + chance.randrange(1, 30) if kills_left else 1_000_000
        _dies_or_begins(place, consumer, many)
        if consumer.alive and not place.dead():
            kills_left -= 1
            consumer.kill()
        deaths += not consumer.alive
        assert deaths < 20
    if not consumer.alive:
        place.start("consume", faults=do)
    place.settle()

    assert [("p-3", "killed-its-process", 3)] == place.dead()
    assert NOTHING == place.reckon()


def _dies_or_begins(place: Place, consumer: Child, many: int) -> None:
    until(lambda: not consumer.alive or place.dead() or len(place.log()) >= many, place.told)


@pytest.mark.promise("poison", "sqlite")
def test_r16_an_event_that_kills_its_process_in_a_run_dies_alone_and_all_others_of_it_are_handled(place: Place) -> None:
    """A batch handler kills itself with SIGKILL, with more than the killer in hand each time."""
    assert 0 == place.start("publish", "--keys", 8, "--count", 10, "--do", "kill:p-3:4", "--pause", 0).end()
    marked, alone = list[int](), list[list[int]]()
    while not place.dead():
        consumer = place.start("consume", "--services", "bundles", faults="kill")
        until(lambda: not consumer.alive or place.dead(), place.told)  # noqa: B023
        if not consumer.alive:
            assert -signal.SIGKILL == consumer.end()
            marked.append(place.number("select count(*) from spine_starts"))
            alone.append([times for (times,) in place.query("select alone from spine_starts where alone > 0")])
        assert len(alone) < 10
    place.settle("bundles.bundle")

    assert [[], [], [1], [2], [3]] == alone  # unnoticed, marked in a run, then three times alone
    assert (0, True) == (marked[0], marked[1] > 1)
    assert [("p-3", "killed-its-process", 3)] == place.dead()
    assert NOTHING == place.reckon({"bundles.bundle": "till.Counted"})
    assert 0 == place.number("select count(*) from spine_starts")


@pytest.mark.parametrize("services", [("books", "mail"), ("bundles",)])
def test_without_care_it_kills_one_process_after_the_other(place: Place, services: tuple[str, ...]) -> None:
    assert 0 == place.start("publish", "--keys", 2, "--count", 3, "--do", "exit:p-0:1", "--pause", 0).end()
    for _ in range(6):  # with care, it is dead after five
        assert 9 == place.start("consume", "--services", *services, "--without", "care", faults="exit").end()

    assert [] == place.dead()
    assert [] == handled(place, f"{services[0]}.{services[0].rstrip('s')}", "p-0")
