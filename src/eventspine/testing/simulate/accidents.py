"""What happens to processes as a whole: they are killed, stopped, cut off, told to end, and their clocks are set.

Most accidents are planned for a numbered turn of a process, so that they come at any await of its life; clocks are set at
a time. One that is still to come when the scenario is over comes soon."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .process import LEASE_S, Process

if TYPE_CHECKING:
    from .world import World

LIVES = (40, 150, 600)  # turns within which an accident comes
SOON = 30  # turns
DRAINING = 40  # turns
CLOCK_US = 120e6  # between the furthest back and the furthest ahead
OFTEN = 0.8

Happens = Callable[[Process, float], None]


class Accidents:
    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = world.loop
        self.faults = world.faults
        self.chance = world.dice.stream("world", "accidents")

    def plan(self) -> None:
        faults = self.faults
        planned: list[tuple[str, int, Happens]] = [
            ("crashes", faults.crashes, self.kill),
            ("restarts", faults.restarts, self.restart),
            ("pauses", faults.pauses, self.pause),
            ("cuts", faults.cuts, self.cut),
        ]
        if self.world.broker is not None:
            planned += [
                ("broker_cuts", faults.broker_cuts, self.cut_off_broker),
                ("broker_stops", faults.broker_stops, self.stop_broker),
            ]
        for kind, count, happens in planned:
            for _ in range(count):
                process, turn, size = self._somebody(), self._turn(), self.chance.random()
                if self.world.falls("world", kind, OFTEN) is not None:
                    self._at(process, turn, happens, size)
        for _ in range(faults.clock_jumps):
            process, when, size = self._somebody(), 10 ** self.chance.uniform(-1, 2), self.chance.random()
            if self.world.falls("world", "clock_jumps", OFTEN) is not None:
                self.loop.call_later(when, self._set_clock, process, size, context=self.world.context)

    def _somebody(self) -> Process:
        return self.chance.choice(self.world.processes)

    def _turn(self) -> int:
        return self.chance.randrange(1, self.chance.choice(LIVES))

    def _at(self, process: Process, turn: int, happens: Happens, size: float) -> None:
        while turn in process.turns.accidents:
            turn += 1
        process.turns.accidents[turn] = partial(happens, process, size)

    def soon(self) -> None:
        """Everything is published: what is still to come comes now."""
        for process in self.world.processes:
            turns = process.turns
            planned, turns.accidents = list(turns.accidents.items()), {}
            for number, (turn, happens) in enumerate(sorted(planned, key=_turn_of)):
                turns.accidents[min(turn, turns.steps + 1 + SOON * (number + 1))] = happens

    @property
    def to_come(self) -> bool:
        return any(process.turns.accidents for process in self.world.processes)

    # --- what happens -------------------------------------------------------------------------------------------------

    def kill(self, process: Process, size: float) -> None:
        self.world.tell(process.name, "is killed", f"at its turn {process.turns.steps}")
        self.loop.kill(process.turns)
        process.dies()
        self.world.processes.remove(process)
        self.world.killed.append(process)
        self._start_again(process, size)

    def _start_again(self, process: Process, size: float) -> None:
        base, _, life = process.name.partition("'")
        name = f"{base}'{int(life or 1) + 1}"
        start = self.world.start_process
        self.loop.call_later(size * 2 * LEASE_S, start, name, process.site, context=self.world.context)

    def restart(self, process: Process, size: float) -> None:
        if process.ending:
            return
        world = self.world
        world.tell(process.name, "is told to end", "")
        process.end()
        dies = world.falls("world", "killed_draining", self.faults.killed_draining)
        if dies is not None:
            self._at(process, process.turns.steps + 1 + int(dies * DRAINING), self.kill, size)
        self.loop.create_task(self._replaced(process, size), context=world.context)

    async def _replaced(self, process: Process, size: float) -> None:
        await process.ended.wait()
        if process not in self.world.processes:  # it was killed in its last moments
            return
        self.world.tell(process.name, "has ended", "")
        process.turns.accidents.clear()
        self.world.processes.remove(process)
        self.world.ended.append(process)
        self._start_again(process, size)

    def pause(self, process: Process, size: float) -> None:
        self.world.tell(process.name, "is stopped", f"for {size * 3 * LEASE_S:.1f} s")
        self.loop.stop_turns(process.turns)
        self.loop.call_later(size * 3 * LEASE_S, self._go_on, process, context=self.world.context)

    def _go_on(self, process: Process) -> None:
        self.world.tell(process.name, "goes on", "")
        self.loop.continue_turns(process.turns)

    def cut(self, process: Process, size: float) -> None:
        self.world.tell(process.name, "is cut off the journal", f"for {size * self.faults.cut_s:.1f} s")
        process.reaches_journal = False
        self.loop.call_later(size * self.faults.cut_s, self._join, process, context=self.world.context)

    def _join(self, process: Process) -> None:
        process.reaches_journal = True

    def cut_off_broker(self, process: Process, size: float) -> None:
        self.world.tell(process.name, "is cut off the broker", f"for {size * self.faults.cut_s:.1f} s")
        process.reaches_broker = False
        self.loop.call_later(size * self.faults.cut_s, self._join_broker, process, context=self.world.context)

    def _join_broker(self, process: Process) -> None:
        process.reaches_broker = True

    def stop_broker(self, _: Process, size: float) -> None:
        server = self.world.broker
        assert server is not None
        self.world.tell("broker", "is away", f"for {size * self.faults.cut_s:.1f} s")
        server.stop()
        self.loop.call_later(size * self.faults.cut_s, server.restart, context=self.world.context)

    def _set_clock(self, process: Process, size: float) -> None:
        if not self.world.calm:
            process.clock.ahead_us = round((size - 0.5) * CLOCK_US)
            self.world.tell(process.name, "has its clock set", f"by {process.clock.ahead_us / 1e6:+.1f} s")


def _turn_of(planned: tuple[int, object]) -> int:
    return planned[0]
