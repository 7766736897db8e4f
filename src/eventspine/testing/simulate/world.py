"""One simulated history: processes that run the services, a world outside that publishes, and what is known in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from ...events import describe
from ...journal import _memory_control
from ...journal.port import Delivery as Row, Record, Replay, Unit, Verdict
from ...publishing import Receipt
from ...service import Service
from ...spine import Spine
from .accidents import Accidents
from .faults import Dice, Faults, Place
from .loop import Loop
from .process import Process, SimulatedClock
from .shared import MARK, Effect, SharedJournal, Tables

E = TypeVar("E")
LOOK_S = 1.0  # between two looks at whether all is finished


class Told(NamedTuple):
    """A line of the timeline."""

    at_s: float
    who: str
    what: str
    detail: object


class Dead(NamedTuple):
    """A delivery that was given up."""

    handler: str  # "service.name"
    key: str | None
    attempts: int
    reason: str
    error: str
    number: int  # of its row


class NotSettled(Exception):
    pass


class World:
    """What a scenario has in hand: `await world.publish(...)`, `await world.sleep(...)`, and in the end what happened."""

    def __init__(
        self,
        services: Sequence[Service[Any]],
        *,
        seed: int,
        processes: int,
        faults: Faults,
        service: Service[Any] | None = None,
        left_out: frozenset[Place] = frozenset(),
    ) -> None:
        self.seed = seed
        self.faults = faults
        self.services = tuple(services)
        self.dice = Dice(seed, left_out)
        self.loop = Loop(self.dice.stream("world", "turns"))
        self.clock = SimulatedClock(self.loop, self.dice.stream("world", "clock"))
        self.tables = Tables()
        self.journal = SharedJournal(self.clock, self.tables)
        self.timeline: list[Told] = []
        self.acknowledged: list[bytes] = []
        self.wrong: list[str] = []  # what was seen to be wrong on the way
        self.head = 0  # of the feed, when all was finished; what comes later is no longer waited for
        self.calm = False  # the end: nothing goes wrong any more
        self.processes: list[Process] = []  # that live now
        self.killed: list[Process] = []
        self.ended: list[Process] = []  # in order
        self.context = Context()  # of what happens from outside
        self.accidents = Accidents(self)
        self._count = processes
        self._spine = Spine(self.journal, service=service or _outside(services), clock=self.clock)

    # --- for scenarios ------------------------------------------------------------------------------------------------

    async def publish(self, *events: Any, **options: Any) -> Receipt | list[Receipt]:
        """As `Spine.publish`, from outside of all processes."""
        made: Receipt | list[Receipt] = await self._spine.publish(*events, **options)
        self.acknowledged += [receipt.event_id for receipt in (made if isinstance(made, list) else [made])]
        self.tell("world", "published", ", ".join(type(event).__name__ for event in events))
        return made

    async def sleep(self, **duration: float) -> None:
        """`await world.sleep(minutes=5)`, of virtual time."""
        await asyncio.sleep(timedelta(**duration).total_seconds())

    async def replay_dead(self) -> int:
        """As `spine dead replay`: all that is dead is handled again, late; how many. It is asked for twice, as by an
        operator who is not sure, and the second time must change nothing."""
        numbers = [row.number for row in self._rows("dead")]
        changed = await self.journal.control([Replay(numbers)])
        again = await self.journal.control([Replay(numbers)])
        if again:
            self.wrong.append(f"replaying the same {len(numbers)} dead deliveries again changed {again} of them")
        self.tell("world", "replayed", f"{changed} dead deliveries")
        return changed

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)

    # --- for invariants -----------------------------------------------------------------------------------------------

    @property
    def effects(self) -> list[Effect]:
        """Deliveries that were finished by their handlers, in the order of their commits."""
        return self.tables.effects

    @property
    def records(self) -> list[Record]:
        """The feed."""
        return self.journal._tables.feed

    def published(self, kind: type[E]) -> list[E]:
        """All events of this class, by whomever published, in the order of the feed."""
        described = describe(kind)
        return [described.decode(record.data) for record in self.records if record.type == described.name]

    @property
    def dead(self) -> list[Dead]:
        """Deliveries that were given up."""
        names = {row.number: row.name for row in self.journal._tables.subscriptions.values()}
        return [
            Dead(names[row.subscription], row.key, row.attempts, row.reason, row.error, row.number)
            for row in self._rows("dead")
        ]

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """The services' own tables."""
        return self.tables.query(sql, parameters)

    def _rows(self, *states: str) -> list[Row]:
        return [row for row in self.journal._tables.deliveries.values() if row.state in states]

    # --- what happens -------------------------------------------------------------------------------------------------

    def falls(self, who: str, kind: str, probability: float) -> float | None:
        if not probability or self.calm:
            return None
        amount = self.dice.falls(who, kind, probability)
        if amount is not None:
            self.tell(who, kind, f"#{self.dice.injected[-1].number}")
        return amount

    def tell(self, who: str, what: str, detail: object) -> None:
        self.timeline.append(Told(self.loop._now, who, what, detail))

    def committed(self, process: Process, unit: Unit, verdict: Verdict) -> None:
        if verdict.kind != "done" or unit.statements or unit.puts or unit.changes:
            self.tell(process.name, f"commit {verdict.kind}", _what(unit))

    async def start(self) -> None:
        await self._spine.open()
        for number in range(self._count):
            self.start_process(f"p{number + 1}")
        self.accidents.plan()

    def start_process(self, name: str) -> None:
        if not self.calm:  # else it is too late to be of use
            self.processes.append(Process(self, name))
            self.tell(name, "starts", "")

    # --- the end ------------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """What subscriptions have still to do."""
        tables = self.journal._tables
        waiting = [f"{len(tables.timers)} scheduled"] * bool(tables.timers)
        for one in tables.subscriptions.values():
            rows = [row for row in self._rows("parked", "held", "dead") if row.subscription == one.number]
            stopped = {row.key for row in rows if row.state == "dead"} if one.on_dead == "waits" else set()
            parked = sum(row.state != "dead" and row.key not in stopped for row in rows)
            left = 0 if stopped and one.order == "feed" else _memory_control._unfinished(tables, one)
            if left or (parked and not (stopped and one.order == "feed")):  # the others wait for an operator
                waiting.append(f"{one.name}: {left} to read, {parked} parked")
        return waiting

    async def settle(self, limit_s: float) -> None:
        """Until everything published is finished: done, or dead."""
        self.accidents.soon()
        until = self.loop._now + limit_s + self._scheduled_s()
        while self.accidents.to_come or not self.processes or not self._all_registered() or self.unfinished():
            if self.loop._now > until:
                left = "; ".join(self.unfinished()) or "an accident is still to come"
                raise NotSettled(f"Not finished {limit_s:g} s after the last event: {left}")
            await asyncio.sleep(LOOK_S)
        self.head = len(self.records)

    def _scheduled_s(self) -> float:
        last = max((timer.due_us for timer in self.journal._tables.timers.values()), default=0)
        return max(0.0, (last - self.clock.now_us()) / 1e6)

    def _all_registered(self) -> bool:
        declared = sum(len(service.handlers) for service in self.services)
        return len(self.journal._tables.subscriptions) >= declared

    async def stop(self) -> None:
        self.calm = True
        for process in self.processes:
            self.loop.continue_turns(process.turns)
            process.reaches_journal = True
            process.turns.accidents.clear()
            process.end()
        for process in list(self.processes):
            await process.ended.wait()
        await self._spine.close()


def _outside(services: Sequence[Service[Any]]) -> Service[Any]:
    kinds = [kind for service in services for handler in service.handlers.values() for kind in handler.types]
    return Service("outside", publishes=sorted({kind.context for kind in kinds if "/" not in kind.context}))


def _what(unit: Unit) -> str:
    parts = [
        f"{statement.parameters['subscription']} #{statement.parameters['position']}"
        for statement in unit.statements
        if statement.sql == MARK
    ]
    parts += [f"{put.state} #{put.record.position} ({put.reason})" for put in unit.puts]
    parts += [f"delivery {change.number} {change.state or ''}" for change in unit.changes]
    parts += [f"{record.type}" for append in unit.appends for record in append.records]
    return ", ".join(parts)
