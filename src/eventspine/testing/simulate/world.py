"""One simulated history: processes that run the services, a world outside that publishes, and what is known in the end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Iterator, Sequence
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from ...brokers.memory import Server
from ...errors import HandlerTimeout, SettingsError, UnknownPublisher
from ...events import describe
from ...journal.port import Drop, Record, Replay, Unit, Verdict
from ...publishing import Receipt
from ...service import Service
from ...spine import Spine
from ...writing import Asked
from .accidents import Accidents
from .broker import Kind
from .faults import Dice, Faults, Place
from .idle import Idle
from .loop import Loop, Timed
from .process import Process, SimulatedClock
from .shared import MARK
from .site import Dead, Site
from .unmarked import Effect

E = TypeVar("E")
LOOK_S = 1.0  # between two looks at whether all is finished


class Told(NamedTuple):
    """A line of the timeline."""

    at_s: float
    who: str
    what: str
    detail: object


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
        broker: Kind | None = None,
        left_out: frozenset[Place] = frozenset(),
    ) -> None:
        self.seed = seed
        self.faults = faults
        self.services = tuple(services)
        self.dice = Dice(seed, left_out)
        self.loop = Loop(self.dice.stream("world", "turns"))
        self.clock = SimulatedClock(self.loop, self.dice.stream("world", "clock"))
        self.broker_kind = broker
        self.broker = None if broker is None else Server("simulated")
        self._speaks = service
        self.sites = self._made_sites(service or _outside(services, broker=broker is not None))
        self.timeline: list[Told] = []
        self.acknowledged: list[bytes] = []
        self.wrong: list[str] = []  # what was seen to be wrong on the way
        self.calm = False  # the end: nothing goes wrong any more
        self.processes: list[Process] = []  # that live now
        self.killed: list[Process] = []
        self.ended: list[Process] = []  # in order
        self.context = Context()  # of what happens from outside
        self.accidents = Accidents(self)
        self._asked = Asked()  # of this world, by the scenario
        self._count = processes
        self.looking: Timed | None = None  # the next look of `settle`
        self.loop.passing = Idle(self).jump
        self._until_s = 0.0
        self._unfinished_at = -1  # commits of all journals, when there was last seen to be something unfinished
        self._spine = Spine(self._outside.journal, service=self._outside.speaks, clock=self.clock)

    def _made_sites(self, speaks: Service[Any]) -> list[Site]:
        if self.broker is None:
            return [Site("", self.clock, self.services, speaks)]
        self.broker.random = self.dice.stream("broker", "order")
        sites = [Site(one.name, self.clock, [one], speaks if one is speaks else None) for one in self.services]
        return sites if speaks in self.services else [Site(speaks.name, self.clock, [], speaks), *sites]

    @property
    def _outside(self) -> Site:
        return next(site for site in self.sites if site.speaks is not None)

    # --- for scenarios ------------------------------------------------------------------------------------------------

    def publish(self, *events: Any, **options: Any) -> Coroutine[Any, Any, Receipt | list[Receipt]]:
        """As `Spine.publish`, from outside of all processes."""
        return self._asked.hand(self._publish(*events, **options))

    def sleep(self, **duration: float) -> Coroutine[Any, Any, None]:
        """`await world.sleep(minutes=5)`, of virtual time."""
        return self._asked.hand(self._sleep(**duration))

    def replay_dead(self) -> Coroutine[Any, Any, int]:
        """As `spine dead replay`: all that is dead is handled again, late; how many. It is asked for twice, as by an
        operator who is not sure, and the second time must change nothing."""
        return self._asked.hand(self._replay_dead())

    def drop_dead(self) -> Coroutine[Any, Any, int]:
        """As `spine dead drop`: all that is dead is given up for good, and what waits behind it goes on; how many. Asked for
        twice, too."""
        return self._asked.hand(self._drop_dead())

    def refuse_unawaited(self) -> None:
        """A history in which nothing was published, since an `await` was forgotten, would show that all holds."""
        if forgotten := self._asked.forgotten():
            call = f"world.{forgotten[0]}(...)"
            raise SettingsError(f"drive called {call} and did not await it, so it was not done. Write `await {call}`.")

    async def _publish(self, *events: Any, **options: Any) -> Receipt | list[Receipt]:
        try:
            made: Receipt | list[Receipt] = await self._spine.publish(*events, **options)
        except UnknownPublisher as error:
            if self._speaks is not None:
                raise
            raise self._nobody_speaks(error.details["type"]) from None
        receipts = made if isinstance(made, list) else [made]
        self.acknowledged += [receipt.event_id for receipt in receipts]
        self.tell("world", "published", ", ".join(map(_published, events, receipts)))
        return made

    def _nobody_speaks(self, type: str) -> UnknownPublisher:
        """The world outside is a service of ours, which nobody could declare otherwise."""
        itself = "" if self.broker is None else ", or one of them publishes it itself"
        return UnknownPublisher(
            f"None of the simulated services subscribes to the context of {type}{itself}, so the world outside does not speak for it. "
            "Name the service that drive publishes for: simulate(..., service=...).",
            type=type,
        )

    async def _sleep(self, **duration: float) -> None:
        await asyncio.sleep(timedelta(**duration).total_seconds())

    async def _replay_dead(self) -> int:
        changed = [await self._replay(site) for site in self.sites]
        self.tell("world", "replayed", f"{sum(changed)} dead deliveries")
        return sum(changed)

    async def _replay(self, site: Site) -> int:
        return await self._operate(site, "replaying", Replay([row.number for row in site.rows("dead")]))

    async def _drop_dead(self) -> int:
        changed = [await self._drop(site) for site in self.sites]
        self.tell("world", "dropped", f"{sum(changed)} dead deliveries")
        return sum(changed)

    async def _drop(self, site: Site) -> int:
        dropped = site.rows("dead")
        site.dropped += dropped
        return await self._operate(site, "dropping", Drop([one.number for one in dropped]))

    async def _operate(self, site: Site, doing: str, control: Replay | Drop) -> int:
        changed = await site.journal.control([control])
        again = await site.journal.control([control])
        if again:
            self.wrong.append(f"{doing} the same {len(control.numbers)} dead deliveries again changed {again} of them")
        return changed

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)

    # --- for invariants -----------------------------------------------------------------------------------------------

    @property
    def effects(self) -> list[Effect]:
        """Deliveries that were finished by their handlers, in the order of their commits."""
        if len(self.sites) == 1:
            return self.sites[0].tables.effects
        return [effect for site in self.sites for effect in site.tables.effects]

    @property
    def records(self) -> list[Record]:
        """The feed: of services with journals of their own, of each what it has published."""
        if len(self.sites) == 1:
            return self.sites[0].records
        return [record for site in self.sites for record in site.records if record.channel in site.publishes]

    def published(self, kind: type[E]) -> list[E]:
        """All events of this class, by whomever published, in the order of the feed."""
        described = describe(kind)
        return [described.decode(record.data) for record in self.records if record.type == described.name]

    @property
    def dead(self) -> list[Dead]:
        """Deliveries that were given up, and not dropped."""
        return [one for site in self.sites for one in site.given_up(site.rows("dead"))]

    @property
    def dropped(self) -> list[Dead]:
        """Deliveries that `drop_dead` has dropped, as they were."""
        return [one for site in self.sites for one in site.given_up(site.dropped)]

    def query(self, sql: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """The services' own tables; where each service has a journal of its own, of the first that has such a table."""
        for site in self.sites[:-1]:
            try:
                return site.tables.query(sql, parameters)
            except sqlite3.OperationalError:
                continue
        return self.sites[-1].tables.query(sql, parameters)

    # --- what happens -------------------------------------------------------------------------------------------------

    def falls(self, who: str, kind: str, probability: float) -> float | None:
        if not probability or self.calm:
            return None
        amount = self.dice.falls(who, kind, probability)
        if amount is not None:
            self.tell(who, kind, f"#{self.dice.injected[-1].number}")
        return amount

    def tell(self, who: str, what: str, detail: object) -> None:
        self.timeline.append(Told(self.loop.elapsed_s, who, what, detail))

    def committed(self, process: Process, unit: Unit, verdict: Verdict) -> None:
        if unit.statements or verdict.kind != "done" or unit.puts or unit.changes:
            self.tell(process.name, f"commit {verdict.kind}", _what(unit, verdict))

    async def start(self) -> None:
        await self._spine.open()
        for site in self.sites:
            await site.journal.open()
            for number in range(1, self._count + 1):
                self.start_process(f"{site.name}{number}" if site.name else f"p{number}", site)
        self.accidents.plan()

    def start_process(self, name: str, site: Site) -> None:
        if not self.calm:  # else it is too late to be of use
            self.processes.append(Process(self, name, site))
            self.tell(name, "starts", "")

    # --- the end ------------------------------------------------------------------------------------------------------

    @property
    def refused(self) -> str | None:
        """Why this can't be simulated, if something was done that can't be."""
        return self.loop.refused or next((site.journal.refused for site in self.sites if site.journal.refused), None)

    @property
    def timed_out(self) -> str | None:
        """A handler that ran out of time."""
        rows = (row for site in self.sites for row in site.given_up(site.rows("parked", "dead")))
        return next((row.handler for row in rows if row.reason == HandlerTimeout.__name__), None)

    def unfinished(self) -> list[str]:
        """What subscriptions have still to do, and what is still on its way."""
        return [*(told for site in self.sites for told in site.unfinished()), *self.on_their_way()]

    def on_their_way(self) -> Iterator[str]:
        for origin, site, channel in self.ways():
            arrived = {record.id for record in site.records}
            left = sum(record.channel == channel and record.id not in arrived for record in origin.records)
            if left:
                yield f"{left} of {channel} on their way to {site.name}"

    def ways(self) -> Iterator[tuple[Site, Site, str]]:
        """What a broker carries: from where, to where, which channel."""
        if self.broker is not None:
            for site in self.sites:
                for channel in sorted(site.consumes):
                    yield from ((origin, site, channel) for origin in self.sites if channel in origin.publishes)

    async def settle(self, limit_s: float) -> None:
        """Until everything published is finished: done, or dead. The time for it counts from what is due last."""
        self.accidents.soon()
        self._until_s = max(self.loop.elapsed_s, self._last_due_s()) + limit_s
        while self.accidents.to_come or not self._all_at_work() or self._unfinished_still(limit_s):
            if self.loop.elapsed_s > self._until_s:
                left = "; ".join(self.unfinished()) or "an accident is still to come"
                raise NotSettled(f"Not finished {limit_s:g} s after the last event: {left}")
            await self._look()
        for site in self.sites:
            site.head = len(site.records)

    async def _look(self) -> None:
        """A sleep that keeps no time from being jumped over."""
        looked = self.loop.create_future()
        self.looking = self.loop.call_later(LOOK_S, looked.set_result, None)
        await looked

    def _unfinished_still(self, limit_s: float) -> bool:
        """Counted again only after something was committed."""
        commits = sum(site.journal.commits for site in self.sites)
        if commits == self._unfinished_at:
            return True
        self._unfinished_at = commits if self.unfinished() else -1
        self._until_s = max(self._until_s, self._last_due_s() + limit_s)
        return self._unfinished_at >= 0

    def _last_due_s(self) -> float:
        """When the last scheduled event is to come, or the last attempt that is known of."""
        last_us = max((due_us for site in self.sites for due_us in site.dues()), default=0)
        return self.loop.elapsed_s + (last_us - self.clock.now_us()) / 1e6

    def _all_at_work(self) -> bool:
        alive = [process.site for process in self.processes]
        return all(site in alive and site.registered for site in self.sites)

    async def stop(self) -> None:
        self.calm = True
        if self.broker is not None:
            self.broker.restart()
        for process in self.processes:
            self.loop.continue_turns(process.turns)
            process.reaches_journal = process.reaches_broker = True
            process.turns.accidents.clear()
            process.end()
        for process in list(self.processes):
            await process.ended.wait()
        await self._spine.close()
        for site in self.sites:
            await site.journal.close()


def _outside(services: Sequence[Service[Any]], *, broker: bool) -> Service[Any]:
    """Whoever publishes what they subscribe to; with a broker, as far as none of them does: it has one publisher."""
    kinds = [kind for service in services for handler in service.handlers.values() for kind in handler.types]
    theirs = {channel for service in services for channel in service.publishes} if broker else set()
    return Service("outside", publishes=sorted({kind.context for kind in kinds if "/" not in kind.context} - theirs))


def _published(event: Any, receipt: Receipt) -> str:
    return _event(type(event).__name__, receipt.position, describe(type(event)).key_of(event))


def _event(name: str, position: int, key: str | None) -> str:
    """As it is found again in other lines; without a position it has no place in the feed so far."""
    return name + (f" #{position}" if position else "") + ("" if key is None else f" of key {key!r}")


def _what(unit: Unit, verdict: Verdict) -> str:
    parts = [
        f"{statement.parameters['subscription']} #{statement.parameters['position']}"
        for statement in unit.statements
        if statement.sql == MARK
    ]
    parts += [f"{put.state} #{put.record.position} ({put.reason})" for put in unit.puts]
    parts += [f"delivery {change.number} {change.state or ''}" for change in unit.changes]
    positions = iter(verdict.positions)
    parts += [
        _event(record.type, next(positions, 0), record.key) for append in unit.appends for record in append.records
    ]
    return ", ".join(parts)
