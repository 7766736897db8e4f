"""The intake: from the broker into this journal's feed, one per channel.

    fetch ── read as an event ── known? early? ── one unit: events, marks, the broker's position ── settle
                  │ none at all                                    │ fenced
                  └── a dead delivery, with all its bytes          └── another process has this partition: drop it

Nothing is settled at the broker before the journal has it. Whatever the broker sends again is found by its number (of
what journals of ours send) or by its id. Handlers read the feed, and know nothing of the broker.

A partition is brought in by the one process that holds its lease. What was fetched and not stored comes again: to us, or
to who holds it then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ..brokers.binding import Incoming, Number
from ..brokers.port import Broker, BrokerIntake, Fetched, Start, weight_of
from ..clock import Clock
from ..errors import BrokerError, BrokerTaken, JournalError, SpineError
from ..ids import IdSource
from ..journal.cursors import Range
from ..journal.port import OWN_FEED, Append, Done, Journal, Seen, Unit, Verdict
from ..wording import plural
from . import gaps
from .arrivals import Arrivals, Gap, Lane
from .claims import Claim
from .decided import decided
from .landing import Item, Landing
from .membership import Membership
from .namesakes import Namesakes
from .numbering import origin_of
from .reading import Reading, Unreadable
from .rereading import Rereading

log = logging.getLogger("eventspine.broker")
AT_ONCE = 1000
WAIT_S = 0.25
PAUSE_MOST_S = 5.0
PATIENCE_S = 30.0  # that a hole in the numbers of a slot holds up what comes after it
HELD_MAX = 10_000
ORIGINS_MAX = 1_000  # whose marks are in memory; each message may name another
SILENT_S = 30.0  # without a message though the broker has some: the intake is made anew
BEHIND_MAX = 1_000_000  # events that the slowest subscription may have before it; then the intake rests
LOOK_S = 1.0
ASK_AGAIN_S = 0.3


class Intake:
    def __init__(
        self,
        channel: str,
        consumer: str,
        broker: Broker,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        lease_s: float,
        start: Start,
        take_over: bool = False,
        patience_s: float = PATIENCE_S,
        behind_max: int = BEHIND_MAX,
    ) -> None:
        self.channel = channel
        self.consumer = consumer
        self.broker = broker
        self.journal = journal
        self.clock = clock
        self.ids = ids
        self.start_at = start
        self.reading = Reading(channel, broker.features, clock, ids)
        self.trouble: str | None = None
        self.received = 0
        self.known = 0  # that came again
        self.late = 0
        self.gaps = 0  # numbers that never came
        self.fenced = 0
        self.rebuilt = 0
        self.lag: int | None = None  # what the broker has and we did not fetch
        self.resting = False  # since handlers are too far behind
        self._patience_s = patience_s
        self._behind_max = behind_max
        self._claim = Claim(broker, clock, "consumer", consumer, lease_s, take_over, formerly=journal.id)
        self._member = Membership(journal, clock, ids, f"intake:{channel}", consumer, (), lease_s)
        self._rereading = Rereading(journal, clock, self._member, self.reading)
        self._intake: BrokerIntake | None = None
        self._begun: dict[int, int] = {}  # partition, with its lease's epoch
        self._last: dict[int, int] = {}  # the last position fetched of a log
        self._beyond: dict[int, Sequence[Range]] = {}  # what is finished of a log after that, when it was begun
        self._arrivals: Arrivals[Item] = self._fresh()
        self._origins: set[str] = set()  # whose marks are loaded
        self._namesakes = Namesakes(journal)
        self._stopping = asyncio.Event()
        self._nudge = asyncio.Event()
        self._waiting = False  # for messages
        self._missing = False
        self._came = 0.0
        self._looked = 0.0
        self._asked = 0.0  # what others have brought in
        self._task: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._stopping.is_set():
            return  # it was stopped before there was a connection
        self._task = asyncio.create_task(self._run(), name=f"spine-intake-{self.channel}")

    @property
    def partitions(self) -> list[int]:
        return sorted(self._begun)

    @property
    def held(self) -> int:
        return self._arrivals.held

    async def stop(self) -> None:
        """What is on its way into the journal gets there; the rest is the next owner's."""
        self._stopping.set()
        if self._task is None:
            return
        self._nudge.set()
        if not self._waiting:
            await asyncio.wait([self._task], timeout=5.0)
        self._task.cancel()  # which takes nothing from a fetch that waits
        await asyncio.gather(self._task, return_exceptions=True)
        await self._leave()

    async def _run(self) -> None:
        pause_s = 0.05
        while not self._stopping.is_set():
            try:
                await self._member.join()
                await self.claim()
                await self._work()
                return
            except (BrokerError, JournalError) as error:
                self._note(error)
            except Exception as error:
                self._note(error)
                log.exception("the intake of %s failed and begins again", self.channel)
            self.rebuilt += 1
            await self._leave()
            await self.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    async def _leave(self) -> None:
        try:
            await self._member.leave()
        except JournalError as error:
            self._note(error)

    async def claim(self) -> None:
        """Two journals that consume as one service would each get a part of the events (R14)."""
        self._refuse(await self._claim.others(origin_of(self.journal)))

    def _refuse(self, owner: str | None) -> None:
        if owner is not None:
            raise BrokerTaken(
                f"Another journal ({owner}) consumes as {self.consumer!r} on {self.broker.url}, and this one is "
                f"{origin_of(self.journal)}: each would get a part of the events. Let all processes of a service share one "
                "journal, or give this service another name; if that journal is gone for good, or this is its restored copy, "
                "start once with --take-over.",
                consumer=self.consumer,
                owner=owner,
            )

    async def _work(self) -> None:
        self._begun, self._last, self._arrivals, self._origins = {}, {}, self._fresh(), set()
        self._intake = intake = await self.broker.intake(self.channel, self.consumer, self._nudge.set)
        self._came = self.clock.monotonic()
        try:
            while not self._stopping.is_set():
                if self._member.due_in_s == 0 or self._nudge.is_set() or self._waits_for_leases:
                    self._nudge.clear()
                    await self._share(intake)
                self._waiting = True
                fetched = await intake.fetch(AT_ONCE, min(WAIT_S, max(0.01, self._member.due_in_s)))
                self._waiting = False
                # Before it is brought in: a process that was stopped for a while has fetched what may be another's by now.
                self._refuse(await self._claim.others_by_now(origin_of(self.journal)))
                if fetched:
                    self._came = self.clock.monotonic()
                    await self._bring_in(intake, fetched)
                self.trouble = None  # also where there is nothing: it is begun, and the broker would say what is wrong
                await self._give_up_holes(intake)
                await self._look(intake)
        finally:
            self._intake, self._waiting = None, False
            await intake.close()

    def _fresh(self) -> Arrivals[Item]:
        features = self.broker.features
        return Arrivals(ordered=features.ordered, queue=not features.positions)

    @property
    def _waits_for_leases(self) -> bool:
        """Of partitions that another process is about to give back."""
        return self._missing and self._member.lease_s / 3 - self._member.due_in_s > ASK_AGAIN_S

    # --- partitions -----------------------------------------------------------------------------------------------

    async def _share(self, intake: BrokerIntake) -> None:
        shared = self.broker.features.assigns == "journal"
        assigned = intake.assigned()
        before = self._member.row.generation
        too_much = self._member.too_much(assigned, shared=shared)
        for partition in too_much:
            await self._end(intake, partition)
        await self._member.beat(assigned, shared=shared, release=too_much)
        held = {number: lease.epoch for number, lease in self._member.held.items() if number in assigned}
        changed = self._member.row.generation != before
        paused = self._member.row.state != "active"
        for partition, epoch in list(self._begun.items()):
            if changed or paused or held.get(partition) != epoch:
                await self._end(intake, partition)
        self._missing = bool(self._member.missing(assigned, shared=shared))
        if not paused:
            await self._begin(intake, {number: epoch for number, epoch in held.items() if number not in self._begun})

    async def _begin(self, intake: BrokerIntake, partitions: dict[int, int]) -> None:
        if not partitions:
            return
        if not self._claim.asked_just_now:
            await self.claim()
        stored = await self.journal.cursors([self._member.row.number])
        cursors = {one.partition: (one.position, one.beyond) for one in stored if one.feed == intake.feed}
        # What was made anew at the broker has nothing that is not new.
        start = "earliest" if not cursors and any(one.feed != OWN_FEED for one in stored) else self.start_at
        count = await self._count_at_first(intake) if start == "now" else None
        for partition, epoch in sorted(partitions.items()):
            found, self._beyond[partition] = cursors.get(partition, (None, []))
            after = found if self.broker.features.positions else None
            place: Start = "earliest" if count is not None and partition >= count else start
            begun = await intake.begin(partition, after=after, start=place, epoch=epoch)
            self._begun[partition], self._last[partition] = epoch, after or 0
            if begun is not None and after is None:
                await self._remember(intake, partition, begun)
        self._origins.clear()  # whoever had them has made marks that we don't know of

    async def _count_at_first(self, intake: BrokerIntake) -> int | None:
        """How many partitions there were when this was begun: what was added since has nothing that is not new, either."""
        if self.broker.features.assigns != "journal" or not self.broker.features.positions:
            return None
        return int(await decided(self.journal, self._member.name, intake.feed, str(len(intake.assigned()))))

    async def _remember(self, intake: BrokerIntake, partition: int, position: int) -> None:
        """Where it began, so that "now" stays where it was although nothing has come yet."""
        landing = Landing(partition)
        landing.ranges, self._last[partition] = [(0, position)], position
        await self._store(intake, [landing])

    async def _end(self, intake: BrokerIntake, partition: int) -> None:
        if self._begun.pop(partition, None) is not None:
            self._arrivals.drop(lambda item: item.fetched.partition == partition)
            await intake.end(partition)

    # --- bringing in ----------------------------------------------------------------------------------------------

    async def _bring_in(self, intake: BrokerIntake, fetched: Sequence[Fetched]) -> None:
        if len(self._origins) > ORIGINS_MAX:
            self._origins &= self._arrivals.forget()
        by_partition: dict[int, list[Fetched]] = {}
        for one in fetched:
            if one.partition in self._begun:  # else it was given back
                by_partition.setdefault(one.partition, []).append(one)
        landings = [await self._read(intake, partition, some) for partition, some in by_partition.items()]
        await self._store(intake, landings)

    async def _read(self, intake: BrokerIntake, partition: int, fetched: Sequence[Fetched]) -> Landing:
        landing = Landing(partition, self._beyond.get(partition, ()))
        now_us, own = self.clock.now_us(), origin_of(self.journal)
        last = self._last[partition]
        for one in fetched:
            try:
                arrived = self.reading.read(one, intake.feed, now_us)
            except Unreadable as error:
                landing.dead.append(self.reading.dead(self._member.row.number, one, error, intake.feed))
                landing.done(one, last)
            else:
                number = arrived.number if arrived is not None else None
                if arrived is None or (number is not None and number.origin == own):
                    landing.done(one, last)  # nobody wants it, or it is in our feed: that is where it came from
                elif number is None:
                    landing.take(one, arrived, last, None, None)
                else:
                    if number.origin not in self._origins:
                        await self._know(number.origin)
                    self._admit(landing, one, arrived, last, number)
            last = one.position
        self._last[partition] = last
        return landing

    async def _know(self, origin: str) -> None:
        marks = await self.journal.marks(self._member.row.number, origin, self.channel)
        self._arrivals.load(origin, marks)
        self._origins.add(origin)

    def _admit(self, landing: Landing, fetched: Fetched, arrived: Incoming, after: int, number: Number) -> None:
        lane = (number.origin, number.slot)
        if (gained := self._arrivals.follow(lane, number.number)) is not None:
            landing.take(fetched, arrived, after, lane, gained)
            return
        first_owner = self._begun.get(landing.partition) == 1
        verdict = self._arrivals.judge(lane, number.number, first_owner=first_owner)
        if verdict == "known":
            self.known += 1
            landing.done(fetched, after)
        elif verdict == "early":
            self._hold(landing, lane, number.number, Item(fetched, arrived, after))
        else:
            self.late += verdict == "late"
            landing.take(fetched, arrived, after, lane, self._arrivals.take(lane, number.number))
            self._take_held(landing, lane)

    def _hold(self, landing: Landing, lane: Lane, number: int, item: Item) -> None:
        """A queue hands out the same message again when it was in our hands for long. To settle that would delete the
        only one there is, before the journal has it; so both are settled together. In a log it is another message."""
        held = self._arrivals.hold(lane, number, item, self.clock.monotonic(), weight_of(item.fetched))
        if held is None:
            return
        self.known += 1
        if self.broker.features.positions:
            landing.done(item.fetched, item.after)
        else:
            held.copies.append(item.fetched)

    def _take_held(self, landing: Landing, lane: Lane) -> None:
        while (found := self._arrivals.next_of(lane)) is not None:
            number, item = found
            landing.take_held(item, lane, self._arrivals.take(lane, number))

    # --- storing --------------------------------------------------------------------------------------------------

    def _unit(self, intake: BrokerIntake, landing: Landing) -> Unit:
        row, partition = self._member.row, landing.partition
        ranges = landing.ranges if self.broker.features.positions else []
        return Unit(
            fences=[self._member.fence(partition)] if partition in self._member.held else [],
            appends=[Append(landing.records)] if landing.records else [],
            done=[Done(row.number, partition, ranges, row.generation, intake.feed)],
            marks=[
                Seen(row.number, origin, self.channel, slot, ranges) for (origin, slot), ranges in landing.marks.items()
            ],
            puts=landing.dead,
            notes=[gaps.note_of(row.service, gap, self.clock.now_us()) for gap in landing.gaps],
        )

    async def _store(self, intake: BrokerIntake, landings: Sequence[Landing]) -> None:
        """Each partition's is a unit of its own, all of one commit."""
        asked = [(landing, self._unit(intake, landing)) for landing in landings if landing.settled or landing.ranges]
        pause_s = 0.05
        while asked:
            await self._namesakes.look(landings)
            verdicts = await self.journal.commit([unit for _, unit in asked])
            again = []
            for (landing, unit), verdict in zip(asked, verdicts, strict=True):
                if verdict.kind == "unknown" or isinstance(verdict.error, JournalError):
                    self._note(verdict.error or SpineError("the outcome of a commit is unknown"))
                    again.append((landing, unit))
                else:
                    await self._stored(intake, landing, verdict)
            asked = again
            if asked:
                await self.clock.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)

    async def _stored(self, intake: BrokerIntake, landing: Landing, verdict: Verdict) -> None:
        if verdict.ok:
            self.received += len(landing.records)
            if landing.dead:
                self.reading.tell(self._member.row.name, landing.dead)
            if others := await self._namesakes.among(landing, verdict.positions):
                await self._store(intake, [landing.followed_by(others)])
            elif landing.settled:
                await intake.settle(landing.settled)
        elif verdict.kind == "fenced":
            self.fenced += 1
            log.info("the intake of %s: partition %d is another process's now", self.channel, landing.partition)
            await self._end(intake, landing.partition)
            self._origins.clear()  # what we took of it is not stored
            self._nudge.set()
        else:
            raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")

    # --- watching -------------------------------------------------------------------------------------------------

    async def _give_up_holes(self, intake: BrokerIntake) -> None:
        if not self._arrivals.held:
            return
        await self._look_who_else_has(intake)
        landings: dict[int, Landing] = {}
        for lane, gap in self._arrivals.give_up(self.clock.monotonic(), self._patience_s, HELD_MAX):
            found = self._arrivals.next_of(lane)
            assert found is not None
            number, item = found
            landing = landings.setdefault(item.fetched.partition, Landing(item.fetched.partition))
            if gap is not None:
                self._tell(gap)
                landing.gaps.append(gap)
            landing.take_held(item, lane, self._arrivals.take(lane, number))
            self._take_held(landing, lane)
        await self._store(intake, list(landings.values()))

    def _tell(self, gap: Gap) -> None:
        self.gaps += gap.last - gap.first + 1
        log.error(
            "%s: of %s, slot %d, the numbers %d to %d never came. What follows them is handled now; should they "
            "come, they are handled late.", self.consumer, gap.origin, gap.slot, gap.first, gap.last,
        )  # fmt: skip

    async def _look_who_else_has(self, intake: BrokerIntake) -> None:
        """What a lane waits for may have come to another process: where somebody changed the number of partitions, a slot's
        numbers are in two of them."""
        now = self.clock.monotonic()
        if now - self._asked < LOOK_S or not (lanes := self._arrivals.waiting(now - LOOK_S)):
            return
        self._asked = now
        for origin in {origin for origin, _ in lanes}:
            await self._know(origin)
        landings: dict[int, Landing] = {}
        for lane in lanes:
            while (found := self._arrivals.next_of(lane)) is not None:
                number, item = found
                landing = landings.setdefault(item.fetched.partition, Landing(item.fetched.partition))
                landing.take_held(item, lane, self._arrivals.take(lane, number))
        await self._store(intake, list(landings.values()))

    async def _look(self, intake: BrokerIntake) -> None:
        """Once a second: how far behind the broker and the handlers are."""
        now = self.clock.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        await self._rest(intake)
        await self._rereading.look([number for number in self.partitions if number in self._member.held])
        if now - self._came > SILENT_S:
            self.lag = await intake.lag()
            if self.lag and self._begun and not self.resting and not self._arrivals.held:
                raise BrokerError(
                    f"{self.broker.features.name} has {plural(self.lag, 'message')} of {self.channel!r}, and none has come "
                    f"for {SILENT_S:g} s; the intake is made anew."
                )
            self._came = now

    async def _rest(self, intake: BrokerIntake) -> None:
        rows = [
            row for row in await self.journal.subscriptions() if self.channel in row.channels and row.state == "active"
        ]
        cursors = await self.journal.cursors([row.number for row in rows]) if rows else []
        slowest = min((one.position for one in cursors if not one.feed), default=None)
        behind = 0 if slowest is None else await self.journal.head() - slowest
        if not self.resting and behind > self._behind_max:
            log.warning(
                "%s: handlers are %d events behind; no more is taken from the broker meanwhile", self.consumer, behind
            )
            intake.pause()
            self.resting = True
        elif self.resting and behind < 0.8 * self._behind_max:
            intake.resume()
            self.resting = False

    def _note(self, error: Exception) -> None:
        if self.trouble != str(error):
            log.error("the intake of %s waits: %s", self.channel, error)
        self.trouble = str(error)
