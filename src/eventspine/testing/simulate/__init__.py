"""Run services through thousands of histories in which everything goes wrong, and see that the promises hold.

    from eventspine.testing.simulate import World, simulate

    async def orders(world: World) -> None:
        for number in range(12):
            await world.publish(OrderPlaced(order_id=f"A-{number}", ...))

    def test_no_stock_is_sold_twice() -> None:
        simulate(inventory, email, drive=orders, invariants=[stock_adds_up], histories=1000)

The engine, the services and the journal are the real ones, the journal in memory; time, the order of turns, the network
and the accidents come from one seed. A history whose end breaks an invariant is run again with fewer and fewer faults,
and told as a timeline with the seed that shows it again."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any

from ...service import Service
from .faults import Faults, Place
from .history import History, Scenario, Setup, shortened
from .invariants import Invariant
from .world import Effect, Injected, World

__all__ = ["Effect", "Faults", "History", "Injected", "Place", "Simulated", "SimulationFailed", "World", "simulate"]

SEED_VARIABLE = "SPINE_SEED"
HISTORIES_VARIABLE = "SPINE_HISTORIES"


class SimulationFailed(AssertionError):
    """A history broke an invariant; `history` is its shortest form."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


class Simulated:
    """What was run: all of it held."""

    def __init__(self, histories: int, seed: int, seconds: float, steps: int, faults: int) -> None:
        self.histories = histories
        self.seed = seed
        self.seconds = seconds
        self.steps = steps
        self.faults = faults

    def __repr__(self) -> str:
        rate = self.histories / self.seconds if self.seconds else 0.0
        return (
            f"<{self.histories} histories from seed {self.seed}: {self.steps} steps, {self.faults} faults, "
            f"{rate:.0f} histories/s>"
        )


def simulate(
    *services: Service[Any],
    drive: Scenario,
    invariants: Sequence[Invariant] = (),
    histories: int = 100,
    seed: int | None = None,
    processes: int = 2,
    faults: Faults | None = None,
    service: Service[Any] | None = None,
) -> Simulated:
    """Run histories `seed`, `seed + 1`, … of these services in `processes` processes each.

    `drive` is the world outside: it publishes, and waits; `service` is whom it publishes for (otherwise any context that
    the services subscribe to). An invariant takes the world at its end and returns what is wrong with it, or None. The
    environment's SPINE_SEED and SPINE_HISTORIES, where they are set, win: so a failure is shown again. Raises
    SimulationFailed."""
    first = int(os.environ.get(SEED_VARIABLE) or (random.randrange(1 << 32) if seed is None else seed))
    count = int(os.environ.get(HISTORIES_VARIABLE) or histories)
    setup = Setup(services, drive, tuple(invariants), processes, faults or Faults(), service)
    began = time.perf_counter()
    steps = injected = 0
    for number in range(first, first + count):
        history = setup.run(number)
        steps += history.steps
        injected += len(history.faults)
        if history.broken:
            raise _failed(setup, history)
    return Simulated(count, first, time.perf_counter() - began, steps, injected)


def _failed(setup: Setup, history: History) -> SimulationFailed:
    short = shortened(setup, history)
    faults = ", ".join(map(str, short.faults)) or "none at all"
    return SimulationFailed(
        f"{short.broken}\n\nseed {history.seed}, with these faults: {faults}\n\n{short.told()}\n\n"
        f"Run it again with {SEED_VARIABLE}={history.seed} {HISTORIES_VARIABLE}=1.",
        short,
    )
