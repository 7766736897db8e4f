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
import shlex
import time
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import Any

from ...errors import SettingsError
from ...service import Service
from .broker import Kind
from .faults import Faults, Place
from .history import History, Scenario, Setup, quiet, shortened
from .invariants import Invariant, nothing_is_dead
from .loop import sweep
from .process import Injected
from .site import Dead
from .unmarked import Effect
from .world import World

__all__ = [
    "Dead",
    "Effect",
    "Faults",
    "History",
    "Injected",
    "Invariant",
    "Place",
    "Scenario",
    "Simulated",
    "SimulationFailed",
    "World",
    "nothing_is_dead",
    "simulate",
]

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

    @property
    def rate(self) -> float:
        """Histories a second of processor time."""
        return self.histories / self.seconds if self.seconds else 0.0

    def __repr__(self) -> str:
        return (
            f"<{self.histories} histories from seed {self.seed}: {self.steps} steps, {self.faults} faults, "
            f"{self.rate:.0f} histories/s>"
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
    broker: Kind | None = None,
    progress: Callable[[Simulated], None] | None = None,
) -> Simulated:
    """Run histories `seed`, `seed + 1`, … of these services in `processes` processes each.

    `drive` is the world outside: it publishes, and waits; `service` is whom it publishes for (otherwise any context that
    the services subscribe to). With a `broker` ("log", "queue", or "unordered") each service has a journal and processes of its
    own, and so has the world outside; events are carried between them by a memory broker of that kind. An invariant takes the world at its end and returns what is wrong with it, or None; or it
    raises, an assertion or anything else; whatever else it returns is refused. `progress` is told after each history. The environment's SPINE_SEED and SPINE_HISTORIES, where they are set,
    win: so a failure is shown again. Raises SimulationFailed."""
    _check(services, processes, histories)
    if not callable(drive):
        raise SettingsError(
            f"drive={drive!r:.100} is no function. Write `async def drive(world): ...`, and name it here."
        )
    _check_invariants(invariants)
    if broker not in (None, "log", "queue", "unordered"):
        raise SettingsError(f'broker={broker!r}: a simulated broker is "log", "queue", "unordered", or None.')
    first = _of_environment(SEED_VARIABLE, random.randrange(1 << 32) if seed is None else seed)
    count = _of_environment(HISTORIES_VARIABLE, histories)
    setup = Setup(services, drive, tuple(invariants), processes, faults or Faults(), service, broker)
    began = time.process_time()
    done = Simulated(0, first, 0.0, 0, 0)
    try:
        with quiet():
            for number in range(first, first + count):
                history = setup.run(number)
                if history.broken:
                    raise _failed(setup, history)
                done.histories += 1
                done.seconds = time.process_time() - began
                done.steps += history.steps
                done.faults += len(history.faults)
                if progress is not None:
                    progress(done)
    finally:
        sweep()
    return done


def _check(services: Sequence[Any], processes: int, histories: int) -> None:
    if not services:
        raise SettingsError(
            "simulate() was given no service. Pass those that are to run: simulate(inventory, drive=...)."
        )
    for one in services:
        if not isinstance(one, Service):
            raise SettingsError(f"simulate() takes services, one by one, and {one!r} is none.")
        if not one.handlers:
            raise SettingsError(f"The service {one.name!r} has no handlers, so there is nothing of it to simulate.")
    if processes < 1 or histories < 1:
        raise SettingsError(f"processes={processes} and histories={histories} are to be at least 1.")


def _check_invariants(invariants: Sequence[Invariant]) -> None:
    for one in invariants:
        if iscoroutinefunction(one):
            raise SettingsError(
                f"The invariant {one.__name__} is an `async def`. An invariant looks at what there is at the end and awaits "
                "nothing: write it as a plain `def`."
            )


def _of_environment(name: str, otherwise: int) -> int:
    text = os.environ.get(name)
    if not text:
        return otherwise
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"{name}={text!r} is not a whole number.") from None


def _failed(setup: Setup, history: History) -> SimulationFailed:
    short = shortened(setup, history)
    faults = ", ".join(map(str, short.faults)) or "none at all"
    return SimulationFailed(
        f"{short.broken}\n\nseed {history.seed}, with these faults: {faults}\n\n{short.told()}\n\n"
        f"{_again(history.seed)}",
        short,
    )


def _again(seed: int) -> str:
    """How this history alone is run: a command, where pytest says which test this is."""
    variables = f"{SEED_VARIABLE}={seed} {HISTORIES_VARIABLE}=1"
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    return (
        f"Run it again: {variables} python -m pytest {shlex.quote(test)}" if test else f"Run it again with {variables}."
    )
