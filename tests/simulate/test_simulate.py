"""The simulator itself: one seed is one history, what is broken is found, and a failure can be read and shown again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventspine.journal import _memory_units
from eventspine.testing.simulate import Faults, SimulationFailed, World, simulate
from eventspine.testing.simulate.history import Setup
from tests.simulate.shop import books, each_order_takes_stock_once, orders, stock

ROOT = Path(__file__).parents[2]
SETUP = Setup((stock, books), orders, (each_order_takes_stock_once,), 2, Faults(), None)


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPINE_SEED", "SPINE_HISTORIES"):
        monkeypatch.delenv(name, raising=False)


def test_the_promises_hold_in_every_history() -> None:
    simulated = simulate(
        stock, books, drive=orders, invariants=[each_order_takes_stock_once], histories=60, seed=1, processes=2
    )
    assert simulated.histories == 60
    assert simulated.faults > 60


def test_one_seed_is_one_history() -> None:
    first, second = SETUP.run(3), SETUP.run(3)
    assert first.timeline == second.timeline
    assert first.hash == second.hash
    assert first.hash != SETUP.run(4).hash


PRINT_HASHES = """
from tests.simulate.test_simulate import SETUP
print([SETUP.run(seed).hash for seed in range(8)])
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
        simulate(stock, books, drive=orders, histories=200, seed=1)
    history = failed.value.history
    assert len(history.faults) <= 6
    assert f"SPINE_SEED={history.seed}" in str(failed.value)
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
