"""The simulator itself: one seed is one history, what is broken is found, and a failure can be read and shown again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventspine import Delivery, Reject, Service
from eventspine.errors import SettingsError, UnknownPublisher
from eventspine.journal import _memory_control, _memory_units
from eventspine.testing.simulate import Faults, SimulationFailed, World, nothing_is_dead, simulate
from eventspine.testing.simulate.history import Setup
from tests.simulate.ablations import RUNS
from tests.simulate.carried import CARRIED
from tests.simulate.kinds import Sent, Stamped, letters, letters_are_counted_once, office, reminders_come_once
from tests.simulate.setups import CHAINS, CHAINS_OFTEN, CHAINS_OPERATED, KINDS, KINDS_OPERATED, SHOP
from tests.simulate.shop import OrderPlaced, books, each_order_takes_stock_once, orders, stock

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPINE_SEED", "SPINE_HISTORIES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.promise("clock set", "memory")
@pytest.mark.promise("commit unknown", "memory")
@pytest.mark.promise("handler fails", "memory")
def test_the_promises_hold_in_every_history() -> None:
    simulated = simulate(
        stock, books, drive=orders, invariants=[each_order_takes_stock_once], histories=60, seed=1, processes=2
    )
    assert simulated.histories == 60
    assert simulated.faults > 60


def test_what_nobody_subscribes_to_needs_a_service_that_speaks_for_it() -> None:
    async def drive(world: World) -> None:
        await world.publish(Stamped(to="ann", number=1))

    says = r"None of the simulated services subscribes to the context of post\.Stamped, .*simulate\(\.\.\., service=\.\.\.\)"
    with pytest.raises(UnknownPublisher, match=says):
        simulate(stock, drive=drive, histories=1, seed=1)
    assert simulate(stock, drive=drive, service=Service("mail", publishes="post"), histories=1, seed=1).histories == 1


def test_they_hold_for_every_kind_of_handler_and_every_way_out_of_one() -> None:
    invariants = [letters_are_counted_once, reminders_come_once]
    simulated = simulate(office, drive=letters, invariants=invariants, histories=30, seed=1)
    assert simulated.faults > 1000


def test_they_hold_for_handlers_that_change_something_now_and_then() -> None:
    assert CHAINS.run(1).broken is None
    assert CHAINS_OFTEN.run(1).broken is None


@pytest.mark.parametrize("setup", [KINDS_OPERATED, CHAINS_OPERATED], ids=["kinds", "chains"])
def test_they_hold_beside_an_operator_who_replays_and_drops_what_is_dead_at_any_time(setup: Setup) -> None:
    for seed in range(1, 5):
        history = setup.run(seed)
        assert history.broken is None
        assert re.search(r"world +dropped  [1-9]", history.told(10**6))


def test_a_dropped_delivery_that_is_handled_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(tables: Any, numbers: Any, now_us: int) -> int:
        return len(
            _memory_control._change_deliveries(tables, numbers, ("dead",), now_us, state="parked", due_us=now_us)
        )

    monkeypatch.setattr(_memory_control, "_drop", again)
    broken = [KINDS_OPERATED.run(seed).broken or "" for seed in range(1, 5)]
    assert any("what was dropped is not handled: " in each for each in broken), broken


def test_what_is_dropped_is_told_and_dead_no_more() -> None:
    seen: list[Any] = []

    async def drive(world: World) -> None:
        await world.publish(*[Sent(to="ann", number=number) for number in range(9)])
        await world.sleep(minutes=1)
        before = world.dead
        assert len(before) == await world.drop_dead() > 0
        assert before == world.dropped
        assert not world.dead
        assert await world.drop_dead() == 0
        seen.append(before)

    simulate(office, drive=drive, histories=1, seed=1, faults=Faults.none())
    assert seen


@pytest.mark.promise("process killed", "memory broker")
@pytest.mark.promise("process stopped", "memory broker")
@pytest.mark.promise("commit unknown", "memory broker")
@pytest.mark.promise("handler fails", "memory broker")
@pytest.mark.promise("server killed", "memory broker")
@pytest.mark.promise("cut off", "memory broker")
@pytest.mark.promise("broker full", "memory broker")
@pytest.mark.promise("clock set", "memory broker")
@pytest.mark.parametrize("kind", CARRIED)
def test_they_hold_between_journals_too_with_a_broker_that_loses_answers_and_doubles_and_delays(kind: Any) -> None:
    invariants = [each_order_takes_stock_once]
    simulated = simulate(stock, books, drive=orders, invariants=invariants, histories=15, seed=1, broker=kind)
    assert simulated.faults > 1000


@pytest.mark.parametrize("setup", [SHOP, KINDS, CARRIED["unordered"]], ids=["shop", "kinds", "carried"])
def test_one_seed_is_one_history(setup: Setup) -> None:
    first, second = setup.run(3), setup.run(3)
    assert first.timeline == second.timeline
    assert first.hash == second.hash
    assert first.hash != setup.run(4).hash


FOUND = {
    # A handler kept to itself that it was cancelled, and its process never ended.
    "a-cancellation-that-was-swallowed": (CHAINS, [50000]),
    # A `def` handler waited for a commit that nobody would make any more, and its thread with it.
    "a-thread-that-waited-for-what-it-follows": (CHAINS, [50017]),
    # The answer to the commit in which it died was lost; it was replayed, and then the second answer took its row for done.
    "replayed-before-it-was-known-to-be-dead": (CHAINS_OFTEN, [60240, 60472]),
    # A feed that stood at a dead delivery was read again just as that was replayed.
    "a-word-that-came-as-the-feed-was-read-again": (CHAINS, [70434]),
    # Events were stored behind a late one while a run of their key was at work, and came before it when it failed.
    "stored-behind-a-late-one-and-before-a-run": (CHAINS, [70368]),
    # Ranges of a run were merged, so that a repetition of some of its events was not known, and the others' effects came twice.
    "a-run-whose-ranges-were-merged": (SHOP, [2339156752]),
    # What a run left out was no longer counted, but its bytes were.
    "bytes-of-what-a-run-left-out": (KINDS, [379293327]),
    # A start mark was written as its partition was read anew; what it was for came again without it, and the mark stayed.
    "a-start-mark-of-a-partition-given-up": (KINDS, [686831082, 2842614571]),
    # A delivery was parked when its partition had been read anew: the event passed for finished, and its key went on before it.
    "a-row-of-a-partition-read-anew": (KINDS, [2481132610, 936861923]),
    # Started once more where it was finished already, and its owner had lost the lease when it ended: the mark was nobody's.
    "a-start-mark-of-what-is-finished": (SHOP, [1137763016]),
    # One that waited to run alone did so when its partition had been read anew, beside what had been read.
    "started-after-its-partition-was-given-up": (KINDS, [2493991119]),
    # A replayed delivery was forgotten when the journal could not be reached as the change was looked at.
    "a-change-not-looked-at-again": (KINDS, [5, 13]),
    # A run that failed after its partition was given up went back to its key, and a later event came first.
    "a-run-of-a-partition-given-up": (RUNS, [5]),
    # Fifty workers looked two hundred times a second whether the one that ran alone was done.
    "waiting-for-one-that-runs-alone-by-looking": (KINDS, [753, 787]),
    # A relay whose journal was away as it wanted to give back its lease ended for good, and in silence.
    "a-relay-that-could-not-leave": (CARRIED["log"], [1]),
    # The second process found the service known, and brought in what was sent from now on; what was sent before was lost.
    "an-intake-that-began-with-now": (CARRIED["log"], [3]),
    # A relay read the position, lost its lease, and read the numbers of another: events went out under others' numbers.
    "numbers-and-position-of-two-moments": (CARRIED["unordered"], [44]),
    # A spine was closed while it waited for the broker, and began to bring events in afterwards.
    "an-intake-begun-after-its-end": (CARRIED["unordered"], [57]),
    # The first events of a key were with a process that was gone; what followed them came first, and passed for the beginning.
    "a-beginning-that-came-again-later": (CARRIED["queue"], [1, 140]),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name: str) -> None:
    setup, seeds = FOUND[name]
    assert [setup.run(seed).broken for seed in seeds] == [None] * len(seeds)


OF_BROKERS = ["broker_cuts", "broker_stops", "sends_lost", "sends_unanswered", "doubled", "delayed", "settles_lost"]


@pytest.mark.parametrize("kind", [name for name in Faults.__dataclass_fields__ if not name.endswith("_s")])
def test_each_fault_reaches_the_history(kind: str) -> None:
    """By itself, and the promises hold; what is killed while it drains has to drain first."""
    much = 5 if type(Faults.__dataclass_fields__[kind].default) is int else 0.2
    more = {"restarts": 5} if kind == "killed_draining" else {}
    faults = replace(Faults.none(), **{kind: much}, **more)
    broker = "queue" if kind in OF_BROKERS else None
    histories = [Setup((stock, books), orders, (), 2, faults, None, broker).run(seed) for seed in range(3)]
    assert {history.broken for history in histories} == {None}
    assert kind in {place.kind for history in histories for place in history.faults}


PRINT_HASHES = """
from tests.simulate.carried import CARRIED
from tests.simulate.setups import CHAINS, CHAINS_OFTEN, CHAINS_OPERATED, KINDS, KINDS_OPERATED, SHOP
print([setup.run(seed).hash for setup in (SHOP, KINDS, *CARRIED.values()) for seed in range(3)])
"""


def test_a_history_does_not_depend_on_hashes_addresses_or_the_process() -> None:
    told = set()
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PRINT_HASHES]
        told.add(subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert len(told) == 1


def test_without_faults_nothing_is_injected() -> None:
    history = Setup((stock, books), orders, (), 2, Faults.none(), None).run(1)
    assert history.broken is None
    assert history.faults == ()


def test_a_failure_names_its_seed_and_the_few_faults_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory_units, "_is_repetition", lambda *_: False)
    monkeypatch.setattr(_memory_units, "_finished_in_part", lambda *_: None)
    with pytest.raises(SimulationFailed, match="effects happen once") as failed:
        simulate(stock, books, drive=orders, histories=200, seed=2)
    history = failed.value.history
    assert len(history.faults) <= 6
    test = "tests/simulate/test_simulate.py::test_a_failure_names_its_seed_and_the_few_faults_that_it_takes"
    assert f"Run it again: SPINE_SEED={history.seed} SPINE_HISTORIES=1 python -m pytest {test}" in str(failed.value)
    assert "is killed" in str(failed.value) or "lost_answers" in str(failed.value) or "stopped" in str(failed.value)


def test_the_environment_shows_a_failure_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINE_SEED", "7")
    monkeypatch.setenv("SPINE_HISTORIES", "1")
    simulated = simulate(stock, drive=orders, histories=50, seed=1)
    assert (simulated.seed, simulated.histories) == (7, 1)


def test_an_invariant_of_ones_own_that_does_not_hold_fails_the_history() -> None:
    def nobody_orders(world: World) -> str | None:
        return f"{len(world.records)} events" if world.records else None

    with pytest.raises(SimulationFailed, match="nobody orders: "):
        simulate(stock, drive=orders, invariants=[nobody_orders], histories=1, seed=1)


def test_an_invariant_may_assert() -> None:
    def nobody_orders(world: World) -> None:
        assert not world.records, "somebody did"

    with pytest.raises(SimulationFailed, match="nobody orders: somebody did"):
        simulate(stock, drive=orders, invariants=[nobody_orders], histories=1, seed=1)


def test_whatever_an_invariant_raises_breaks_it_and_is_told_as_others_are() -> None:
    def every_order_has_a_name(world: World) -> None:
        {"c0": 1}["A-3"]

    def every_share_is_known(world: World) -> None:
        json.loads("no JSON")

    for holds, says in (
        (
            every_order_has_a_name,
            """every order has a name: KeyError: 'A-3' (test_simulate.py, line {}: {{"c0": 1}}["A-3"])""",
        ),
        (
            every_share_is_known,
            """every share is known: JSONDecodeError: {error} (test_simulate.py, line {}: json.loads("no JSON"))""",
        ),
    ):
        line, error = holds.__code__.co_firstlineno + 1, "Expecting value: line 1 column 1 (char 0)"
        with pytest.raises(SimulationFailed) as failed:
            simulate(stock, drive=orders, invariants=[holds], histories=1, seed=1)
        told = str(failed.value)
        assert told.startswith(says.format(line, error=error) + "\n\nseed 1, with these faults: none at all\n"), told
        assert "starts" in told
        assert "Run it again: SPINE_SEED=1 SPINE_HISTORIES=1 python -m pytest" in told


def test_an_assertion_without_words_is_told_with_its_line() -> None:
    def nobody_orders(world: World) -> None:
        raise AssertionError

    line = nobody_orders.__code__.co_firstlineno + 1
    with pytest.raises(
        SimulationFailed, match=rf"nobody orders: its assertion failed \(test_simulate.py, line {line}: "
    ):
        simulate(stock, drive=orders, invariants=[nobody_orders], histories=1, seed=1)


def test_a_scenario_that_is_no_coroutine_says_what_to_write() -> None:
    def plain(world: World) -> None: ...

    async def yields(world: World) -> Any:
        yield

    for drive in (plain, yields):
        with pytest.raises(SettingsError, match=f"Write `async def {drive.__name__}"):
            simulate(stock, drive=drive, histories=1, seed=1)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="drive=None is no function"):
        simulate(stock, drive=None, histories=1, seed=1)  # type: ignore[arg-type]
    assert simulate(stock, drive=partial(orders), histories=1, seed=1).histories == 1


def test_the_timeline_says_which_events_were_published() -> None:
    async def two(world: World) -> None:
        await world.publish(OrderPlaced(customer="c0", number=1), OrderPlaced(customer="c1", number=2))
        await world.publish(OrderPlaced(customer="c2", number=3), after=timedelta(minutes=1))

    told = Setup((stock,), two, (), 1, Faults.none(), None).run(1).told()
    assert "published  OrderPlaced #1 of key 'c0', OrderPlaced #2 of key 'c1'\n" in told
    assert "published  OrderPlaced of key 'c2'\n" in told
    assert "commit done  stock.reserve #1, stock.StockReserved #3 of key 'c0'\n" in told


@pytest.mark.parametrize("answer", [True, False, 0, []])
def test_an_invariant_that_returns_neither_none_nor_text_is_refused(answer: object) -> None:
    """True would fail every history and False pass each, which is the other way round of what most would mean."""

    def it_adds_up(world: World) -> Any:
        return answer

    with pytest.raises(SettingsError, match="it_adds_up returned .* return None or what is wrong, or assert"):
        simulate(stock, drive=orders, invariants=[it_adds_up], histories=1, seed=1)


def test_an_invariant_that_is_a_coroutine_is_refused() -> None:
    async def it_adds_up(world: World) -> None:
        raise AssertionError("nobody would see it")

    with pytest.raises(SettingsError, match="it_adds_up is an `async def`"):
        simulate(stock, drive=orders, invariants=[it_adds_up], histories=1, seed=1)  # type: ignore[list-item]


def test_a_scenario_that_forgot_to_await_is_told_so() -> None:
    """Nothing would have been published, and all invariants hold of nothing."""

    async def forgets(world: World) -> None:
        world.publish(OrderPlaced(customer="c0", number=1))  # type: ignore[unused-coroutine]

    async def sleeps(world: World) -> None:
        world.sleep(seconds=1)  # type: ignore[unused-coroutine]

    for drive, call in ((forgets, "publish"), (sleeps, "sleep")):
        with pytest.raises(SettingsError, match=rf"drive called world.{call}\(...\) and did not await it"):
            simulate(stock, drive=drive, histories=1, seed=1)


def test_a_scenario_may_publish_in_tasks_of_its_own() -> None:
    tasks = []

    async def hurries(world: World) -> None:
        for number in range(3):
            one = OrderPlaced(customer="c0", number=number)
            tasks.append(asyncio.get_running_loop().create_task(world.publish(one)))

    simulate(stock, drive=hurries, histories=1, seed=1, faults=Faults.none())


def test_what_a_scenario_raises_names_its_history() -> None:
    async def wrong(world: World) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        simulate(stock, drive=wrong, histories=1, seed=17)
    assert "SPINE_SEED=17" in raised.value.__notes__[0]


def handling(function: object) -> Service:
    service = Service("mine")
    service.on(OrderPlaced)(function)
    return service


def test_what_is_given_up_is_seen_by_who_asks() -> None:
    async def refuse(event: OrderPlaced) -> None:
        raise Reject("never")

    with pytest.raises(
        SimulationFailed, match="mine.refuse gave up an event of key 'c0' after 1 attempts: Reject: never"
    ):
        simulate(handling(refuse), drive=orders, invariants=[nothing_is_dead], histories=1, seed=1)


def test_real_threads_networks_and_connections_are_refused() -> None:
    async def elsewhere(event: OrderPlaced) -> None:
        await asyncio.to_thread(print)

    async def abroad(event: OrderPlaced) -> None:
        await asyncio.open_connection("localhost", 1)

    for function in (elsewhere, abroad):
        with pytest.raises(SimulationFailed, match="This can't be simulated: .* Give the services a fake"):
            simulate(handling(function), drive=orders, histories=1, seed=1, faults=Faults.none())


def test_a_thread_of_the_handlers_own_is_refused() -> None:
    """As of an asynchronous driver for SQLite."""

    async def asks(event: OrderPlaced) -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, None))
        thread.start()
        thread.join()
        await answer

    with pytest.raises(SimulationFailed, match="This can't be simulated: a thread .* Give the services a fake"):
        simulate(handling(asks), drive=orders, histories=1, seed=1, faults=Faults.none())


def test_who_waits_for_something_real_is_told_that_it_can_not_be_simulated() -> None:
    async def waits(event: OrderPlaced) -> None:
        await asyncio.Event().wait()

    with pytest.raises(
        SimulationFailed, match=r"mine\.waits ran out of time\. If it awaits something outside .* Give it a fake"
    ):
        simulate(handling(waits), drive=orders, invariants=[nothing_is_dead], histories=1, seed=1)


def test_joining_a_connection_is_refused_with_what_can_be_simulated() -> None:
    async def joins(event: OrderPlaced, delivery: Delivery) -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            delivery.join(connection)

    history = Setup((handling(joins),), orders, (), 1, Faults.none(), None).run(1)
    assert "no database that within= or delivery.join() could write on" in str(history.broken)


def test_mistakes_in_the_call_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="no service"):
        simulate(drive=orders)
    with pytest.raises(SettingsError, match="is none"):
        simulate(orders, drive=orders)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no handlers"):
        simulate(Service("empty"), drive=orders)
    with pytest.raises(SettingsError, match="broker='kafka'"):
        simulate(stock, drive=orders, broker="kafka")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="probability"):
        Faults(slow=2.0)
    monkeypatch.setenv("SPINE_SEED", "four")
    with pytest.raises(SettingsError, match="SPINE_SEED='four'"):
        simulate(stock, drive=orders)
