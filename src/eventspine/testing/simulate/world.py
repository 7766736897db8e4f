"""One simulated history: processes that run the services, a world outside that publishes, what goes wrong, and what is
known in the end."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Context
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from ...clock import Alarm
from ...errors import SpineError, UnitFailed
from ...journal import _memory_control
from ...journal.memory import MemoryJournal
from ...journal.port import Record, Statement, Unit, Verdict
from ...publishing import Receipt
from ...service import Middleware, Service
from ...spine import Spine
from .faults import Dice, Faults, Place
from .flaky import FlakyJournal
from .loop import Loop, Threads

LEASE_S = 10.0
STARTED_US = 1_700_000_000_000_000  # when every history begins
MARK = "/* an effect */"
TURNS_OF_A_LIFE = 500  # an accident comes at one of the first so many of a process


class Effect(NamedTuple):
    """A delivery that was finished by its handler; with whatever else was in its unit."""

    subscription: str
    event_id: bytes
    position: int
    key: str | None
    late: bool


class Told(NamedTuple):
    """A line of the timeline."""

    at_s: float
    who: str
    what: str
    detail: object


class SimulatedClock:
    def __init__(self, loop: Loop, chance: random.Random) -> None:
        self.random = chance
        self._loop = loop
        self.ahead_us = 0

    def now_us(self) -> int:
        return STARTED_US + round(self._loop._now * 1e6) + self.ahead_us

    def monotonic(self) -> float:
        return self._loop._now + 1.0

    def entropy(self, size: int) -> bytes:
        return self.random.randbytes(size)

    def call_at(self, due_us: int, call: Callable[[], None]) -> Alarm:
        return self._loop.call_later(min(max(0.0, (due_us - self.now_us()) / 1e6), 60.0), call)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return self._loop.call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Spine(Spine):
    def _runtime(self) -> Any:
        runtime = super()._runtime()
        runtime._threads.shutdown()
        runtime._threads = Threads(asyncio.get_running_loop())  # type: ignore[arg-type, assignment]
        return runtime


class Process:
    """A process that runs the services, from one start to its end."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.clock = SimulatedClock(world.loop, world.dice.stream(name, "clock"))
        self.reaches_journal = True
        self.context = Context()
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._end = asyncio.Event()
        self.journal = FlakyJournal(world, self)
        self.turns = world.loop.process(name, self._live)

    async def _live(self) -> None:
        self.context = _here()
        world = self.world
        spine = _Spine(self.journal, clock=self.clock, lease_s=LEASE_S, middleware=[Meddler(self)])
        while not self._end.is_set():
            try:
                async with spine, spine.running(*world.services) as running:
                    self.ready.set()
                    await self._end.wait()
                if running.drained is False:
                    world.tell(self.name, "did not drain in time", "")
            except SpineError as error:  # whoever starts processes starts them again
                world.tell(self.name, "ended by an error", str(error))
                await asyncio.sleep(1.0)
        self.ended.set()

    def end(self) -> None:
        self._end.set()


class Meddler(Middleware):
    """Around each attempt: slows it, fails it, and has its unit carry a mark that is counted when it commits."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        world, who = self.process.world, self.process.name
        amount = world.falls(who, "slow_handlers", world.faults.slow_handlers)
        if amount is not None:
            await asyncio.sleep(amount * world.faults.handler_s)
        fails = world.falls(who, "failing", world.faults.failing)
        if fails is not None and fails < 0.5:
            raise Injected("before the handler")
        result = await proceed()
        if fails is not None:
            raise Injected("after the handler")
        for one in _deliveries(event, delivery):
            delivery.execute(
                MARK,
                subscription=one.handler,
                event_id=one.record.id,
                position=one.record.position,
                key=one.key,
                late=one.late,
            )
        return result


def _deliveries(event: Any, delivery: Any) -> Iterator[Any]:
    if isinstance(event, list):
        yield from (delivery.of(one) for one in event)
    else:
        yield delivery


class Injected(Exception):
    """A fault of the simulator's: what a handler may raise on any day."""


class Tables:
    """The services' own tables, in a database of this history's alone; and the marks of units that committed."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._connection: sqlite3.Connection | None = None
        self._ran: set[tuple[str, str]] = set()

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        return self._connection

    def run(self, statements: Sequence[Statement]) -> Exception | None:
        """All of a unit's statements, or none."""
        marks = [Effect(**statement.parameters) for statement in statements if statement.sql == MARK]
        if len(marks) < len(statements):
            try:
                self._execute([statement for statement in statements if statement.sql != MARK])
            except (sqlite3.Error, UnitFailed) as error:
                return error if isinstance(error, UnitFailed) else UnitFailed(str(error))
        self.effects += marks
        return None

    def _execute(self, statements: Sequence[Statement]) -> None:
        cursor = self.connection.cursor()
        cursor.execute("savepoint unit")
        try:
            for statement in statements:
                cursor.execute(statement.sql, _plain(statement.parameters))
                if statement.expect_rows not in (None, cursor.rowcount):
                    raise UnitFailed(f"{cursor.rowcount} rows instead of {statement.expect_rows}: {statement.sql}")
        except BaseException:
            cursor.execute("rollback to unit")
            raise
        finally:
            cursor.execute("release unit")

    def query(self, sql: str, parameters: Any) -> list[dict[str, Any]]:
        cursor = self.connection.execute(sql, _plain(parameters))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def make(self, service: str, version: str, script: Any) -> bool:
        if (service, version) in self._ran:
            return False
        self._ran.add((service, version))
        self.connection.executescript(script) if isinstance(script, str) else script(self.connection)
        return True


class SharedJournal(MemoryJournal):
    """The one journal of a history, with tables; each process has its own way to it."""

    sql = True

    def __init__(self, clock: SimulatedClock, business: Tables) -> None:
        super().__init__(clock)
        self._business = business
        self._tables.run_statements = business.run

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._business.query(sql, parameters)

    async def run_tables(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        return self._business.make(service, version, script)

    def _ring(self) -> None:
        """At once, and in nobody's turn: who commits may be killed before its own loop turns."""
        for _, changed in list(self._watchers.values()):
            changed()


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
        self.calm = False  # the end: nothing goes wrong any more
        self.processes: list[Process] = []
        self.dead: list[Process] = []
        self._count = processes
        self._context = Context()  # of what happens from outside
        self._outside = service or _outside(services)
        self._spine = Spine(self.journal, service=self._outside, clock=self.clock)

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

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)

    @property
    def effects(self) -> list[Effect]:
        """Deliveries that were finished by their handlers, in the order of their commits."""
        return self.tables.effects

    @property
    def records(self) -> list[Record]:
        """The feed."""
        return self.journal._tables.feed

    def query(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """The services' own tables."""
        return self.tables.query(sql, parameters)

    # --- what happens -------------------------------------------------------------------------------------------------

    def falls(self, who: str, kind: str, probability: float) -> float | None:
        if self.calm:
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
            self._start(f"p{number + 1}")
        self._plan_accidents()

    def _start(self, name: str) -> None:
        if not self.calm:  # else it is too late to be of use
            self.processes.append(Process(self, name))
            self.tell(name, "starts", "")

    def _plan_accidents(self) -> None:
        """Each at one of the first turns of a process, which is at any await of its life."""
        chance = self.dice.stream("world", "accidents")
        for kind, count, happens in (
            ("crashes", self.faults.crashes, self._kill),
            ("pauses", self.faults.pauses, self._pause),
            ("cuts", self.faults.cuts, self._cut),
            ("clock_jumps", self.faults.clock_jumps, self._set_clock),
        ):
            for _ in range(count):
                process = self.processes[chance.randrange(len(self.processes))]
                turn, size = chance.randrange(1, TURNS_OF_A_LIFE), chance.random()
                if self.falls("world", kind, 0.8) is not None:
                    process.turns.accidents[turn] = partial(happens, process, size)

    def _kill(self, process: Process, size: float) -> None:
        self.tell(process.name, "is killed", f"at its turn {process.turns.steps}")
        self.loop.kill(process.turns)
        self.processes.remove(process)
        self.dead.append(process)
        base, _, life = process.name.partition("'")
        self.loop.call_later(size * 2 * LEASE_S, self._start, f"{base}'{int(life or 1) + 1}", context=self._context)

    def _pause(self, process: Process, size: float) -> None:
        self.tell(process.name, "is stopped", f"for {size * 3 * LEASE_S:.1f} s")
        self.loop.stop_turns(process.turns)
        self.loop.call_later(size * 3 * LEASE_S, self._go_on, process, context=self._context)

    def _go_on(self, process: Process) -> None:
        self.tell(process.name, "goes on", "")
        self.loop.continue_turns(process.turns)

    def _cut(self, process: Process, size: float) -> None:
        self.tell(process.name, "is cut off the journal", f"for {size * self.faults.cut_s:.1f} s")
        process.reaches_journal = False
        self.loop.call_later(size * self.faults.cut_s, self._join, process, context=self._context)

    def _join(self, process: Process) -> None:
        process.reaches_journal = True

    def _set_clock(self, process: Process, size: float) -> None:
        process.clock.ahead_us = round((size - 0.5) * 120e6)
        self.tell(process.name, "has its clock set", f"by {process.clock.ahead_us / 1e6:+.1f} s")

    # --- the end ------------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """What subscriptions have still to do."""
        tables = self.journal._tables
        waiting = []
        for row in tables.subscriptions.values():
            left = _memory_control._unfinished(tables, row)
            parked = sum(
                each.subscription == row.number and each.state in ("parked", "held")
                for each in tables.deliveries.values()
            )
            if left or parked:
                waiting.append(f"{row.name}: {left} to read, {parked} parked")
        return waiting

    async def settle(self, limit_s: float) -> None:
        """Until everything published is finished: done, or dead."""
        until = self.loop._now + limit_s
        while not self._all_registered() or self.unfinished() or not self.processes:
            if self.loop._now > until:
                raise NotSettled(f"Not finished {limit_s:g} s after the last event: {'; '.join(self.unfinished())}")
            await asyncio.sleep(0.5)

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
        for process in self.processes:
            await process.ended.wait()
        await self._spine.close()


class NotSettled(Exception):
    pass


def _outside(services: Sequence[Service[Any]]) -> Service[Any]:
    contexts = {kind.context for service in services for handler in service.handlers.values() for kind in handler.types}
    return Service("outside", publishes=sorted(contexts))


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


def _plain(parameters: Any) -> dict[str, Any]:
    from ...journal._sqlite_guard import bind

    return bind(parameters)


def _here() -> Context:
    from contextvars import copy_context

    return copy_context()
