"""The memory broker as one simulated process has it: behind a connection on which batches arrive in part, answers are lost,
messages come late, twice and, if the broker keeps no order, in any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ...brokers.memory import MemoryBroker, MemoryIntake
from ...brokers.port import Fetched, Message, Sent, Start
from ...errors import BrokerError
from .loop import others_turn

if TYPE_CHECKING:
    from .process import Process
    from .world import World

Kind = Literal["log", "queue", "unordered"]
DELAY_S = 3.0


class FlakyBroker(MemoryBroker):
    def __init__(self, world: World, process: Process) -> None:
        server, kind = world.broker, world.broker_kind
        assert server is not None
        super().__init__(server, kind="log" if kind == "log" else "queue", ordered=kind != "unordered")
        self.world = world
        self.process = process
        self.intakes: list[FlakyIntake] = []

    async def travel(self) -> None:
        """To the broker; it may take a while, or fail on the way."""
        world, who = self.world, self.process.name
        await others_turn()
        amount = world.falls(who, "broker slow", world.faults.slow)
        if amount is not None:
            await asyncio.sleep(amount * world.faults.slow_s)
        if not self.process.reaches_broker:
            await asyncio.sleep(0.05)
            raise BrokerError("The simulated broker can't be reached.")
        self.server.reach()

    async def open(self) -> None:
        await self.travel()

    async def claim(self, *args: Any, **options: Any) -> str:
        await self.travel()
        return await super().claim(*args, **options)

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        await self.travel()
        world, who = self.world, self.process.name
        amount = world.falls(who, "sends_lost", world.faults.sends_lost)
        arrived = len(messages) if amount is None else int(amount * len(messages))
        answers = [*(self._send(message) for message in messages[:arrived])]
        self.server.ring()
        world.tell(who, "sent", _which(messages[:arrived]))
        await others_turn()
        if world.falls(who, "sends_unanswered", world.faults.sends_unanswered) is not None:
            raise BrokerError("The simulated broker did not answer.")
        return [*answers, *(BrokerError("It may have been lost.") for _ in messages[arrived:])]

    def _send(self, message: Message) -> Sent:
        world = self.world
        if world.falls(self.process.name, "doubled", world.faults.doubled) is not None:
            super()._send(message)
        return super()._send(message)

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> FlakyIntake:
        await self.travel()
        made = FlakyIntake(self, channel, consumer)
        self.intakes.append(made)
        return made

    def dies(self) -> None:
        """The broker sees that the connection is gone."""
        for intake in self.intakes:
            intake.abandon()


class FlakyIntake(MemoryIntake):
    def __init__(self, broker: FlakyBroker, channel: str, consumer: str) -> None:
        super().__init__(broker, channel, consumer)
        self._flaky = broker
        self._later: list[tuple[float, Fetched]] = []  # what comes at that time

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int | None:
        await self._flaky.travel()
        return await super().begin(partition, after=after, start=start, epoch=epoch)

    async def end(self, partition: int) -> None:
        self._later = [late for late in self._later if late[1].partition != partition]
        await super().end(partition)

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        await self._flaky.travel()
        found = await super().fetch(most, 0.01 if self._later else wait_s)
        return self._on_time(found)

    def _on_time(self, found: Sequence[Fetched]) -> list[Fetched]:
        """Some of it comes later: in order behind the first that does, or each by itself."""
        world, who, now = self._flaky.world, self._flaky.process.name, asyncio.get_running_loop().time()
        due = [late[1] for late in self._later if late[0] <= now]
        self._later = [late for late in self._later if late[0] > now]
        if self._features.ordered:
            if self._later:  # what came now is behind it
                until = self._later[-1][0]
                self._later += [(until, one) for one in found]
                return due
            amount = world.falls(who, "delayed", world.faults.delayed) if found else None
            if amount is not None:
                first = int(amount * len(found))
                self._later = [(now + amount * DELAY_S, one) for one in found[first:]]
                found = found[:first]
            return [*due, *found]
        for one in found:
            amount = world.falls(who, "delayed", world.faults.delayed)
            if amount is None:
                due.append(one)
            else:
                self._later.append((now + amount * DELAY_S, one))
        return due

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        await self._flaky.travel()
        world = self._flaky.world
        if world.falls(self._flaky.process.name, "settles_lost", world.faults.settles_lost) is not None:
            raise BrokerError("The simulated broker did not hear what was settled.")
        await super().settle(fetched)


def _which(messages: Sequence[Message]) -> str:
    return ", ".join(f"{one.headers['ce_spineslot']}/{int(one.headers['ce_sequence'])}" for one in messages[:12])
