"""The relay: from a journal's feed to the broker, one per channel, led by one process at a time.

It numbers what is public, per slot, from 1 without holes, in the order of the feed. Which number an event gets follows
from where the cursor stands and the last numbers stored with it, and from nothing else: cursor and numbers change in one
unit, after the broker has the events. Whoever sends again after a crash, or in another's place, therefore sends the
same events under the same numbers, and readers drop them as known.

    read a page ── number ── send, until the broker has all ── the next page
                                 │                   └── commit, meanwhile: cursor, last numbers (see numbering.py)
                                 │ refused for good
                                 └── commit: dead delivery ── send a tombstone in its place; its key waits

What is refused is stored before its tombstone is sent, so that nobody ever sends both under one number. Events of that
key wait in rows behind it, with tombstones of their own; replayed or dropped, the key goes on under new numbers. Such a
number is stored with its row before it is sent, after all that was sent before it; and whoever takes over first sends as
many events as may be on their way.

An answer that is missing is no answer: it is sent again, under the same number, for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ..brokers.binding import message_of, size_of, tombstone_of
from ..brokers.limits import is_small
from ..brokers.port import Broker, Message
from ..clock import Clock
from ..errors import BrokerError, BrokerTaken, Fenced, JournalError, MessageRefused, NotWanted, SpineError
from ..ids import IdSource
from ..journal.port import Delivery, Journal, Put, Record
from ..wording import plural, storable
from .aside import Aside, changing
from .claims import Claim
from .membership import Membership
from .numbering import AHEAD_MAX, PAGE, Numbering

log = logging.getLogger("eventspine.broker")
PAUSE_MOST_S = 5.0
ASK_AGAIN_S = 0.5
SOON_S = 1.0  # what a relay that is told to stop takes, as a rule
PASSED_EVERY_S = 1.0  # how often a cursor is stored that only passes other channels' events
NUMBERED = "numbered "  # then its number: a row that is on its way


class Relay:
    def __init__(
        self,
        channel: str,
        broker: Broker,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        lease_s: float,
        take_over: bool = False,
    ) -> None:
        self.channel = channel
        self.broker = broker
        self.journal = journal
        self.clock = clock
        self.trouble: str | None = None  # why nothing gets through just now; health shows it
        self.unwanted = (
            False  # nobody at the broker wants this channel so far, so its events wait here: no trouble of ours
        )
        self.sent = 0
        self.behind = 0  # events of this channel that the broker does not have, as last looked at
        self._claim = Claim(broker, clock, "publisher", channel, lease_s, take_over)
        name = f"relay:{channel}"
        self._member = Membership(journal, clock, ids, name, name, (channel,), lease_s)
        self._numbering = Numbering(channel, journal, clock, self._member, self.wake, self._note)
        self._aside = Aside(channel, journal, self._member, self._numbering)
        self._before_rows = 0  # events to be sent before any row, since the last leader may have sent them
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._stopping.is_set():
            return  # it was stopped before there was a connection
        self._task = asyncio.create_task(self._run(), name=f"spine-relay-{self.channel}")

    def wake(self) -> None:
        self._changed.set()

    @property
    def leads(self) -> bool:
        return bool(self._member.held)

    async def stop(self, drain_s: float) -> None:
        """What is published goes out first, as far as the time reaches; the rest is the next one's."""
        self._stopping.set()
        if self._task is None:
            return
        self._changed.set()
        unfinished = await self._finish(0 if self.unwanted else drain_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if unfinished and self.leads and not self.unwanted:
            await self._tell_what_is_left(drain_s)
        await self._leave()

    async def _finish(self, drain_s: float) -> bool:
        """Whether something was left. Who waits for long is told for what: a program may have said that it has stopped."""
        assert self._task is not None
        soon = min(SOON_S, drain_s)
        _, unfinished = await asyncio.wait([self._task], timeout=soon)
        if unfinished and drain_s > soon and self.leads:
            log.info(
                "the relay of %s has events left, and waits for at most %g s until the broker takes them: %s",
                self.channel, drain_s, self.trouble or "it is slow",
            )  # fmt: skip
        if unfinished:
            _, unfinished = await asyncio.wait([self._task], timeout=drain_s - soon)
        return bool(unfinished)

    async def _tell_what_is_left(self, drain_s: float) -> None:
        """A program that ends may be the only one that sends this channel."""
        try:
            await self.look()
        except JournalError as error:
            self._note(error)
        if self.behind:
            log.warning(
                "%s did not take all of %s within %g s: up to %s in the journal, and whoever publishes this "
                "channel next sends the rest (spine run, or a longer drain_s)",
                self.broker.url, self.channel, drain_s, plural(self.behind, "event stays", "events stay"),
            )  # fmt: skip

    async def _run(self) -> None:
        pause_s = 0.05
        while True:
            try:
                await self._member.join()
                await self._work()
                return
            except NotWanted:
                return  # told to stop
            except Fenced as error:
                log.info("the relay of %s moves to another process, or was changed: %s", self.channel, error)
                await self._keep_numbers()
                pause_s = 0.05
            except (BrokerError, JournalError) as error:
                self._note(error)
            except Exception as error:
                self._note(error)
                log.exception("the relay of %s failed and begins again", self.channel)
            await self._leave()
            await self.clock.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    async def _keep_numbers(self) -> None:
        try:
            await self._numbering.keep()
        except SpineError as error:  # another leads, as a rule, and sends the same under the same
            log.debug("the relay of %s keeps no numbers: %s", self.channel, error)

    async def _leave(self) -> None:
        """So that another process may go on; if the journal can't be told now, the lease runs out."""
        try:
            await self._numbering.end()
            await self._member.leave()
        except JournalError as error:
            self._note(error)

    async def _work(self) -> None:
        """Until told to stop, and all is sent."""
        while True:
            self._changed.clear()
            self._numbering.check()
            if await self._beat() and self._numbering.epoch:  # changed from outside
                await self._numbering.store()
                self._numbering.epoch = 0
            if not self.leads or self._member.row.state != "active":
                if self._stopping.is_set():
                    return
                await self._wait(self._member.due_in_s)
                continue
            if self._numbering.epoch != self._member.held[0].epoch:
                await self._take_up()
            self._refuse(await self._claim.others_by_now(self.origin))
            if not await self._step():
                if self._stopping.is_set():
                    await self._numbering.store()
                    return
                await self._wait(min(self._member.due_in_s, PASSED_EVERY_S))

    async def _beat(self) -> bool:
        """Who leads stays so; the others ask again and again, and at once when there may be news."""
        asked_s = self._member.lease_s / 3 - self._member.due_in_s
        if self._member.due_in_s and (self.leads or asked_s < ASK_AGAIN_S):
            return False
        return await self._member.beat([0], shared=False)

    async def _wait(self, most_s: float) -> None:
        waking = self.clock.call_later(max(most_s, 0.01), self._changed.set)
        try:
            await self._changed.wait()
        finally:
            waking.cancel()

    # --- taking up -----------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        return self._numbering.origin

    @property
    def position(self) -> int:
        return self._numbering.position

    async def _take_up(self) -> None:
        await self.claim()
        await self._numbering.take_up()
        await self._aside.look()
        await self._numbering.prove()
        self._before_rows = AHEAD_MAX
        self.trouble = None  # though there may be nothing to send

    async def claim(self) -> None:
        """One journal publishes a channel: two would number it twice, and order it in two ways (R14)."""
        self._refuse(await self._claim.others(self.origin))

    def _refuse(self, owner: str | None) -> None:
        if owner is not None:
            raise BrokerTaken(
                f"Another journal ({owner}) publishes the channel {self.channel!r} on {self.broker.url}, and this one is "
                f"{self.origin}. Publish from the services on that journal; if that one is gone for good, or this is "
                "its restored copy, start once with --take-over.",
                channel=self.channel,
                owner=owner,
            )

    # --- a step ---------------------------------------------------------------------------------------------------

    async def _step(self) -> bool:
        """Send what there is next; whether there was something."""
        if self._aside.due and self._before_rows <= 0:
            await self._send_row(self._aside.due[0])
            return True
        await self._numbering.room()
        page = await self.journal.feed(self.position, limit=PAGE, channels=[self.channel])
        new = [record for record in page.records if record.position > self.position]  # numbered once, whatever is read
        more = page.more and not (page.told and not self._stopping.is_set())
        if new:
            await self._send_page(new, page.scanned)
            self._before_rows -= len(new)
            self.trouble = None
            # Without a change since it was read there is nothing to look for. Before it ends, it looks all the same.
            changed = self._changed.is_set() or self._stopping.is_set()
            return more or changed or self._before_rows > 0 or bool(self._aside.due)
        self._numbering.passed(page.scanned, PASSED_EVERY_S)
        if not page.more:
            self._before_rows = 0
        return more or bool(self._aside.due)

    async def _send_page(self, records: Sequence[Record], scanned: int) -> None:
        numbers: dict[int, int] = {}
        batch: list[tuple[Record, Message]] = []
        puts: list[Put] = []
        origin, prefix, aside = self.origin, self.broker.features.prefix, self._aside.positions
        for record in records:
            number = numbers[record.slot] = self._numbering.after(record.slot, numbers)
            message = message_of(record, origin, number, prefix)
            if put := self._unfit(record, message):
                puts.append(put)
            if put or record.position in aside:
                message = self._tombstone(record, number)
            batch.append((record, message))
        if puts:
            await self._aside.store(puts)
        await self._deliver(batch)
        self._numbering.sent(scanned, numbers, len(batch))
        self.sent += len(batch)

    def _unfit(self, record: Record, message: Message) -> Put | None:
        """Why it can't go now, unless that is stored already."""
        if record.position in self._aside.positions:
            return None
        if self._aside.waits(record):
            return self._aside.behind(record)
        too_large = self._too_large(record, message)
        return self._aside.dead(record, "TooLarge", too_large) if too_large else None

    def _too_large(self, record: Record, message: Message) -> str:
        features = self.broker.features
        if is_small(record, features):
            return ""
        size, limit = size_of(message), features.message_bytes_max
        return _too_large(self.broker, size, limit) if size > limit else ""

    async def _deliver(self, batch: Sequence[tuple[Record, Message]]) -> None:
        """Until the broker has every one of them, or a tombstone in its place."""
        rest, pause_s = list(batch), 0.05
        while rest:
            answers = await self._answers([message for _, message in rest])
            self._look_who_wants_it(answers)
            again: list[tuple[Record, Message]] = []
            refused: list[Put] = []
            for (record, message), answer in zip(rest, answers, strict=True):
                if isinstance(answer, MessageRefused):
                    refused += self._refused(record, answer)
                    again.append((record, self._tombstone(record, _number_of(message, self.broker))))
                elif answer is not None:
                    if not isinstance(answer, NotWanted):
                        self._note(answer)
                    again.append((record, message))
            if refused:
                await self._aside.store(refused)
            elif again:
                await self._hold_on(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MOST_S)
            rest = again

    def _look_who_wants_it(self, answers: Sequence[Exception | None]) -> None:
        """What nobody wants is no reason to stay longer."""
        errors = [answer for answer in answers if isinstance(answer, NotWanted)]
        if errors and not self.unwanted:
            log.warning("the relay of %s: %s", self.channel, errors[0])
            self.trouble = None  # the broker answers
        self.unwanted = bool(errors)
        if errors and self._stopping.is_set():
            raise errors[0]

    def _refused(self, record: Record, why: MessageRefused) -> list[Put]:
        return [] if record.position in self._aside.positions else [self._aside.dead(record, "Refused", str(why))]

    async def _answers(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        try:
            return await self.broker.send(messages)
        except BrokerError as error:
            return [error] * len(messages)

    async def _hold_on(self, pause_s: float) -> None:
        """The broker is away: wait, and stay the leader meanwhile."""
        await self.clock.sleep(pause_s)
        if self._member.due_in_s == 0:
            await self._member.beat([0], shared=False)
            if not self.leads or self._member.held[0].epoch != self._numbering.epoch:
                raise Fenced(f"Another process relays {self.channel} now.")
        self._refuse(await self._claim.others_by_now(self.origin))

    def _tombstone(self, record: Record, number: int) -> Message:
        return tombstone_of(record, self.origin, number, self.broker.features.prefix)

    # --- what can't be sent ---------------------------------------------------------------------------------------

    async def _send_row(self, number: int) -> None:
        """A replayed event goes under a new number, and lets the next of its key go."""
        rows = await self.journal.deliveries(numbers=[number], states=["parked"])
        if rows and rows[0].record is not None:
            record = rows[0].record
            given = await self._number_for(rows[0])
            message = message_of(record, self.origin, given, self.broker.features.prefix)
            too_large = self._too_large(record, message)
            state, error = ("dead", too_large) if too_large else await self._send_one(message)
            if state == "dead":
                await self._aside.change(number, state="dead", reason="Refused", error=storable(error))
                message = self._tombstone(record, given)
            await self._deliver([(record, message)])
            if state != "dead":
                await self._aside.change(number, state="settled", reason="sent")
                self.sent += 1
        await self._aside.look()

    async def _number_for(self, row: Delivery) -> int:
        """Stored with its row before it is used."""
        if row.reason.startswith(NUMBERED):
            return int(row.reason.removeprefix(NUMBERED))
        return await self._numbering.use(row.slot, lambda given: changing(row.number, reason=f"{NUMBERED}{given}"))

    async def _send_one(self, message: Message) -> tuple[str, str]:
        (answer,) = await self._answers([message])
        return ("dead", str(answer)) if isinstance(answer, MessageRefused) else ("parked", "")

    def _note(self, error: Exception) -> None:
        if self.trouble != str(error):  # said once, however often it is tried
            log.error("the relay of %s waits: %s", self.channel, error)
        self.trouble = str(error)

    async def look(self) -> None:
        """How far behind the broker is, for health and the bound on publishing; at most, where another process leads."""
        head = await self.journal.head()
        if self.leads:
            self.behind = max(0, head - self.position)
            return
        rows = await self.journal.subscriptions(f"relay:{self.channel}")
        cursors = await self.journal.cursors([row.number for row in rows])
        self.behind = max(0, head - max((one.position for one in cursors), default=0))


def _too_large(broker: Broker, size: int, limit: int) -> str:
    return (
        f"with its headers it has {size:,} bytes, and {broker.features.name} takes {limit:,} at most. Raise the limit "
        "there and replay it, or drop it and publish a smaller one."
    )


def _number_of(message: Message, broker: Broker) -> int:
    return int(message.headers[f"{broker.features.prefix}sequence"])
