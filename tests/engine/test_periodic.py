"""Periodic handlers in the engine: once per time, one run after the other, nothing missed but by what `missed=` says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventspine import Delivery, Middleware, Service, Spine, sync
from eventspine.engine import periodic, upkeep
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import SetState
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.periodic import Tick, latest_life, tick_id

from .material import ONCE, QUICK, Broken, HandClock, Mailed, Store, abandon, dead, host, rows, turns, until

START = 1_699_999_200  # seconds; a full hour
MINUTE = 60_000_000


class Place:
    """A store on a clock that is moved by hand, and what its handlers were given."""

    def __init__(self, store: Store, clock: HandClock) -> None:
        self.store, self.clock = store, clock
        self.runs: list[int] = []  # in minutes since the start

    def service(self, **options: Any) -> Service[Any]:
        """With one handler, `tidy`, every five minutes unless told otherwise."""
        service: Service[Any] = Service("inventory")
        declare = service.cron(options.pop("cron"), **options) if "cron" in options else None

        @(declare or service.every(minutes=options.pop("minutes", 5), **{"name": "tidy", **options}))
        async def tidy(delivery: Delivery) -> None:
            self.ran(delivery.time)

        return service

    def ran(self, time: datetime) -> None:
        self.runs.append(round(time.timestamp() - START) // 60)

    @asynccontextmanager
    async def running(self, *services: Service[Any], roll_back: bool = False, **options: Any) -> AsyncIterator[Spine]:
        async with (
            self.store.spine(clock=self.clock, **options) as spine,
            spine.running(*services, roll_back=roll_back),
        ):
            await begun(spine)
            yield spine

    async def to(self, minutes: float, *spines: Spine) -> None:
        """Set the clock, and let all that follows happen."""
        self.clock.us = round((START + minutes * 60) * 1e6)
        await quiet(*spines)

    async def runs_at(self, minutes: float, expected: list[int], *spines: Spine) -> None:
        await self.to(minutes, *spines)
        await until(lambda: self.runs == expected, f"for {expected}, not {self.runs}")


async def begun(spine: Spine) -> None:
    """Every schedule has a beginning."""
    for ticker in tickers(spine):
        await until(lambda one=ticker: one._life is not None)


def tickers(spine: Spine) -> list[periodic.Ticker]:
    return [one for runtime in spine._runtimes for one in runtime.periodic.tickers]


async def quiet(*spines: Spine) -> None:
    """All have looked at the clock and done what was to be done."""
    for _ in range(20):
        for spine in spines:
            for runtime in spine._runtimes:
                runtime.periodic.happened()
                for one in runtime.hosts:
                    one.changed()
        await turns(10)
        await asyncio.sleep(0.001)  # the file's own thread


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.setup(name)) for name in ("memory", "sqlite")])
def place(request: Any, tmp_path: Any) -> Place:
    clock = HandClock(START * 1_000_000 + 1)
    if request.param == "memory":
        journal = MemoryJournal(clock)
        return Place(Store(lambda: journal, sql=False), clock)
    return Place(Store(lambda: SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}", clock), sql=True), clock)


# --- once per time ----------------------------------------------------------------------------------------------------


async def test_it_runs_at_its_times_and_never_before(place: Place) -> None:
    async with place.running(place.service()) as spine:
        await place.to(4.999, spine)
        assert place.runs == []
        await place.runs_at(5, [5], spine)
        await place.runs_at(12, [5, 10], spine)


async def test_it_runs_by_itself(spine: Spine) -> None:
    service, ran = Service[Any]("inventory"), asyncio.Event()
    service.every(seconds=1)(ran.set)
    async with spine.running(service):
        await until(ran.is_set)


async def test_of_several_processes_one_runs_it(place: Place) -> None:
    async with place.running(place.service()) as one, place.store.spine(clock=place.clock) as two:
        async with two.running(place.service()):
            for minutes in (5, 10, 15):
                await place.runs_at(minutes, list(range(5, minutes + 1, 5)), one, two)
            assert len(place.runs) == 3


async def test_a_handler_in_a_thread_runs_too_and_may_take_nothing(place: Place) -> None:
    service, times, threads = Service[Any]("inventory"), list[datetime](), set[Any]()

    @service.every(minutes=5)
    def tidy(delivery: sync.Delivery) -> None:
        times.append(delivery.time)
        threads.add(threading.current_thread())

    @service.every(timedelta(minutes=5))
    def count() -> None:
        threads.add(None)

    async with place.running(service) as spine:
        await place.to(5, spine)
        await until(lambda: len(times) == 1 and None in threads)
    assert times == [datetime.fromtimestamp(START + 300, UTC)]
    assert threading.main_thread() not in threads


async def test_what_it_returns_is_published_and_traced_to_its_tick(place: Place) -> None:
    service: Service[Any] = Service("email")

    @service.every(minutes=5)
    async def remind(delivery: Delivery) -> list[Mailed]:
        delivery.publish(Mailed(number=1))
        return [Mailed(number=2)]

    async with place.running(service) as spine:
        await place.to(5, spine)
        (stored,) = await spine.journal.subscriptions()
        id = tick_id(stored.uid, (START + 300) * 1_000_000)

        async def published() -> Any:
            found = (await spine.journal.feed(0, limit=10)).records
            return found if len(found) == 3 else None

        tick, *mails = await until(published)
    assert (tick.id, tick.channel, tick.type, tick.key) == (id, "email/ticks", "email.remind/tick", "remind")
    assert [mail.type for mail in mails] == ["email.Mailed"] * 2
    assert {mail.causation for mail in mails} == {mails[0].correlation}, "the tick began it"


async def test_sql_of_a_run_is_one_unit_with_it(file_store: Store) -> None:
    service = Service[Any]("inventory", tables=lambda c: c.executescript("create table counted (n integer)"))
    attempts: list[int] = []

    @service.every(seconds=1, retry=QUICK)
    async def count(delivery: Delivery) -> None:
        delivery.execute("insert into counted values (1)")
        attempts.append(delivery.attempt)
        if attempts == [1]:
            raise Broken

    async with file_store.spine() as spine:
        async with spine.running(service):
            await until(lambda: len(attempts) >= 3)
        (row,) = await spine.journal.query("select count(*) as n from counted", {})
    assert row["n"] == len(attempts) - 1


async def test_middleware_is_around_a_run_and_is_given_a_tick(place: Place) -> None:
    seen: list[Any] = []

    class Noting(Middleware):
        async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Any]) -> Any:
            seen.append(event)
            return await proceed()

    async with place.running(place.service(), middleware=[Noting()]) as spine:
        await place.runs_at(5, [5], spine)
    assert seen == [Tick(datetime.fromtimestamp(START + 300, UTC))]


def test_a_synchronous_spine_runs_it_too(store: Store) -> None:
    service, ran = Service[Any]("inventory"), threading.Event()
    service.every(seconds=1)(ran.set)
    with sync.Spine(store.journal()) as spine, spine.running(service):
        assert ran.wait(15)


# --- one after the other ----------------------------------------------------------------------------------------------


async def test_runs_never_overlap_and_the_times_that_pass_meanwhile_are_missed(place: Place) -> None:
    service, go = Service[Any]("inventory"), asyncio.Event()

    @service.every(minutes=5, timeout_s=1000)
    async def tidy(delivery: Delivery) -> None:
        place.ran(delivery.time)
        await go.wait()

    async with place.running(service) as spine:
        await place.runs_at(5, [5], spine)
        await place.to(17, spine)
        assert place.runs == [5]
        assert len((await spine.journal.feed(0, limit=10)).records) == 1, "and don't queue up"
        go.set()
        await until(lambda: place.runs == [5, 15])
        await place.runs_at(20, [5, 15, 20], spine)


async def test_while_a_failed_run_waits_for_its_next_attempt_no_other_begins(place: Place) -> None:
    service = Service[Any]("inventory")
    broken = True

    @service.every(minutes=5, retry=ONCE)
    async def tidy(delivery: Delivery) -> None:
        place.ran(delivery.time)
        if broken:
            raise Broken

    async with place.running(service) as spine:
        await place.runs_at(5, [5], spine)
        (row,) = await dead(spine)
        assert row.reason == "Broken"
        await place.runs_at(10, [5, 10], spine)
        await dead(spine, 2)
        broken = False
        await place.runs_at(15, [5, 10, 15], spine)


async def test_a_dead_run_stands_in_the_way_if_it_is_to_wait(place: Place) -> None:
    service = Service[Any]("inventory")

    @service.every(minutes=5, retry=ONCE, on_dead="waits")
    async def tidy(delivery: Delivery) -> None:
        place.ran(delivery.time)
        if len(place.runs) == 1:
            raise Broken

    from eventspine.journal.port import Replay

    async with place.running(service) as spine:
        await place.runs_at(5, [5], spine)
        (row,) = await dead(spine)
        await place.to(20, spine)
        assert place.runs == [5]
        await spine.journal.control([Replay([row.number])])
        await until(lambda: place.runs[:2] == [5, 5])
        await until(lambda: place.runs == [5, 5, 20])
        assert not await rows(spine, "dead", "parked")


# --- what was missed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "made_up"), [("once", [20]), ("all", [10, 15, 20]), ("skip", [])], ids=["once", "all", "skip"]
)
async def test_runs_missed_while_nobody_ran_the_service(place: Place, missed: Any, made_up: list[int]) -> None:
    async with place.running(place.service(missed=missed)) as spine:
        await place.runs_at(5, [5], spine)
    await place.to(22)
    async with place.running(place.service(missed=missed)) as spine:
        await until(lambda: place.runs == [5, *made_up])
        await place.runs_at(25, [5, *made_up, 25], spine)


async def test_a_first_start_has_missed_nothing_and_a_second_one_all_since(place: Place) -> None:
    async with place.running(place.service()):
        assert place.runs == []
    await place.to(7)
    async with place.running(place.service()):
        await until(lambda: place.runs == [5])


async def test_a_run_that_was_brought_in_and_not_finished_is_finished_after_a_crash(place: Place) -> None:
    service, go, begun_runs = Service[Any]("inventory"), asyncio.Event(), list[str]()

    @service.every(minutes=5)
    async def tidy(delivery: Delivery) -> None:
        begun_runs.append(delivery.idempotency_key)
        await go.wait()
        place.ran(delivery.time)

    async with place.store.spine(clock=place.clock) as spine:
        async with spine.running(service):
            await begun(spine)
            await place.to(5, spine)
            await until(lambda: len(begun_runs) == 1)
            await abandon(spine)
    go.set()
    place.clock.us += MINUTE  # its lease is over
    async with place.running(service) as spine:
        await until(lambda: place.runs == [5])
        await place.runs_at(10, [5, 10], spine)
    assert begun_runs[0] == begun_runs[1] != begun_runs[2]


async def test_runs_missed_while_it_was_paused(place: Place) -> None:
    async with place.running(place.service()) as spine:
        (stored,) = await spine.journal.subscriptions()
        await spine.journal.control([SetState(stored.number, "paused")])
        await until(lambda: not host(spine).subscriptions[0].parts)
        await place.to(12, spine)
        assert place.runs == []
        await spine.journal.control([SetState(stored.number, "active")])
        await until(lambda: place.runs == [10])


# --- deploys ----------------------------------------------------------------------------------------------------------


async def test_a_changed_schedule_counts_from_the_change(place: Place) -> None:
    async with place.running(place.service()) as spine:
        await place.runs_at(5, [5], spine)
    await place.to(13)
    async with place.running(place.service(minutes=2)) as spine:
        await place.runs_at(13.5, [5], spine)
        await place.runs_at(14.5, [5, 14], spine)
        lives = latest_life(await spine.journal.cursors([1]))
        assert lives is not None and (lives.number, lives.spec) == (2, "every 120000000us")
    await place.to(17)
    async with place.running(place.service(), roll_back=True) as spine:
        await place.runs_at(18, [5, 14], spine)
        await place.runs_at(20, [5, 14, 20], spine)


async def test_of_old_and_new_code_side_by_side_the_newest_schedule_holds(place: Place) -> None:
    async with place.running(place.service()) as old:
        async with place.running(place.service(minutes=2)) as new:
            await until(lambda: not host(old).held)
            await place.runs_at(2, [2], old, new)
            await place.runs_at(5.5, [2, 4], old, new)
            await place.runs_at(6, [2, 4, 6], old, new)


async def test_a_removed_handler_runs_no_more(place: Place) -> None:
    service: Service[Any] = Service("inventory")
    async with place.running(place.service()) as spine:
        await place.runs_at(5, [5], spine)
    async with place.running(service) as spine:
        await place.to(15, spine)
    assert place.runs == [5]


async def test_a_renamed_handler_goes_on_where_it_was(place: Place) -> None:
    async with place.running(place.service()) as spine:
        await place.runs_at(5, [5], spine)
    await place.to(12)
    async with place.running(place.service(name="sweep", renamed_from="tidy")) as spine:
        await until(lambda: place.runs == [5, 10])
        await place.runs_at(15, [5, 10, 15], spine)


async def test_a_run_that_was_at_work_is_finished_under_its_new_name(place: Place) -> None:
    hanging = Service[Any]("inventory")

    @hanging.every(minutes=5, name="tidy")
    async def hang() -> None:
        await asyncio.Event().wait()

    async with place.store.spine(clock=place.clock) as spine:
        async with spine.running(hanging, drain_s=0):
            await begun(spine)
            await place.to(5, spine)
            await until(lambda: host(spine).subscriptions[0].workers.items)
    async with place.running(place.service(name="sweep", renamed_from="tidy")) as spine:
        await until(lambda: place.runs == [5])


async def test_a_new_handler_under_a_name_that_was_given_up_has_its_own_runs(place: Place) -> None:
    async with place.running(place.service()) as spine:
        await place.runs_at(5, [5], spine)
    service = place.service(name="sweep", renamed_from="tidy")
    others: list[datetime] = []

    @service.every(minutes=10, name="tidy")
    async def tidy(delivery: Delivery) -> None:
        others.append(delivery.time)

    async with place.running(service) as spine:
        await place.runs_at(10, [5, 10], spine)
        await until(lambda: len(others) == 1)
        await place.runs_at(15, [5, 10, 15], spine)
        assert len(others) == 1


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("clock set")
async def test_a_clock_that_is_set_back_a_little_runs_nothing_twice(place: Place) -> None:
    async with place.running(place.service()) as spine:
        await place.runs_at(10, [10], spine)
        await place.runs_at(4, [10], spine)
        await place.runs_at(5, [10], spine)
        await place.runs_at(15, [10, 15], spine)


async def test_a_clock_that_was_years_ahead_stops_nothing_for_years(place: Place) -> None:
    years = 4 * 365 * 24 * 60
    async with place.running(place.service()) as spine:
        await place.runs_at(years, [years], spine)
        await place.to(1, spine)
        await place.runs_at(5, [years, 5], spine)
        await place.runs_at(10, [years, 5, 10], spine)


async def test_a_time_that_comes_again_after_a_clock_was_set_back_far_is_not_run_again(place: Place) -> None:
    async with place.running(place.service()) as spine:
        await place.runs_at(100, [100], spine)
        await place.runs_at(22, [100], spine)
        await place.runs_at(95, [100, 95], spine)
        await place.to(100, spine)
        await place.runs_at(105, [100, 95, 105], spine)


# --- safeguards -------------------------------------------------------------------------------------------------------


async def test_without_the_look_at_the_run_before_runs_queue_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(*_: object) -> bool:
        return True

    monkeypatch.setattr(periodic.Ticker, "_is_finished", always)
    service, go = Service[Any]("inventory"), asyncio.Event()
    service.every(minutes=5, name="tidy", timeout_s=1000)(go.wait)
    async with place.running(service) as spine:
        for minutes in (5, 10, 15):
            await place.to(minutes, spine)

        async def queued() -> bool:
            return len((await spine.journal.feed(0, limit=10)).records) == 3

        await until(queued)
        go.set()


async def test_without_the_cursor_a_crash_forgets_what_was_missed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic, "latest_life", lambda _: None)
    monkeypatch.setattr("tests.engine.material.WAIT_S", 0.5)
    with pytest.raises(AssertionError):
        await test_runs_missed_while_nobody_ran_the_service(place, "once", [20])


async def test_one_in_trouble_keeps_nobody_else_waiting(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = place.service()
    service.every(minutes=5, name="other")(lambda: None)
    turn = periodic.Ticker.turn

    async def failing(self: periodic.Ticker) -> int | None:
        if self.name == "other":
            raise Broken
        return await turn(self)

    monkeypatch.setattr(periodic.Ticker, "turn", failing)
    async with place.store.spine(clock=place.clock) as spine, spine.running(service):
        await until(lambda: tickers(spine)[0]._life is not None)
        await place.runs_at(5, [5], spine)


async def test_ticks_are_kept_for_a_week_and_runs_go_on_without_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.01)
    later = 8 * 24 * 60
    async with place.running(place.service()) as spine:
        await place.runs_at(5, [5], spine)
        await place.runs_at(later, [5, later], spine)

        async def deleted() -> bool:
            return 1 not in [record.position for record in (await spine.journal.feed(0, limit=10)).records]

        await until(deleted)
        await place.runs_at(later + 5, [5, later, later + 5], spine)
