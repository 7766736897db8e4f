"""Carrying: what connects this process's journal with a broker. A relay for each channel that its services publish, an
intake for each that they subscribe to and nobody on this journal publishes.

It works in the background, and the journal goes on without it: while the broker is away, events are published into the
journal, up to a bound, and handlers handle what is there. Only what will never get better by waiting is raised at the
start: another journal that has our place at the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from ..brokers.port import Broker, Needs, Start
from ..clock import Clock
from ..errors import (
    BrokerError,
    BrokerTaken,
    JournalError,
    OutboxFull,
    RegistrationRefused,
    SettingsError,
)
from ..foreign import Decoder
from ..ids import IdSource
from ..journal.port import Journal
from ..periodic import is_ticks
from ..service import Service
from ..wording import plural
from .decided import decided
from .intake import Intake
from .relay import Relay
from .timers import Timers

log = logging.getLogger("eventspine.broker")
OUTBOX_MAX = 1_000_000  # events that the broker may be behind before publishing is refused
LOOK_S = 1.0
AT_START_S = 5.0  # for the first connection, before it goes on in the background
PAUSE_MOST_S = 5.0


class Carrying:
    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        *,
        lease_s: float,
        take_over: bool = False,
        outbox_max: int = OUTBOX_MAX,
    ) -> None:
        self.broker = broker
        self.journal = journal
        self.clock = clock
        self.ids = ids
        self.lease_s = lease_s
        self.relays: dict[str, Relay] = {}
        self.intakes: dict[str, Intake] = {}
        self.trouble: str | None = None  # why there is no connection
        self._timers = Timers(journal, clock)
        self._take_over = take_over
        self._outbox_max = outbox_max
        self._connected = asyncio.Event()
        self._taken: BrokerTaken | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unwatch: Callable[[], None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._unwatch = self.journal.watch(self._wake)
        self._tasks = [
            asyncio.create_task(self._connect(), name="spine-broker"),
            asyncio.create_task(self._look(), name="spine-broker-look"),
            asyncio.create_task(self._fire_timers(), name="spine-broker-timers"),
        ]
        await self._a_while(self._connected)

    async def stop(self, drain_s: float) -> None:
        """What is published goes out first, as far as `drain_s` reaches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stop_intakes(list(self.intakes))
        await asyncio.gather(
            *(relay.stop(drain_s if self._connected.is_set() else 0) for relay in self.relays.values())
        )
        self.relays.clear()
        if self._unwatch is not None:
            self._unwatch()
        await self.broker.close()

    async def _a_while(self, event: asyncio.Event) -> None:
        waiting = asyncio.ensure_future(event.wait())

        def give_up() -> None:
            waiting.cancel()

        alarm = self.clock.call_later(AT_START_S, give_up)
        try:
            await asyncio.wait([waiting])
        finally:
            alarm.cancel()
            waiting.cancel()
        if not event.is_set():
            log.warning(
                "no connection to the broker yet (%s); it is tried on, and publishing goes into the journal meanwhile",
                self._named(self.trouble or "it does not answer"),
            )  # fmt: skip

    async def _connect(self) -> None:
        pause_s = 0.1
        while True:
            try:
                await self.broker.open()
                break
            except BrokerError as error:
                if self.trouble != str(error):
                    log.error("the broker can't be used yet: %s", self._named(str(error)))  # noqa: TRY400 -- the message says it
                self.trouble = str(error)
            await self.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)
        self.trouble = None
        self._connected.set()

    # --- what is carried ------------------------------------------------------------------------------------------

    async def publish(self, channels: Iterable[str]) -> None:
        """Relay these from now on."""
        new = [channel for channel in channels if channel not in self.relays]
        for channel in new:
            relay = Relay(channel, self.broker, self.journal, self.clock, self.ids, self.lease_s, self._take_over)
            self.relays[channel] = relay
        await self._begin(Needs(publishes=new), [self.relays[channel] for channel in new])

    async def consume(self, services: Sequence[Service[Any]]) -> list[str]:
        """Bring in what these subscribe to; the channels that are new."""
        published = await self._published_here()
        wanted: dict[str, tuple[str, Start]] = {}
        for service in services:
            known = bool(await self.journal.subscriptions(service.name))
            for channel, start in _subscribed(service, known=known):
                if channel not in published and channel not in self.intakes and not is_ticks(channel):
                    wanted.setdefault(channel, (service.name, start))
        decoders = _decoders(services)
        _tell_what_reads_nothing(services)
        for channel, (service_name, wished) in wanted.items():
            consumer = await self._consumer(channel, f"{service_name}.{channel}")
            start = await self._decided(channel, self._possible(channel, wished))
            self.intakes[channel] = Intake(
                channel, consumer, self.broker, self.journal, self.clock, self.ids, self.lease_s, start, self._take_over
            )
        for channel, decoder in decoders.items():
            if channel in self.intakes:
                self.intakes[channel].reading.decoder = decoder
        new = [self.intakes[channel] for channel in wanted]
        await self._begin(Needs(consumes=[(one.channel, one.consumer) for one in new]), new)
        return list(wanted)

    async def stop_intakes(self, channels: Iterable[str]) -> None:
        intakes = [self.intakes.pop(channel) for channel in channels if channel in self.intakes]
        await asyncio.gather(*(intake.stop() for intake in intakes))

    async def _published_here(self) -> set[str]:
        """Channels that some service on this journal publishes: they are in the feed without a broker."""
        rows = await self.journal.subscriptions()
        stored = {row.service.removeprefix("relay:") for row in rows if row.service.startswith("relay:")}
        return stored | self.relays.keys()

    async def _consumer(self, channel: str, otherwise: str) -> str:
        """The name at the broker is that of the service that was first to want it, for good."""
        for row in await self.journal.subscriptions(f"intake:{channel}"):
            if row.state != "retired":
                return row.name
        return otherwise

    def _possible(self, channel: str, start: Start) -> Start:
        features = self.broker.features
        if isinstance(start, datetime) and "time" not in features.starts:
            raise RegistrationRefused(
                f"{features.name} can't be read from a time on, and a handler of {channel!r} says start={start:%Y-%m-%d}…. "
                'Say start="now", or start="earliest" for all that the broker has.',
                channel=channel,
            )
        return start

    async def _decided(self, channel: str, start: Start) -> Start:
        """Once, and for all processes: a restart before anything has come must not make "now" of "earliest"."""
        text = start.isoformat() if isinstance(start, datetime) else start
        found = await decided(self.journal, f"intake:{channel}", "at", text)
        return found if found in ("earliest", "now") else datetime.fromisoformat(found)  # type: ignore[return-value]

    async def _begin(self, needs: Needs, workers: Sequence[Relay | Intake]) -> None:
        if not workers:
            return
        begun = asyncio.Event()
        task = asyncio.create_task(self._begin_once_connected(needs, workers, begun), name="spine-broker-begin")
        self._tasks.append(task)
        if not self._connected.is_set():
            return  # it was waited for already, in vain
        await self._a_while(begun)
        if self._taken is not None:
            raise self._taken

    async def _begin_once_connected(
        self, needs: Needs, workers: Sequence[Relay | Intake], begun: asyncio.Event
    ) -> None:
        await self._connected.wait()
        pause_s = 0.1
        while True:
            try:
                for made in await self.broker.apply(needs):
                    log.info("made %s: %s", made.what, made.wanted)
                for worker in workers:
                    await worker.claim()
                break
            except BrokerTaken as error:
                self._taken, self.trouble = error, str(error)
                begun.set()
                return
            except (BrokerError, JournalError) as error:
                self.trouble = str(error)
                log.error("%s: %s", self.broker.url, error)  # noqa: TRY400 -- the message says it
            await self.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)
        self.trouble = None
        for worker in workers:
            worker.start()
        begun.set()

    # --- watching -------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._timers.changed()
        for relay in self.relays.values():
            relay.wake()

    async def _look(self) -> None:
        while True:
            await self.clock.sleep(LOOK_S)
            try:
                for relay in list(self.relays.values()):
                    await relay.look()
            except JournalError as error:
                log.debug("looking at the relays: %s", error)

    async def _fire_timers(self) -> None:
        """What is published for later, also where no service runs that would see to it."""
        while True:
            try:
                await self._timers.fire()
            except JournalError as error:
                log.debug("looking at the timers: %s", error)
                await self.clock.sleep(LOOK_S)

    @property
    def behind(self) -> int:
        """What waits until somebody consumes its channel is not counted: the broker takes it as soon as there is a queue."""
        return max((relay.behind for relay in self.relays.values() if not relay.unwanted), default=0)

    def check_room(self) -> None:
        """Raises OutboxFull when the broker is too far behind to let it grow."""
        if self.is_full:
            why = self.trouble or self._relay_trouble() or "it is slow"
            raise OutboxFull(f"{self._too_much()} Why it doesn't: {why}.", behind=self.behind)

    @property
    def is_full(self) -> bool:
        return self.behind > self._outbox_max

    def _too_much(self) -> str:
        return (
            f"{plural(self.behind, 'event waits', 'events wait')} in the journal for {self.broker.url}, more than "
            f"{self._outbox_max:,}: nothing more is published until it takes them."
        )

    def _relay_trouble(self) -> str | None:
        return next((relay.trouble for relay in self.relays.values() if relay.trouble), None)

    def _named(self, said: str) -> str:
        return said if said.startswith(self.broker.url) else f"{self.broker.url}: {said}"

    def problems(self) -> Iterable[str]:
        if self.trouble:
            yield f"the broker {self._named(self.trouble)}"
        if self.is_full:
            yield self._too_much()
        for relay in self.relays.values():
            if relay.trouble:
                yield f"the relay of {relay.channel}: {relay.trouble}"
        for intake in self.intakes.values():
            if intake.trouble:
                yield f"the intake of {intake.channel}: {intake.trouble}"
            if intake.gaps:
                yield f"the intake of {intake.channel}: {intake.gaps:,} numbers never came; the log has which, and how-to/brokers.md how they are sent again"

    def health(self) -> dict[str, Any]:
        return {
            "url": self.broker.url,
            "connected": self._connected.is_set(),
            "relays": [
                {
                    "channel": one.channel,
                    "leads": one.leads,
                    "sent": one.sent,
                    "behind": one.behind,
                    "unwanted": one.unwanted,
                }
                for one in self.relays.values()
            ],
            "intakes": [
                {
                    "channel": one.channel,
                    "consumer": one.consumer,
                    "partitions": one.partitions,
                    "received": one.received,
                    "known": one.known,
                    "held": one.held,
                    "late": one.late,
                    "gaps": one.gaps,
                    "resting": one.resting,
                }
                for one in self.intakes.values()
            ],
        }


def needs_of(services: Sequence[Service[Any]]) -> Needs:
    """What these services need on a broker, where they are all that is on their journal."""
    publishes = list(dict.fromkeys(channel for service in services for channel in service.publishes))
    consumes = {
        kind.context: f"{service.name}.{kind.context}"
        for service in reversed(services)
        for handler in service.handlers.values()
        for kind in handler.types
        if kind.context not in publishes and not is_ticks(kind.context)
    }
    return Needs(publishes, sorted(consumes.items()))


def _tell_what_reads_nothing(services: Sequence[Service[Any]]) -> None:
    """A channel that is spelled wrong: its messages would be dead, and nobody would think of the decoder."""
    for service in services:
        subscribed = {channel for channel, _ in _subscribed(service, known=True) if not is_ticks(channel)}
        for channel in sorted(service.decoders.keys() - subscribed):
            log.warning(
                "%s has a decoder of %r and no handler of its events, so nothing is read by it. It reads: %s.",
                service.name, channel, ", ".join(sorted(subscribed)) or "nothing",
            )  # fmt: skip


def _decoders(services: Sequence[Service[Any]]) -> dict[str, Decoder]:
    """By channel. Two that differ would each read what the other should have."""
    found: dict[str, Decoder] = {}
    for service in services:
        for channel, decoder in service.decoders.items():
            if found.setdefault(channel, decoder) != decoder:
                raise SettingsError(
                    f"Two services on this journal declare a decoder of {channel!r}, and it comes in once for both. "
                    "Declare it once, or give each service a journal of its own.",
                    channel=channel,
                )
    return found


def _subscribed(service: Service[Any], *, known: bool) -> list[tuple[str, Start]]:
    """Its channels, with where an intake that is new begins: as early as one of its handlers wants, by the rule that a
    new service begins with the earliest, and a handler added to a known one with now."""
    starts: dict[str, list[Start]] = {}
    for handler in service.handlers.values():
        start: Start = handler.start or ("now" if known else "earliest")
        for kind in handler.types:
            starts.setdefault(kind.context, []).append(start)
    return sorted((channel, _first(wanted)) for channel, wanted in starts.items())


def _first(wanted: Sequence[Start]) -> Start:
    if "earliest" in wanted:
        return "earliest"
    return min((start for start in wanted if isinstance(start, datetime)), default="now")
