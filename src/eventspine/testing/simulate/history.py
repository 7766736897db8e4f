"""One history from its seed: run, checked, and told."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...service import Service
from .faults import Faults, Place
from .invariants import ALWAYS, Invariant
from .loop import Stuck
from .world import NotSettled, Told, World

Scenario = Callable[[World], Awaitable[None]]
SETTLED_WITHIN_S = 3600.0  # of virtual time, after the last event
SHORTENING_MAX = 60  # histories


@dataclass(slots=True)
class History:
    """What became of one seed."""

    seed: int
    broken: str | None  # what did not hold; None: everything did
    faults: tuple[Place, ...]
    timeline: list[Told]
    steps: int
    lasted_s: float  # of virtual time

    @property
    def hash(self) -> str:
        """The same for the same history."""
        digest = hashlib.blake2b(digest_size=16)
        for told in self.timeline:
            digest.update(f"{told.at_s!r} {told.who} {told.what} {told.detail}\n".encode())
        digest.update(f"{self.steps} {self.lasted_s!r}".encode())
        return digest.hexdigest()

    def told(self, last: int = 200) -> str:
        lines = [f"{told.at_s:10.3f} s  {told.who:8}  {told.what}  {told.detail}" for told in self.timeline]
        left_out = len(lines) - last
        return "\n".join([f"… {left_out} lines before", *lines[-last:]] if left_out > 0 else lines)


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a history is made of, but for its seed."""

    services: Sequence[Service[Any]]
    drive: Scenario
    invariants: Sequence[Invariant]
    processes: int
    faults: Faults
    service: Service[Any] | None

    def run(self, seed: int, left_out: frozenset[Place] = frozenset()) -> History:
        disabled, logging.root.manager.disable = logging.root.manager.disable, logging.CRITICAL
        try:
            return self._run(seed, left_out)
        finally:
            logging.root.manager.disable = disabled

    def _run(self, seed: int, left_out: frozenset[Place]) -> History:
        world = World(
            self.services,
            seed=seed,
            processes=self.processes,
            faults=self.faults,
            service=self.service,
            left_out=left_out,
        )
        loop = world.loop
        try:
            broken = loop.run_until_complete(self._live(world))
        except Stuck as stuck:
            broken = str(stuck)
        finally:
            for process in (*world.processes, *world.dead):
                loop.bury(process.turns)
            loop.bury(loop.world)
            loop.close()
        return History(seed, broken, tuple(world.dice.injected), world.timeline, loop.steps, loop.time())

    async def _live(self, world: World) -> str | None:
        await world.start()
        await self.drive(world)
        try:
            await world.settle(SETTLED_WITHIN_S)
        except NotSettled as error:
            return str(error)
        await world.stop()
        for holds in (*ALWAYS, *self.invariants):
            broken = holds(world)
            if broken:
                return f"{holds.__name__.replace('_', ' ')}: {broken}"
        return None


def shortened(setup: Setup, failing: History) -> History:
    """The same failure with as few faults as possible: first halves are left out, then one after the other."""
    left_out: frozenset[Place] = frozenset()
    best, left = failing, SHORTENING_MAX
    size = max(1, len(failing.faults) // 2)
    while True:
        before = best
        for at in range(0, len(best.faults), size):
            without = left_out | set(best.faults[at : at + size])
            tried = setup.run(failing.seed, without)
            left -= 1
            if tried.broken:
                best, left_out = tried, without
                break
            if not left:
                return best
        if best is before:
            if size == 1:
                return best
            size = max(1, size // 2)
