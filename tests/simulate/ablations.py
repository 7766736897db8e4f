"""Each safeguard, a way to turn it off, and the histories that notice. `python -m tests.simulate.ablations` writes the
table of docs/why/proof.md; a test holds the page to it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Event, Retry, Service
from eventspine.engine import batches, calls, commits, lanes, loading, reloading, waiting
from eventspine.engine.lanes import Item, Lanes
from eventspine.engine.readers import Readers
from eventspine.engine.subscription import Subscription
from eventspine.journal import _memory_tables, _memory_units, memory
from eventspine.journal.port import Fence, Unit, Verdict
from eventspine.testing.simulate import Faults, World
from eventspine.testing.simulate.history import History, Setup
from tests.simulate import carried
from tests.simulate.setups import KINDS, SHOP

PAGE = Path(__file__).parents[2] / "docs" / "why" / "proof.md"
BEGINS, ENDS = "<!-- ablations -->", "<!-- /ablations -->"
BOUNDS = (10, 30, 100, 300, 1000)
MARGIN = 3  # another version of Python may take its turns in another order

Off = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Ablation:
    safeguard: str
    off: Off
    setup: Setup = SHOP
    first: int = 1  # seed

    def caught(self, most: int) -> tuple[int, History] | None:
        """After how many histories, and what that one said."""
        with pytest.MonkeyPatch.context() as patch:
            self.off(patch)
            for number in range(most):
                history = self.setup.run(self.first + number)
                if history.broken:
                    return number + 1, history
        return None


# --- a service that fails often, for what shows only when many things come together -------------------------------------


class Hit(Event, context="hits", key="who"):
    who: str
    number: int


busy = Service("busy")
SOON = Retry(immediate=0, first_s=20, most_s=60)


@busy.on(Hit, retry=SOON)
async def one_by_one(event: Hit) -> None: ...


async def hits(world: World) -> None:
    for number in range(24):
        await world.publish(Hit(who=f"w{number % 2}", number=number))
        await world.sleep(seconds=1)


runs = Service("runs")


@runs.on(Hit, batch=Batch(6, within_ms=50), retry=SOON)
async def bundle(events: list[Hit]) -> None: ...


def tables(connection):
    connection.execute("create table rung (number integer not null)")


till = Service("till", tables=tables)


@till.on(Hit, batch=Batch(6, within_ms=5000), retry=SOON)
async def ring(events: list[Hit], delivery: BatchDelivery) -> None:
    for event in events:
        delivery.execute("insert into rung values (:number)", number=event.number)
        if event.number % 5 == 3 and delivery.of(event).attempt == 1:
            delivery.retry(event, ValueError("again"))


def each_is_rung_once(world: World) -> None:
    numbers = [row["number"] for row in world.query("select number from rung")]
    assert len(numbers) == len(set(numbers)), sorted(numbers)


CLOCKS = replace(Faults.none(), clock_jumps=6, failing=0.3, slow_handlers=0.5, handler_s=4, slow=0.3, short=0.5)
WRONG_CLOCKS = Setup((busy,), hits, (), 2, CLOCKS, None)
HAND_OVERS = replace(Faults.none(), restarts=2, pauses=2, failing=0.4, slow_handlers=0.5, handler_s=6, slow=0.2)
RUNS = Setup((runs,), hits, (), 2, HAND_OVERS, None)
TILL = Setup((till,), hits, (each_is_rung_once,), 2, Faults(), None)


# --- switches -----------------------------------------------------------------------------------------------------------


def no_repetition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_memory_units, "_is_repetition", lambda *_: False)
    patch.setattr(_memory_units, "_finished_in_part", lambda *_: None)


def no_lease_fence(patch: pytest.MonkeyPatch) -> None:
    fenced = _memory_units._fenced

    def only_generations(tables: Any, unit: Unit) -> Any:
        return fenced(tables, Unit(done=unit.done))

    patch.setattr(_memory_units, "_fenced", only_generations)


def cursor_apart(patch: pytest.MonkeyPatch) -> None:
    def succeeded(self: Subscription, item: Item, unit: Unit | None) -> None:
        """The effects commit; the cursor follows in a commit of its own."""

        def then(verdict: Verdict) -> None:
            if verdict.ok:
                after = Unit()
                self.complete(item, after)
                self.committer.submit(after, lambda verdict: self.verdict(item, verdict))
            else:
                self.verdict(item, verdict)

        effects = unit or Unit()
        effects.fences.append(Fence(item.part.lease, item.part.epoch))
        self.committer.submit(effects, then)

    patch.setattr(Subscription, "succeeded", succeeded)


def folded_before_the_verdict(patch: pytest.MonkeyPatch) -> None:
    def commit_unit(tables: Any, unit: Unit, now_us: int) -> Verdict:
        verdict = _memory_units.commit_unit(tables, unit, now_us)
        if verdict.kind in ("fenced", "failed"):
            _memory_units._finish(tables, unit)
        return verdict

    patch.setattr(memory, "commit_unit", commit_unit)


def furthest_position(patch: pytest.MonkeyPatch) -> None:
    def furthest(position: int, beyond: Any, ranges: Any) -> Any:
        return max(position, *(upto for _, upto in ranges)), []

    patch.setattr(_memory_tables, "fold", furthest)


def key_goes_on_while_one_is_parked(patch: pytest.MonkeyPatch) -> None:
    def take(self: Lanes, turn: int = 0) -> Item | None:
        lane = self.ready[0]
        if not lane.queue:
            return taken(self, turn)
        stored, lane.stored = lane.stored, lanes.NONE
        item = taken(self, turn)
        lane.stored = stored
        return item

    def proceed(self: Lanes, lane: Any) -> None:
        if lane.queue and lane.next is None and not lane.taken and not lane.queued:
            lane.queued = True
            self.ready.append(lane)
        else:
            proceeded(self, lane)

    taken, proceeded = Lanes.take, Lanes.proceed
    patch.setattr(Lanes, "take", take)
    patch.setattr(Lanes, "proceed", proceed)
    patch.setattr(waiting.Waiting, "_hold_back", lambda self, item: self.subscription.release(item))


def key_released_before_the_verdict(patch: pytest.MonkeyPatch) -> None:
    succeeded = Subscription.succeeded

    def at_once(self: Subscription, item: Item, unit: Unit | None) -> None:
        succeeded(self, item, unit)
        item.lane.taken -= 1
        self.lanes.proceed(item.lane)
        item.lane.taken += 1

    def take(self: Lanes, turn: int = 0) -> Item | None:
        lane = self.ready[0]
        before, lane.taken = lane.taken, 0
        item = taken(self, turn)
        lane.taken += before
        return item

    taken = Lanes.take
    patch.setattr(Lanes, "take", take)
    patch.setattr(Subscription, "succeeded", at_once)


def follows_without_waiting(patch: pytest.MonkeyPatch) -> None:
    async def at_once(*_: object) -> bool:
        return True

    patch.setattr(calls, "follows", at_once)


def unknown_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    ask = commits.Committer._ask

    async def hopeful(self: Any, units: Any) -> list[Verdict]:
        verdicts = await ask(self, units)
        return [Verdict("done") if verdict.kind == "unknown" else verdict for verdict in verdicts]

    patch.setattr(commits.Committer, "_ask", hopeful)


def trouble_taken_for_a_failed_attempt(patch: pytest.MonkeyPatch) -> None:
    async def once(self: Any, asked: Any) -> None:
        for (_, then), verdict in zip(asked, await self._ask([unit for unit, _ in asked]), strict=True):
            commits._tell(then, verdict)

    patch.setattr(commits.Committer, "_commit", once)


def runs_go_back_to_keys_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Item, "forgotten", Item.of_row)


def named_events_take_part(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(batches, "remaining", lambda run, _: run)


def rows_not_loaded(patch: pytest.MonkeyPatch) -> None:
    async def none(*_: Any) -> list[Any]:
        return []

    patch.setattr(loading, "_rows", none)


def change_noted_before_it_is_read(patch: pytest.MonkeyPatch) -> None:
    follow = reloading.Reloads.follow_control

    async def noted(self: Any, version: int) -> None:
        before = self.host.control
        try:
            await follow(self, version)
        except Exception:
            self.host.control = version if version != before else before
            raise

    patch.setattr(reloading.Reloads, "follow_control", noted)


def reading_on_while_partitions_change(patch: pytest.MonkeyPatch) -> None:
    stop, rebuild = Readers.stop, Readers.rebuild

    async def go_on(self: Any) -> None: ...

    async def stop_and_rebuild(self: Any, subscriptions: Any) -> None:
        await stop(self)
        await rebuild(self, subscriptions)

    patch.setattr(Readers, "stop", go_on)
    patch.setattr(Readers, "rebuild", stop_and_rebuild)


def lane_by_event(patch: pytest.MonkeyPatch) -> None:
    add = Lanes.add
    patch.setattr(Lanes, "add", lambda self, item, key: add(self, item, object()))


def marks_never_cleared(patch: pytest.MonkeyPatch) -> None:
    finish = Subscription.finish_range

    def without(self: Subscription, item: Item, unit: Unit) -> None:
        finish(self, item, unit)
        unit.starts.clear()

    patch.setattr(Subscription, "finish_range", without)


def changes_of_rows_not_guarded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_memory_units, "_changed_meanwhile", lambda *_: None)


ABLATIONS = [
    Ablation("Repetition: a unit whose events are finished is not applied again", no_repetition),
    Ablation("The cursor is in the handler's unit", cursor_apart),
    Ablation("Only accepted units are folded into the cursor", folded_before_the_verdict),
    Ablation("The cursor is contiguous, with what is finished beyond it", furthest_position),
    Ablation("A unit counts only under its lease's epoch", no_lease_fence, WRONG_CLOCKS, 8),
    Ablation("One delivery of a key at a time", lane_by_event),
    Ablation("A key is held until the verdict on its unit", key_released_before_the_verdict),
    Ablation(
        "What follows one that is handled and not yet stored commits nothing before it is", follows_without_waiting
    ),
    Ablation(
        "A key waits while a delivery of it is parked, and what follows is parked behind",
        key_goes_on_while_one_is_parked,
    ),
    Ablation("Parked rows are loaded before the first event is", rows_not_loaded),
    Ablation("What is unknown is asked again", unknown_taken_for_done),
    Ablation("Trouble of the journal is nobody's failed attempt", trouble_taken_for_a_failed_attempt),
    Ablation(
        "A run that fails after its partition was given up does not go back to its key",
        runs_go_back_to_keys_given_up,
        RUNS,
        385,
    ),
    Ablation("SQL of a run of which some have failed is asked for again without these", named_events_take_part, TILL),
    Ablation("Nobody reads on while partitions change", reading_on_while_partitions_change),
    Ablation("An operator's change is noted when it has been read", change_noted_before_it_is_read, KINDS),
    Ablation("A row that somebody has changed meanwhile is not changed again", changes_of_rows_not_guarded, KINDS),
    Ablation("Start marks are cleared by whoever has returned", marks_never_cleared),
    Ablation(
        "Broker: what was brought in is known by its number, or else by its id",
        carried.neither_numbers_nor_ids_known,
        carried.QUEUE,
    ),
    Ablation("Broker: marks are stored with what was brought in", carried.marks_not_kept, carried.QUEUE),
    Ablation("Broker: numbers are stored with the relay's cursor", carried.numbers_not_stored, carried.QUEUE),
    Ablation(
        "Broker: the relay's cursor follows when the broker has the events",
        carried.cursor_before_the_broker_has_it,
        carried.QUEUE,
    ),
    Ablation("Broker: what was not answered is sent again", carried.no_answer_taken_for_yes, carried.QUEUE),
    Ablation("Broker: a relay's units are fenced", carried.relays_not_fenced, carried.LEASES_LOST, 700),
    Ablation("Broker: an intake's units are fenced", carried.intakes_not_fenced, carried.LEASES_LOST, 336),
    Ablation("Broker: what comes early waits for what is before it", carried.early_taken_at_once, carried.UNORDERED),
    Ablation(
        "Broker: nothing is settled before the journal has it", carried.settled_before_it_is_stored, carried.QUEUE
    ),
    Ablation("Broker: where an intake begins is decided once", carried.start_decided_by_each, carried.LOG),
]


# --- those that other suites catch: real processes, files and deploys ---------------------------------------------------

ELSEWHERE = [  # the test that turns it off, and about how many seconds that takes
    (
        "A rewind, a pause, a rename raises the cursor's generation, and fences who had it before",
        "tests/engine/test_fencing.py::test_r13_without_the_fence_it_would_count_twice",
        3,
    ),
    (
        "A release that widens a filter fences the one before",
        "tests/deploys/test_releases.py::test_without_generations_and_the_fence_the_old_process_passes_what_the_new_one_wants",
        10,
    ),
    ("The newest generation leads", "tests/engine/test_generations.py::test_r8_without_generations_both_would_work", 1),
    (
        "Start marks, then alone, then dead",
        "tests/faults/test_poison.py::test_without_care_it_kills_one_process_after_the_other",
        10,
    ),
    ("A process drains before it ends", "tests/faults/test_drained.py::test_without_a_drain_handlers_are_cut", 3),
    (
        "Partitions are given back one by one during a drain",
        "tests/deploys/test_restarts.py::test_if_all_were_kept_until_the_end_of_the_drain_others_would_wait_for_the_slowest",
        10,
    ),
    (
        "Every commit is synced",
        "tests/faults/test_power_cuts.py::test_without_a_sync_per_commit_power_cuts_lose_acknowledged_events",
        10,
    ),
    (
        "Supervised processes end with their supervisor",
        "tests/faults/test_supervisor.py::test_without_the_lifeline_they_would_go_on_for_ever",
        10,
    ),
    (
        "A process waits for no lock that it holds itself",
        "tests/journal/test_sqlite_locks.py::test_r21_without_the_safeguard_it_waits_for_itself_until_the_limit",
        10,
    ),
    (
        "A handler's own transaction is limited in time",
        "tests/journal/test_sqlite_slow.py::test_without_the_limit_one_delivery_keeps_everybody_waiting",
        10,
    ),
    (
        "A backup is verified before it has its name",
        "tests/journal/test_sqlite_backup.py::test_without_verifying_it_would_be_taken_for_one",
        1,
    ),
    (
        "Whoever hears no bell looks now and then",
        "tests/journal/test_sqlite_processes.py::test_without_bells_a_look_now_and_then_is_enough",
        3,
    ),
    (
        "A unit whose SQL fails is rolled back to its savepoint",
        "tests/journal/test_sqlite_units.py::test_r5_without_savepoints_half_a_failed_unit_stays",
        1,
    ),
    (
        "Units of a commit that failed are run again one by one",
        "tests/journal/test_sqlite_units.py::test_r5_without_the_second_run_innocent_units_are_lost",
        1,
    ),
    (
        "Processes take turns by the lock file",
        "tests/faults/test_turns.py::test_writers_take_turns_and_without_the_lock_file_one_goes_on_while_others_wait",
        10,
    ),
    (
        "Retention asks the cursors",
        "tests/journal/test_sqlite_retention.py::test_without_asking_the_cursors_a_paused_handler_loses_events",
        1,
    ),
    (
        "Known repetitions, in the journal's own suite",
        "tests/journal/test_memory.py::test_without_knowing_repetitions_the_suite_fails",
        1,
    ),
    (
        "A relay that takes over looks whether it still leads when it has read",
        "tests/brokers/test_taking_over.py::test_without_the_look_at_its_lease_an_event_goes_out_under_anothers_number",
        1,
    ),
    ("Fences, in the journal's own suite", "tests/journal/test_memory.py::test_without_fences_the_suite_fails", 1),
    (
        "The state of a row is asked before it is changed",
        "tests/journal/test_memory.py::test_without_guarding_states_the_suite_fails",
        1,
    ),
    ("Expected versions of streams", "tests/journal/test_memory.py::test_without_expected_versions_the_suite_fails", 1),
    (
        "The next run waits for the one before",
        "tests/engine/test_periodic.py::test_without_the_look_at_the_run_before_runs_queue_up",
        1,
    ),
    (
        "A schedule's cursor says what was missed",
        "tests/engine/test_periodic.py::test_without_the_cursor_a_crash_forgets_what_was_missed",
        3,
    ),
    (
        "What a handler has in memory is bounded in bytes",
        "tests/brokers/test_bounds.py::test_without_a_bound_on_what_a_handler_has_in_memory_the_suite_fails",
        10,
    ),
    (
        "So are a page of the feed, and what a broker's intake gives at once",
        "tests/brokers/test_bounds.py::test_without_a_bound_on_a_fetch_the_suite_fails",
        3,
    ),
    (
        "So is what an intake takes from the server before",
        "tests/brokers/test_bounds.py::test_without_a_bound_on_what_comes_before_it_is_fetched_the_suite_fails",
        10,
    ),
    (
        "An error of the engine's own is followed by a pause",
        "tests/engine/test_faults.py::test_without_the_pause_it_is_a_hot_loop",
        1,
    ),
]


def table() -> str:
    """Measured now: takes a while."""
    lines = ["| safeguard | turned off, this was seen | after so many histories, at most |", "|---|---|---|"]
    for one in ABLATIONS:
        caught = one.caught(BOUNDS[-1] // MARGIN)
        if caught is None:
            raise SystemExit(f"Nothing notices that this is turned off: {one.safeguard}")
        count, history = caught
        bound = next(bound for bound in BOUNDS if MARGIN * count <= bound)
        lines.append(f"| {one.safeguard} | {_seen(history)} | {bound} |")
    lines += ["", "| safeguard | caught by | within about |", "|---|---|---|"]
    lines += [f"| {safeguard} | `{test}` | {seconds} s |" for safeguard, test, seconds in ELSEWHERE]
    return "\n".join(lines)


def _seen(history: History) -> str:
    what = re.sub(r" \d+ s after.*", "", str(history.broken).partition(":")[0])
    return what[0].lower() + what[1:]


def stated(page: str) -> dict[str, int]:
    """The bounds of the page, by safeguard."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (\d+) \|$", page, re.MULTILINE)
    return {safeguard: int(bound) for safeguard, bound in rows}


def main() -> int:
    page = PAGE.read_text()
    before, after = page[: page.index(BEGINS) + len(BEGINS)], page[page.index(ENDS) :]
    PAGE.write_text(f"{before}\n\n{table()}\n\n{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
