"""What waits: deliveries that failed and are parked or dead, and those of the same key that queue behind them.

Each is a row of the journal, written in the unit that moves the cursor past it; so a failing key blocks itself and
nothing else, and its state survives the process. Under order="feed" the cursor does not pass it: the feed stands."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import DeclarationError, Fenced, SpineError
from ..journal.port import BEHIND, Change, Delivery, Fence, Put, StartMark, State, Unit, Verdict
from ..observe.correlation import current
from ..policies import Policies, Retry
from ..wording import plural
from .failures import cause_of, name_of, record_of, text_of, undecided, utc, what_next, why_ended
from .lanes import Item, Lane, Lanes, Stored
from .loading import NEWER
from .outcomes import Again, Die, Finish, Outcome, Park, after_failure

if TYPE_CHECKING:
    from .subscription import Subscription

log = logging.getLogger("eventspine.engine")

BEHIND_MAX = 100_000  # rows of keys that wait; at the bound the subscription reads no further
GIVEN_BACK_US = 10_000_000  # an event of a newer version is looked at again after this long
FOR_A_WORD = 1 << 62  # dead, and its key waits until somebody replays or drops it


class Newer(Exception):
    """An event of a version that this process does not know: given back, not dead (R8)."""


class Waiting:
    """The rows of one subscription that keep keys waiting."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.lanes: Lanes = subscription.lanes
        self.count = 0
        self.full = False
        self.failures = 0
        self.looks = 0  # at rows that others have changed
        self.rows: dict[int, Delivery] = {}  # order="feed": by position, of deliveries that the cursor stands before

    def _counted(self, more: int) -> None:
        """At the bound no more are added: later events wait in memory, and reading stops by itself."""
        self.count += more
        was, self.full = self.full, self.count >= BEHIND_MAX
        self.lanes.full = self.subscription.whole or self.full  # a feed never parks behind
        if self.full and not was:
            log.warning(
                "%s: %s behind keys that fail; no more are stored",
                self.subscription.name,
                plural(self.count, "delivery waits", "deliveries wait"),
            )

    def numbers(self) -> set[int]:
        """The rows that are known here."""
        lanes = self.lanes.lanes.values()
        return {stored.number for lane in lanes for stored in lane.stored} | {
            lane.next.number for lane in lanes if lane.next is not None and lane.next.number
        }

    def recount(self) -> None:
        """Rows went without being settled: with their partition, or by an operator's hand."""
        self._counted(sum(len(lane.stored) for lane in self.lanes.lanes.values()) - self.count)

    # --- a failed attempt -------------------------------------------------------------------------------------------

    def failed(self, item: Item, error: BaseException, trace: str | None = None) -> None:
        """Again, later, never, or forget it. `trace`: if the error has its own no more."""
        one = self.subscription
        if not item.part.alive:
            one.release(item)
        elif isinstance(error, Newer):
            self._park(item, Park(one.clock.now_us() + GIVEN_BACK_US, NEWER), "", "")
        elif isinstance(error, Fenced):
            one.fenced(item)
        else:
            self._carry_out(item, *self._decide(item, error), trace)

    def too_late(self, item: Item, error: BaseException) -> None:
        """Its transaction had committed, and the event with it."""
        self.say(
            item,
            logging.ERROR,
            "%s: %s is done, since the transaction that it joined had committed when its handler raised, so it is not tried again. "
            "What the handler still had to do is not done, nor is published what it returned: %s",
            name_of(item),
            text_of(error)[0],
        )

    def _decide(self, item: Item, error: BaseException) -> tuple[BaseException, Outcome]:
        """What becomes of it, and the error that says why. Policies that can't be asked are an error too, which the
        default policy is for; else the handler would be run again and again."""
        one, now_us = self.subscription, self.subscription.clock.now_us()
        item.attempts += 1
        item.plain, item.started = False, 0.0
        item.first_us = item.first_us or now_us
        self.failures += 1
        tables = (one.handler.errors, one.host.service.errors)
        chance, attempts, first_us = one.clock.random, item.attempts, item.first_us
        try:
            return error, after_failure(error, attempts, first_us, now_us, one.handler.retry, tables, chance)
        except Exception as fault:
            untold, retry = undecided(one.name, error, fault), Retry()
            again: Policies = {DeclarationError: retry}  # the policies are wrong, and what failed may well succeed
            return untold, after_failure(untold, attempts, first_us, now_us, retry, (again,), chance)

    def _carry_out(self, item: Item, error: BaseException, outcome: Outcome, told: str | None) -> None:
        one = self.subscription
        text, trace = text_of(error)
        trace = told or trace
        self._log(item, outcome, text)
        match outcome:
            case Again():
                item.failure = (type(error).__name__, text)
                self.unsuspect(item)
                self.lanes.again(item)
                one.workers.wake()
            case Park():
                self._park(item, outcome, text, trace)
            case Die(reason):
                self.die(item, reason, f"{text}{why_ended(outcome)}", trace)
            case Finish(reason):
                item.failure = (f"dropped: {reason}", text)
                item.attempts -= 1  # finishing counts it
                one.succeeded(item, None)

    def unsuspect(self, item: Item) -> None:
        """It has returned, if only to fail: its process didn't die of it (R16)."""
        if item.suspect:
            item.mark = None
            unit = Unit(fences=[Fence(item.part.lease, item.part.epoch)], starts=[self._returned(item)])
            self.subscription.committer.submit(unit, lambda _: None)

    def _returned(self, item: Item) -> StartMark:
        return StartMark(self.subscription.number, item.part.number, record_of(item).position, times=0)

    def _log(self, item: Item, outcome: Outcome, text: str) -> None:
        level = logging.ERROR if isinstance(outcome, Die) else logging.WARNING
        most, now_us = outcome.attempts_max, self.subscription.clock.now_us()
        due_us = outcome.due_us if isinstance(outcome, Park) else now_us if isinstance(outcome, Again) else None
        of = (
            "" if most is None else f" of {most}" if item.attempts <= most else f", past its {most}"
        )  # a replay is one more
        count = f"attempt {item.attempts}{of}"
        extra = {"attempts_max": most, "next_attempt": None if due_us is None else utc(due_us)}
        said = what_next(outcome, now_us)
        self.say(item, level, "%s: %s failed, %s, %s: %s", name_of(item), count, said, text, extra=extra)

    def say(
        self, item: Item, level: int, message: str, *arguments: object, extra: dict[str, Any] | None = None
    ) -> None:
        """A verdict comes when something else is being handled, or nothing; the record names this delivery all the same."""
        token = current.set(cause_of(self.subscription.name, item))
        try:
            log.log(level, message, self.subscription.name, *arguments, extra=extra)
        finally:
            current.reset(token)

    # --- parked and dead --------------------------------------------------------------------------------------------

    def _park(self, item: Item, park: Park, text: str, trace: str) -> None:
        item.failure = (park.reason, text)
        unit = self._unit(item, "parked", park.due_us, text, trace, finishes=not self.subscription.whole)
        self.subscription.committer.submit(unit, partial(self._parked, item, park.due_us, self.looks))

    def _parked(self, item: Item, due_us: int, looks: int, verdict: Verdict) -> None:
        if not self._stored(item, looks, verdict):
            return
        if self.subscription.whole:
            self._is_to_wait(item, due_us)
            self.lanes.again(item, due_us)
            self.subscription.plan()
        else:
            self._row(item).due_us = due_us
            self._hold_back(item)
        self.subscription.progress(0)

    def killed(self, item: Item, text: str) -> None:
        """Dead without an attempt that could fail: its process died of it."""
        self.say(item, logging.ERROR, "%s: %s is dead, it killed its process: %s", name_of(item), text)
        self.die(item, "killed-its-process", text)

    def die(self, item: Item, reason: str, text: str, trace: str = "") -> None:
        one = self.subscription
        item.failure = (reason, text)
        finishes = not (one.whole and one.handler.on_dead == "waits")
        unit = self._unit(item, "dead", None, text, trace, finishes=finishes)
        one.committer.submit(unit, partial(self._died, item, self.looks))

    def _died(self, item: Item, looks: int, verdict: Verdict) -> None:
        if not self._stored(item, looks, verdict):
            return
        one = self.subscription
        if one.handler.on_dead == "goes_on" or (one.whole and item.of_row):  # the feed has gone on without it already
            one.gone(item)
        elif one.whole:
            self._is_to_wait(item, FOR_A_WORD)
            self.lanes.hold(item)
        else:
            self._row(item).dead = True
            self._hold_back(item)
        one.progress(1)

    def still_dead(self, item: Item, looks: int) -> None:
        """Its row had been read as one that was replayed, before it was known here that it has died once more since."""
        one = self.subscription
        if not one.waits_for_dead or one.whole:
            one.gone(item)
        elif not item.part.alive:
            one.release(item)
        else:
            self._row(item).dead = True
            self._hold_back(item)
            if looks != self.looks:  # it may have been replayed since its row was read
                one.host.look_again(one)

    def _stored(self, item: Item, looks: int, verdict: Verdict) -> bool:
        """Whether its row is written and still ours to wait for."""
        if not verdict.ok:
            if verdict.kind == "fenced":
                self.subscription.fenced(item)
            else:
                self.say(item, logging.ERROR, "%s: %s could not be stored: %s", name_of(item), verdict.error)
                self.subscription.workers.stumbled([item], verdict.error or SpineError("a row could not be stored"))
            return False
        item.mark = None
        if not item.number and not verdict.numbers:  # a repetition: it was finished meanwhile, and has no row
            self.subscription.gone(item)
            return False
        item.number = item.number or verdict.numbers[0]
        self.repeated(item, verdict)
        if not item.part.alive:
            self._load_again(item)
            self.subscription.release(item)
            return False
        if looks != self.looks:  # what others had made of the row by then was seen before it was known here
            self.subscription.host.look_again(self.subscription)
        return True

    def _load_again(self, item: Item) -> None:
        """Its row may have been written after the rows of its partition were loaded anew: what came in with them must not go on
        in its key, where the event itself would pass for finished."""
        self.subscription.drop(item.part.number)
        self.subscription.host.reload(self.subscription)

    def _unit(self, item: Item, state: State, due_us: int | None, text: str, trace: str, *, finishes: bool) -> Unit:
        unit = Unit(fences=[Fence(item.part.lease, item.part.epoch)])
        if item.number:
            reason = item.failure[0] if item.failure else None
            change = Change(item.number, state, item.attempts, item.deaths, due_us, reason, text, trace)
            unit.changes.append(change)
        else:
            unit.puts.append(self.put(item, state, due_us, item.attempts, trace))
        if finishes:
            self.subscription.finish_range(item, unit)
        elif item.suspect:
            unit.starts.append(self._returned(item))
        return unit

    def put(self, item: Item, state: State, due_us: int | None, attempts: int, trace: str = "") -> Put:
        reason, text = item.failure or (BEHIND, "")
        number, part = self.subscription.number, item.part.number
        return Put(
            number, part, record_of(item), state, attempts, due_us, reason, text, trace, item.late, deaths=item.deaths
        )

    def _row(self, item: Item) -> Stored:
        for stored in item.lane.stored:
            if stored.number == item.number:
                break
        else:
            stored = Stored(item.number, record_of(item).position, item.part, None)
            self.keep(item.lane, stored)
        stored.attempts, stored.deaths = item.attempts, item.deaths
        stored.first_us, stored.late = item.first_us, item.late
        return stored

    # --- queueing behind a key that waits -----------------------------------------------------------------------------

    def keep(self, lane: Lane, stored: Stored) -> None:
        self.lanes.keep(lane, stored)
        self._counted(1)

    def settle(self, item: Item) -> None:
        """Its row is finished with."""
        stored = item.lane.stored
        at = next((at for at, one in enumerate(stored) if one.number == item.number), None)
        if at is not None:  # nearly always the first: a key's rows are handled in their order
            del stored[at]
            self._counted(-1)

    def _hold_back(self, item: Item) -> None:
        if not self.lanes.full:
            for later in self.lanes.behind(item.lane):
                self.store_behind(later)
        self.subscription.release(item)

    def store_behind(self, item: Item) -> None:
        unit = self._unit(item, "parked", None, "", "", finishes=True)
        self.subscription.committer.submit(unit, partial(self._stored_behind, item))

    def _stored_behind(self, item: Item, verdict: Verdict) -> None:
        one, lane = self.subscription, item.lane
        lane.pending -= 1
        self.lanes.size -= 1
        one.bytes -= len(record_of(item).data)
        if not verdict.ok or not item.part.alive:
            self._load_again(item)
        elif verdict.numbers:  # else it was finished meanwhile, and has no row
            self.keep(lane, Stored(verdict.numbers[0], record_of(item).position, item.part, None))
        self.lanes.proceed(lane)
        one.progress(0)
        one.plan()

    # --- order="feed": the whole feed stands at one delivery ------------------------------------------------------------

    def _is_to_wait(self, item: Item, until_us: int) -> None:
        """It is looked at whenever the feed goes on, and in a run nobody looks whether its time has come."""
        item.waits, item.single = until_us, True

    def recall(self, item: Item) -> None:
        """Its row, if it was tried before: the attempts go on from there, and not before they are due."""
        row = self.rows.pop(record_of(item).position, None)
        if row is not None:
            item.plain, item.single = False, True
            item.number, item.attempts, item.late = row.number, row.attempts, row.late
            item.first_us = row.first_us if row.attempts else 0
            item.waits = FOR_A_WORD if row.state == "dead" else 0 if row.reason == NEWER else row.due_us or 0

    def wait(self, item: Item) -> None:
        """It is not to be handled yet."""
        self.subscription.host.look_again(self.subscription)  # an operator's word may have come since its row was read
        if item.waits == FOR_A_WORD:
            self.lanes.hold(item)
        else:
            self.lanes.again(item, item.waits)
            self.subscription.plan()

    def repeated(self, item: Item, verdict: Verdict) -> None:
        """It may have been dropped while its row was being stored, or before: then the feed is to go on."""
        if verdict.kind == "repeated" and self.subscription.whole and item.number:
            self.subscription.host.look_again(self.subscription)

    def refresh_whole(self, lane: Lane, known: dict[int, Delivery], gone: set[int]) -> None:
        """The delivery that the feed stands at may have been replayed, retried or dropped."""
        item = lane.next
        if item is None or not item.number:
            return
        row = known.get(item.number)
        if item.number in gone:
            self._pass(item)
        elif row is not None and row.state == "parked" and row.attempts >= item.attempts:  # else read before the last
            item.attempts, item.late, item.waits = row.attempts, row.late, row.due_us or 0
            lane.next_due = row.due_us
            self.lanes.hurry([lane])

    def _pass(self, item: Item) -> None:
        one = self.subscription
        item.lane.next = None
        self.lanes.hand_out(item)
        self.lanes.hurry([item.lane])  # who comes next has not to wait until this one would have been due
        unit = Unit(fences=[Fence(item.part.lease, item.part.epoch)])
        one.finish_range(item, unit)
        one.committer.submit(unit, partial(one.verdict, item))
