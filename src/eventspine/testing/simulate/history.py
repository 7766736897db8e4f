"""One history from its seed: run, checked, and told."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import isawaitable
from typing import Any

from ...errors import BrokerError, JournalError, SettingsError
from ...service import Service
from .broker import Kind
from .faults import Faults, Place
from .invariants import ALWAYS, Invariant
from .loop import Stuck, sweep
from .world import NotSettled, Told, World

Scenario = Callable[[World], Awaitable[None]]
SETTLED_WITHIN_S = 3600.0  # of virtual time, after the last event
SHORTENING_MAX = 200  # histories
_HEARD = (logging.getLogger("eventspine.engine"), logging.getLogger("eventspine.broker"))


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
    broker: Kind | None = None
    settled_within_s: float = SETTLED_WITHIN_S

    def run(self, seed: int, left_out: frozenset[Place] = frozenset()) -> History:
        with _uncollected():
            return self._history(seed, left_out)

    def _history(self, seed: int, left_out: frozenset[Place]) -> History:
        """In a frame of its own: the world is garbage before the collector runs, and not promoted first."""
        world = World(
            self.services,
            seed=seed,
            processes=self.processes,
            faults=self.faults,
            service=self.service,
            broker=self.broker,
            left_out=left_out,
        )
        with quiet(), _listening(world), _named(seed):
            broken = self._run(world)
        loop = world.loop
        return History(seed, broken, tuple(world.dice.injected), world.timeline, loop.steps, loop.elapsed_s)

    def _run(self, world: World) -> str | None:
        loop = world.loop
        try:
            return loop.run_until_complete(self._live(world))
        except Stuck as stuck:
            return world.refused or str(stuck)
        finally:
            loop.bury_threads()
            for process in (*world.processes, *world.ended, *world.killed):
                loop.bury(process.turns)
            loop.bury(loop.world)
            loop.close()
            for site in world.sites:
                site.tables.close()

    async def _live(self, world: World) -> str | None:
        await world.start()
        await self._driven(world)
        try:
            await world.settle(self.settled_within_s)
        except NotSettled as error:
            return world.refused or _with_advice(world, str(error))
        await world.stop()
        world.refuse_unawaited()
        return world.refused or _with_advice(world, self._checked(world))

    async def _driven(self, world: World) -> None:
        driving: Any = self.drive(world)
        if not isawaitable(driving):
            name = name_of(self.drive)
            raise SettingsError(
                f"drive has to be an `async def` without `yield`, and {name} gave {driving!r:.100}, which can't be awaited. Write "
                f"`async def {name}(world): ...`, with `await world.publish(...)` in it."
            )
        await driving

    def _checked(self, world: World) -> str | None:
        broken: str | None
        for holds in (*ALWAYS, *self.invariants):
            try:
                answer = holds(world)
            except AssertionError as error:
                broken = str(error) or f"its assertion failed{_raised_at(holds, error)}"
            except Exception as error:  # noqa: BLE001 -- it is a user's: whatever it raises, it does not hold
                broken = f"{type(error).__name__}: {error}{_raised_at(holds, error)}"
            else:
                broken = _said(holds, answer)
            if broken:
                return f"{name_of(holds).replace('_', ' ')}: {broken}"
        return None


def name_of(function: Any) -> str:
    """Also of what has none, such as a partial."""
    return str(getattr(function, "__name__", type(function).__name__))


def _raised_at(holds: Invariant, error: Exception) -> str:
    """The line of theirs, and not that of a library which it called."""
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(getattr(holds, "__code__", None), "co_filename", None)
    at = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
    line = f": {at.line}" if at.line else ""
    return f" ({os.path.basename(at.filename)}, line {at.lineno}{line})"


def _with_advice(world: World, broken: str | None) -> str | None:
    """What waits for something real is not seen to: nothing else is under way, so its time is over at once."""
    if broken is None or (name := world.timed_out) is None:
        return broken
    return (
        f"{broken}\n\n{name} ran out of time. If it awaits something outside of the simulation, such as a socket, a thread or another "
        "process, it can't be simulated: virtual time does not wait for real answers. Give it a fake, for example in its lifespan."
    )


def _said(holds: Invariant, answer: Any) -> str | None:
    """What is wrong, or None. A bool says neither: True may mean that it holds, or that something is wrong."""
    if answer is None or isinstance(answer, str):
        return answer
    raise SettingsError(
        f"The invariant {name_of(holds)} returned {answer!r:.100}. It has to return None or what is wrong, or assert."
    )


class _Stumbles(logging.Handler):
    """Errors of the engine's own are logged with their traceback, and survived; here they are what is looked for."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if "never came" in str(record.msg):
            self.world.wrong.append(record.getMessage())
        if error is not None and not isinstance(error, BrokerError | JournalError):
            where = traceback.extract_tb(error.__traceback__)[-1:]
            at = f" ({where[0].name}, line {where[0].lineno})" if where else ""
            self.world.wrong.append(f"{record.getMessage()}: {type(error).__name__}: {error}{at}")


@contextmanager
def _listening(world: World) -> Iterator[None]:
    """What is wrong with the engine is told to the history."""
    stumbles = _Stumbles(world)
    for each in _HEARD:
        each.addHandler(stumbles)
    try:
        yield
    finally:
        for each in _HEARD:
            each.removeHandler(stumbles)


@contextmanager
def quiet() -> Iterator[None]:
    """Around histories: nothing is logged but what is wrong with the engine, and that to nobody but the history."""
    disabled, propagated = logging.root.manager.disable, [each.propagate for each in _HEARD]
    if disabled >= logging.WARNING and not any(propagated):  # around many of them, since it makes all loggers forget
        yield
        return
    logging.disable(logging.WARNING)
    for each in _HEARD:
        each.propagate = False
    try:
        yield
    finally:
        logging.disable(disabled)  # not by the attribute alone: loggers remember what is enabled
        for each, before in zip(_HEARD, propagated, strict=True):
            each.propagate = before


@contextmanager
def _uncollected() -> Iterator[None]:
    """The garbage collector runs between histories: what it finalizes in one would be done at a time of its own. All that
    a history leaves is young by then, and is collected at once."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        sweep(0)
        if was:
            gc.enable()


@contextmanager
def _named(seed: int) -> Iterator[None]:
    """What a scenario or an invariant raises says which history it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"In history {seed}: run it again with SPINE_SEED={seed} SPINE_HISTORIES=1.")
        raise


def shortened(setup: Setup, failing: History) -> History:
    """The same failure with as few faults as possible: none, if it takes none; else first halves are left out, then less and
    less, then one after the other until none can be spared."""
    bare = replace(setup, faults=Faults.none()).run(failing.seed)
    if bare.broken:
        return bare
    left_out: frozenset[Place] = frozenset()
    best, tries = failing, SHORTENING_MAX
    size = max(1, len(failing.faults) // 2)
    while True:
        before, at = best, 0
        while at < len(best.faults):
            if not tries:
                return best
            tries -= 1
            without = left_out | set(best.faults[at : at + size])
            tried = setup.run(failing.seed, without)
            if tried.broken:
                best, left_out = tried, without  # what came behind it is here now
            else:
                at += size
        if size == 1 and best is before:
            return best
        size = max(1, size // 2)
