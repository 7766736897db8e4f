"""Batch handlers: a run is one unit, each event has its own outcome, and order per key holds through failures."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventspine import Aggregate, Batch, BatchDelivery, Retry, Service, Spine
from eventspine.engine import batches
from eventspine.engine.lanes import Item, Lanes, Part
from eventspine.journal.port import Append, Drop, Unit
from eventspine.observe.logs import CorrelationFilter, TextFormatter, cause_of
from eventspine.sync import BatchDelivery as SyncBatchDelivery

from .material import (
    FOR_EVER,
    ONCE,
    QUICK,
    SHOP,
    Broken,
    Mailed,
    Placed,
    dead,
    host,
    parked,
    rows,
    subscription,
    turns,
    until,
)

LATER = Retry(immediate=0, first_s=3600, most_s=3600)


def some(count: int, keys: int = 3) -> list[Placed]:
    return [Placed(customer=f"c{number % keys}", number=number) for number in range(count)]


def counting(**options: Any) -> tuple[Service[Any], list[list[int]]]:
    service: Service[Any] = Service("email")
    runs: list[list[int]] = []

    @service.on(Placed, **{"batch": Batch(10), **options})
    async def note(events: list[Placed]) -> None:
        runs.append([event.number for event in events])
        await asyncio.sleep(0)

    return service, runs


def handled(runs: list[list[int]]) -> list[int]:
    return [number for run in runs for number in run]


async def test_runs_are_as_large_as_they_may_be_and_in_order_per_key(spine: Spine) -> None:
    service, runs = counting()
    await spine.publish(*some(100))
    async with spine.running(service):
        await until(lambda: len(handled(runs)) == 100)
    assert max(map(len, runs)) == 10
    for key in range(3):
        assert [number for number in handled(runs) if number % 3 == key] == list(range(key, 100, 3))


async def test_a_run_waits_for_more_within_its_time_and_no_longer(spine: Spine) -> None:
    service, runs = counting(batch=Batch(5, within_ms=1000))
    async with spine.running(service):
        await spine.publish(*some(2))
        await spine.publish(*some(3))
        await until(lambda: runs)
        assert len(runs[0]) == 5, "a full run begins at once"
        await spine.publish(*some(2))
        await until(lambda: len(runs) == 2)
        assert len(runs[1]) == 2, "and one that is not full when its time is over"


async def test_a_run_that_was_gathered_when_a_delivery_began_to_run_alone_waits_for_it(spine: Spine) -> None:
    service, runs = counting(batch=Batch(5, within_ms=200))
    async with spine.running(service):
        await spine.publish(*some(2))
        await until(lambda: subscription(spine).at_work == 2)
        async with host(spine).runtime.gate.alone(lambda: False):
            await until(lambda: subscription(spine).workers.items)
            await turns()
            assert runs == []
        await until(lambda: sorted(handled(runs)) == [0, 1])


async def test_each_event_has_its_own_outcome_and_what_follows_a_failed_one_comes_after_it(spine: Spine) -> None:
    service, seen, broken = Service("email"), list[tuple[str, int]](), {4}

    @service.on(Placed, batch=Batch(10), retry=FOR_EVER)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            if event.number in broken:
                delivery.retry(event, Broken())
                delivery.of(event)
            seen.append((delivery.of(event).key or "", event.number))

    await spine.publish(*some(10))
    async with spine.running(service):
        await until(lambda: subscription(spine).waiting.count == 2)
        broken.clear()
        await until(lambda: subscription(spine).waiting.count == 0)
        await until(lambda: subscription(spine).at_work == 0)
    of_key = [number for key, number in seen if key == "c1"]
    last = {number: at for at, number in enumerate(of_key)}
    assert sorted(last, key=lambda number: last[number]) == [1, 4, 7]
    assert [number for key, number in seen if key == "c0"] == [0, 3, 6, 9], "others are handled once"
    assert {row.state for row in await rows(spine)} == {"settled"}


async def failing_second_of_a_key(spine: Spine) -> list[int]:
    """Events 0 and 1 of a key in one run; 1 fails and parks; 2 comes later."""
    service, seen = Service("email"), list[int]()

    @service.on(Placed, batch=Batch(10), retry=LATER)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            seen.append(event.number)
            if event.number == 1:
                delivery.retry(event, Broken())

    await spine.publish(*some(2, keys=1))
    async with spine.running(service):
        await parked(spine)
        await spine.publish(Placed(customer="c0", number=2), Placed(customer="other", number=3))
        await until(lambda: 3 in seen)
        await until(lambda: 2 in seen or subscription(spine).waiting.count == 2)
    return seen


async def test_a_key_stays_taken_for_the_one_that_failed_when_others_of_it_are_done(spine: Spine) -> None:
    assert await failing_second_of_a_key(spine) == [0, 1, 3]


def overtaken() -> bool:
    """Two events of a key are out in one run, the first comes back; is a third handed out beside the second?"""
    lanes, part = Lanes(), Part(0, "lease", 1, 0, [], 1, 0)
    (record,) = Spine("memory://", service=SHOP).records([Placed()], cause=None, time=None, id=None)
    first, second, third = (Item(record._replace(position=at), part, at - 1) for at in (1, 2, 3))
    lanes.add(first, "ann")
    lanes.add(second, "ann")
    assert lanes.take() is first
    assert lanes.more(first.lane) is second
    lanes.release(first)
    lanes.add(third, "ann")
    return bool(lanes.ready) and lanes.take() is third


def test_the_first_verdict_of_a_run_does_not_set_its_key_free() -> None:
    assert not overtaken()


def test_if_it_did_the_next_event_would_overtake(monkeypatch: Any) -> None:
    give_back = Lanes._give_back

    def all_at_once(lanes: Lanes, item: Any) -> None:
        give_back(lanes, item)
        item.lane.taken = 0

    monkeypatch.setattr(Lanes, "_give_back", all_at_once)
    assert overtaken()


async def runs_around_a_hand_over(spine: Spine) -> list[list[int]]:
    """A run of one key is at work when its partition is given up; then it raises, and the second of it once more."""
    service, runs, go_on = Service[None]("email"), list[list[int]](), asyncio.Event()

    @service.on(Placed, batch=Batch(10), retry=FOR_EVER)
    async def note(events: list[Placed]) -> None:
        runs.append([event.number for event in events])
        await go_on.wait()
        if len(runs) == 1 or runs[-1] == [1]:
            raise Broken

    await spine.publish(*some(3, keys=1))
    async with spine.running(service):
        await until(lambda: runs)
        host = subscription(spine).host
        host._give_up(list(host.held))
        go_on.set()
        await until(lambda: not subscription(spine).at_work)
        host._nudge.set()
        await until(lambda: 2 in handled(runs[1:]))
    return runs


async def test_a_run_that_fails_after_its_partition_was_given_up_is_the_next_owners(spine: Spine) -> None:
    assert await runs_around_a_hand_over(spine) == [[0, 1, 2], [0, 1, 2]]


async def test_if_it_went_back_to_its_key_a_later_event_would_overtake_one_that_fails(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Item, "forgotten", Item.of_row)
    assert (await runs_around_a_hand_over(spine))[1:4] == [[0], [1], [2]]


async def test_what_is_given_up_while_a_run_is_gathered_is_not_handed_to_it_twice(spine: Spine) -> None:
    service, runs = counting(batch=Batch(10, within_ms=300))
    await spine.publish(*some(2, keys=1))
    async with spine.running(service):
        await until(lambda: subscription(spine).at_work)
        host = subscription(spine).host
        for part in list(subscription(spine).parts):
            subscription(spine).drop(part)
        host.load_missing(subscription(spine))
        await until(lambda: handled(runs))
    assert handled(runs) == [0, 1]


async def test_one_may_be_dead_while_the_others_are_done(spine: Spine) -> None:
    service = Service("email")

    @service.on(Placed, batch=Batch(10))
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            if event.number == 4:
                delivery.dead(event, "no such street")

    await spine.publish(*some(10))
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: subscription(spine).handled >= 10)
    assert (row.reason, row.error) == ("rejected", "Reject: no such street")


@pytest.mark.parametrize("error", [None, "later", Broken], ids=str)
async def test_what_is_named_with_no_error_is_dead_and_not_done(spine: Spine, error: Any) -> None:
    service, handled = Service("email"), list[int]()

    @service.on(Placed, batch=Batch(10), retry=QUICK)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            if event.number == 1:
                delivery.retry(event, error)
        handled.extend(event.number for event in events)

    await spine.publish(*some(3))
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: len(handled) == 2)
    assert sorted(handled) == [0, 2]
    assert "takes the error" in row.error


async def test_a_run_that_raises_is_done_one_by_one_and_only_the_culprit_fails(spine: Spine) -> None:
    service, sizes, seen = Service("email"), list[int](), list[int]()

    @service.on(Placed, batch=Batch(10), retry=ONCE)
    async def note(events: list[Placed]) -> None:
        sizes.append(len(events))
        if any(event.number == 4 for event in events):
            raise Broken
        seen.extend(event.number for event in events)

    await spine.publish(*some(10))
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: len(seen) == 9)
    assert row.attempts == 1, "the run's failure was nobody's attempt"
    assert sizes[0] == 10
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert seen.index(1) < seen.index(7)


async def test_two_parked_deliveries_that_are_due_together_do_not_fail_each_other_for_ever(spine: Spine) -> None:
    """After a restart all are due at once; were they one run, it would fail as a whole again and again."""
    service, broken, attempts = Service("email"), True, list[int]()

    @service.on(Placed, batch=Batch(10), retry=Retry(attempts=4, immediate=0, first_s=0.001, most_s=0.001))
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        attempts.append(len(events))
        if broken or any(event.number == 0 for event in events):
            raise Broken

    await spine.publish(*some(3))
    async with spine.running(service):
        await until(lambda: len(attempts) > 1)
    broken = False
    async with spine.running(service):
        await dead(spine)
        await until(lambda: subscription(spine).waiting.count == 0)
    assert len(await rows(spine, "dead")) >= 1
    assert await rows(spine, "parked") == []


async def test_order_feed_with_runs_stands_at_the_failing_event(spine: Spine) -> None:
    service, broken, done = Service("email"), True, list[int]()

    @service.on(Placed, batch=Batch(4), order="feed", retry=FOR_EVER)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        if broken and any(event.number == 5 for event in events):
            raise Broken
        done.extend(event.number for event in events)

    await spine.publish(*some(12))
    async with spine.running(service):
        await parked(spine)
        assert done == [0, 1, 2, 3, 4]
        broken = False
        await until(lambda: len(done) == 12)
    assert done == list(range(12))


@pytest.mark.parametrize("state", ["parked", "dead"])
async def test_order_feed_with_runs_is_not_called_again_because_more_comes(spine: Spine, state: str) -> None:
    service, tried = Service("mail"), list[int]()
    retry = ONCE if state == "dead" else Retry(immediate=0, first_s=3600, most_s=3600)

    @service.on(Placed, batch=Batch(4), order="feed", on_dead="waits", retry=retry)
    async def note(events: list[Placed]) -> None:
        tried.extend(event.number for event in events)
        raise Broken

    async with spine.running(service):
        await spine.publish(Placed(number=1))
        await (dead(spine) if state == "dead" else parked(spine))
        lanes = subscription(spine).lanes
        await until(lambda: not lanes.taken)
        await spine.publish(Placed(number=2))
        await until(lambda: lanes.size == 2 and not lanes.ready and not lanes.taken)
        assert tried == [1]


async def test_order_feed_with_runs_stands_at_the_dead_event_after_a_restart_too(spine: Spine) -> None:
    service, seen = Service("email"), list[int]()

    @service.on(Placed, batch=Batch(4), order="feed", on_dead="waits", retry=ONCE)
    async def note(events: list[Placed]) -> None:
        seen.extend(event.number for event in events)
        if any(event.number == 1 for event in events):
            raise Broken

    await spine.publish(*some(4))
    async with spine.running(service):
        await dead(spine)
    before = list(seen)
    async with spine.running(service):
        await until(lambda: not subscription(spine).lanes.ready and subscription(spine).lanes.size == 3)
        await turns()
    assert seen == before


async def test_what_can_not_be_decoded_dies_and_the_rest_of_the_run_goes_on(spine: Spine) -> None:
    service, runs = counting(retry=ONCE)
    records = spine.records(some(9, keys=1), cause=None, time=None, id=None)
    for number in (2, 5):
        records[number] = records[number]._replace(data=b"[]")
    await spine.journal.commit([Unit(appends=[Append(records)])])
    async with spine.running(service):
        await dead(spine, 2)
        await until(lambda: len(handled(runs)) == 7)
    assert handled(runs) == [0, 1, 3, 4, 6, 7, 8]


async def test_a_run_of_which_the_first_can_not_be_decoded_has_its_time_all_the_same(spine: Spine) -> None:
    service, endless = Service("email"), asyncio.Event()

    @service.on(Placed, batch=Batch(10), retry=ONCE, timeout_s=0.2)
    async def note(events: list[Placed]) -> None:
        await endless.wait()

    records = spine.records(some(3), cause=None, time=None, id=None)
    records[0] = records[0]._replace(data=b"[]")
    await spine.journal.commit([Unit(appends=[Append(records)])])
    async with spine.running(service, drain_s=0.0):
        found = await dead(spine, 3)
    assert sorted(row.reason or "" for row in found) == ["HandlerTimeout", "HandlerTimeout", "undecodable"]


@pytest.mark.parametrize("order", ["feed", "key"])
@pytest.mark.parametrize("on_dead", ["goes_on", "waits"])
async def test_one_of_a_run_that_can_not_be_read_dies_once_and_behind_those_before_it(
    spine: Spine, caplog: pytest.LogCaptureFixture, order: Any, on_dead: Any
) -> None:
    service, runs = counting(order=order, on_dead=on_dead)
    records = spine.records(some(6, keys=1), cause=None, time=None, id=None)
    records[2] = records[2]._replace(data=b"[]")
    await spine.journal.commit([Unit(appends=[Append(records)])])
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: on_dead == "waits" or len(handled(runs)) == 5)
        await spine.journal.control([Drop([row.number])])
        await until(lambda: len(handled(runs)) == 5)
    assert [0, 1, 3, 4, 5] == handled(runs)
    assert ["ERROR"] == [record.levelname for record in caplog.records if record.name == "eventspine.engine"]


async def test_what_is_published_names_its_cause(spine: Spine) -> None:
    service = Service("email")

    @service.on(Placed, batch=Batch(10))
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            delivery.publish(Mailed(number=event.number), cause=event)
            delivery.of(event).publish(Mailed(number=event.number + 100))

    receipts = await spine.publish(*some(3))
    async with spine.running(service):

        async def mailed() -> Any:
            found = (await spine.journal.feed(0, limit=100, types=["email.Mailed"])).records
            return found if len(found) == 6 else None

        records = await until(mailed)
    assert sorted(r.causation for r in records) == sorted([receipt.id for receipt in receipts] * 2)


async def test_log_records_of_a_run_name_its_first_event_and_its_last(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("email")
    caplog.handler.addFilter(CorrelationFilter())
    caplog.set_level(logging.INFO, "test.mail")

    @service.on(Placed, batch=Batch(10))
    async def note(events: list[Placed]) -> None:
        logging.getLogger("test.mail").info("hello")

    first, _, last = await spine.publish(*some(3))
    async with spine.running(service):
        await until(lambda: subscription(spine).handled == 3)
    [record] = [record for record in caplog.records if record.name == "test.mail"]
    told = {"handler": "email.note", "events": 3, "first_event_id": first.id, "last_event_id": last.id}
    assert told == cause_of(record)
    line = f"hello handler=email.note events=3 first_event_id={first.id} last_event_id={last.id}"
    assert TextFormatter().format(record).endswith(line)


@pytest.mark.parametrize("how", ["returns", "spine"])
async def test_what_does_not_say_which_event_it_belongs_to_is_refused(spine: Spine, how: str) -> None:
    service = Service("email")

    @service.on(Placed, batch=Batch(10))
    async def note(events: list[Placed], delivery: BatchDelivery) -> Any:
        if how == "spine":
            await spine.publish(Mailed())
        return Mailed()

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert "cause=" in row.error
    assert (row.reason, row.attempts) == ("DeclarationError", 1)
    assert await spine.journal.head() == 1


class Customer(Aggregate):
    pass


ABSENT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "join": (lambda delivery: delivery.join(sqlite3.connect(":memory:")), "join a connection"),
    "transaction": (lambda delivery: delivery.transaction(), "have a transaction"),
    "load": (lambda delivery: delivery.load(Customer, "ann"), "load aggregates"),
    "load_or_new": (lambda delivery: delivery.load_or_new(Customer, "ann"), "load aggregates"),
    "save": (lambda delivery: delivery.save(Customer("ann")), "save aggregates"),
}


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("of_event", [False, True])
@pytest.mark.parametrize("what", list(ABSENT))
async def test_what_a_run_has_not_is_told_with_what_it_has_and_not_tried_again(
    spine: Spine, what: str, of_event: bool, blocking: bool
) -> None:
    service = Service("email")
    use, told = ABSENT[what]

    async def note(events: list[Placed], delivery: Any) -> None:
        if inspect.isawaitable(used := use(delivery.of(events[0]) if of_event else delivery)):
            await used

    def note_blocking(events: list[Placed], delivery: Any) -> None:
        used = use(delivery.of(events[0]) if of_event else delivery)
        with used:
            pass

    service.on(Placed, batch=Batch(10))(note_blocking if blocking else note)
    await spine.publish(*some(2))
    async with spine.running(service):
        for row in await dead(spine, 2):
            assert (
                f"a run of events as one unit, and can't {told}, for the run or for one event of it. It has"
                in row.error
            )
            assert (row.reason, row.attempts) == ("DeclarationError", 1)


@pytest.mark.parametrize("blocking", [False, True])
async def test_what_a_run_publishes_for_later_comes_later(spine: Spine, blocking: bool) -> None:
    service = Service("email")

    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            delivery.publish(Mailed(number=event.number), cause=event, after=timedelta(hours=1))

    def note_blocking(events: list[Placed], delivery: SyncBatchDelivery) -> None:
        for event in events:
            delivery.publish(Mailed(number=event.number), cause=event, at=datetime.now(UTC) + timedelta(hours=1))

    service.on(Placed, batch=Batch(10))(note_blocking if blocking else note)  # type: ignore[call-overload]
    receipts = await spine.publish(*some(2))
    async with spine.running(service):

        async def timed() -> Any:
            return [one for one in await spine.journal.timers() if one.record.type == "email.Mailed"]

        assert {receipt.id for receipt in receipts} == {
            one.record.causation for one in await until(timed) if one.due_us > time.time() * 1e6 + 3e9
        }


TABLES = "create table email_done (number integer primary key, run integer)"


def schema(tmp_path: Path) -> Callable[[Any], None]:
    def tables(connection: Any) -> None:
        connection.execute(TABLES)

    return tables


async def test_a_run_is_one_unit_all_or_nothing(file: Spine, tmp_path: Path) -> None:
    service, runs = Service("email", tables=schema(tmp_path)), 0

    @service.on(Placed, batch=Batch(10), retry=ONCE)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        nonlocal runs
        runs += 1
        for event in events:
            of_event = delivery.of(event) if event.number % 2 else delivery
            of_event.execute("insert into email_done values (:number, :run)", number=event.number, run=runs)
            if event.number == 4:
                delivery.execute("insert into email_done values (:number, :run)", number=4, run=runs)

    await file.publish(*some(10))
    async with file.running(service):
        (row,) = await dead(file)

        async def stored() -> bool:
            return len(await file.journal.query("select * from email_done", {})) == 9

        await until(stored)
    assert "UNIQUE" in row.error
    found = await file.journal.query("select number, run from email_done order by number", {})
    assert [row["number"] for row in found] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert 1 not in {row["run"] for row in found}, "nothing is left of the run that failed"


async def test_nothing_is_changed_by_a_run_of_which_no_event_is_done(file: Spine, tmp_path: Path) -> None:
    service, attempts = Service("email", tables=schema(tmp_path)), 0

    @service.on(Placed, batch=Batch(10), retry=FOR_EVER)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        nonlocal attempts
        attempts += 1
        delivery.execute("insert into email_done values (:number, 0)", number=attempts)
        delivery.of(events[0]).execute("insert into email_done values (:number, 0)", number=-attempts)
        if attempts < 4:
            delivery.retry(events[0], Broken())

    await file.publish(Placed())
    async with file.running(service):
        await until(lambda: subscription(file).handled and subscription(file).at_work == 0 and attempts == 4)
    found = await file.journal.query("select number from email_done", {})
    assert {4, -4} == {row["number"] for row in found}


RUN = [Placed(customer="ann", number=number) for number in range(10)]


def adding(calls: list[list[int]], of_events: bool = False, **options: Any) -> Service[Any]:
    """Adds a row for each event; then number 3 fails once."""
    service: Service[Any] = Service("email", tables=added_rows)

    @service.on(Placed, **{"batch": Batch(100, within_ms=20), "retry": Retry(first_s=0.01, most_s=0.01), **options})
    async def add(events: list[Placed], delivery: BatchDelivery) -> None:
        calls.append([event.number for event in events])
        for event in events:
            whose = delivery.of(event) if of_events else delivery
            whose.execute("insert into email_added values (:number)", number=event.number)
            if event.number == 3 and delivery.of(event).attempt == 1:
                delivery.retry(event, Broken())

    return service


def added_rows(connection: Any) -> None:
    connection.execute("create table email_added (number integer not null)")


async def added(file: Spine, service: Service[Any]) -> list[int]:
    await file.publish(*RUN)
    async with file.running(service):
        await until(lambda: subscription(file).handled >= len(RUN) and subscription(file).at_work == 0)
        await until(lambda: subscription(file).waiting.count == 0)
    return [row["number"] for row in await file.journal.query("select number from email_added order by rowid", {})]


@pytest.mark.parametrize("options", [{}, {"order": "feed"}, {"order": "none"}, {"on_dead": "waits"}], ids=str)
async def test_sql_of_a_run_is_not_stored_for_those_that_come_again(file: Spine, options: dict[str, Any]) -> None:
    calls: list[list[int]] = []
    numbers = await added(file, adding(calls, **options))
    assert sorted(numbers) == list(range(10))
    if options.get("order") != "none":
        assert numbers == list(range(10))
        assert calls[:2] == [list(range(10)), [0, 1, 2]]


async def test_if_the_run_were_stored_as_it_was_effects_would_happen_twice(file: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr(batches, "remaining", lambda run, _: run)
    numbers = await added(file, adding([]))
    assert sorted(numbers) == sorted([*range(10), *range(3, 10)])


async def test_sql_that_says_for_which_event_it_is_needs_no_second_call(file: Spine) -> None:
    calls: list[list[int]] = []
    assert await added(file, adding(calls, of_events=True)) == list(range(10))
    assert calls[0] == list(range(10))
    assert [0, 1, 2] not in calls


@pytest.mark.parametrize("fails", [False, True], ids=["all done", "one fails"])
async def test_sql_of_events_and_of_the_run_is_run_in_the_order_in_which_it_was_asked_for(
    file: Spine, fails: bool
) -> None:
    """What a later event of a key has changed must not be changed back by an earlier one."""

    def tables(connection: Any) -> None:
        connection.execute("create table email_asked (number integer primary key, event integer)")

    service: Service[Any] = Service("email", tables=tables)
    runs = list[int]()

    @service.on(Placed, batch=Batch(10), retry=LATER)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        runs.append(len(events))
        for event in events:
            if fails and event.number == 2:
                delivery.retry(event, Broken())
            asks: Any = delivery.of(event) if event.number % 3 == 1 else delivery
            asks.execute("insert into email_asked (event) values (:n)", n=event.number)

    await file.publish(*some(6, keys=6))
    async with file.running(service):
        await until(lambda: subscription(file).handled == 6 - fails)
        asked = await file.journal.query("select event from email_asked order by number", {})
    assert [6, 5][: 1 + fails] == runs
    assert [n for n in range(6) if not (fails and n == 2)] == [row["event"] for row in asked]


async def test_the_second_call_may_fail_too(file: Spine) -> None:
    """As a whole: then its events are handled one by one, and who was named is named again."""
    service: Service[Any] = Service("email", tables=added_rows)
    calls: list[list[int]] = []

    @service.on(Placed, batch=Batch(100, within_ms=20), retry=Retry(first_s=0.01, most_s=0.01))
    async def add(events: list[Placed], delivery: BatchDelivery) -> None:
        calls.append([event.number for event in events])
        if len(calls) == 2:
            raise Broken
        for event in events:
            delivery.execute("insert into email_added values (:number)", number=event.number)
            if event.number == 3:
                delivery.dead(event, "no")

    await file.publish(*RUN)
    async with file.running(service):
        await dead(file)
        await until(lambda: subscription(file).handled >= len(RUN) - 1 and subscription(file).at_work == 0)
    found = [row["number"] for row in await file.journal.query("select number from email_added order by rowid", {})]
    assert found == [0, 1, 2, 4, 5, 6, 7, 8, 9]


async def test_a_run_that_takes_too_long_has_failed(spine: Spine) -> None:
    service, sizes = Service("email"), list[int]()

    @service.on(Placed, batch=Batch(10), timeout_s=0.05, retry=ONCE)
    async def note(events: list[Placed]) -> None:
        sizes.append(len(events))
        if any(event.number == 1 for event in events):
            await asyncio.Event().wait()

    await spine.publish(*some(3))
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: len(sizes) == 4)
    assert row.reason == "HandlerTimeout"
    assert sizes == [3, 1, 1, 1]


async def test_a_run_that_takes_too_long_when_it_is_asked_for_again_has_failed(file: Spine) -> None:
    service, calls, ended = Service[None]("email"), list[int](), list[int]()

    @service.on(Placed, batch=Batch(10), retry=QUICK, timeout_s=0.1)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        calls.append(len(events))
        delivery.execute("select 1")
        if len(events) == 3:
            delivery.retry(events[0], Broken())
        if len(events) == 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(len(events))
                raise

    await file.publish(*some(3))
    async with file.running(service):
        await until(lambda: subscription(file).handled == 3)
    assert ([3, 2, 1, 1, 1], [2]) == (calls, ended)


async def test_a_run_in_a_thread(spine: Spine) -> None:
    service, runs = Service("email"), list[int]()

    @service.on(Placed, batch=Batch(10))
    def note(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            delivery.publish(Mailed(number=event.number), cause=event)
        runs.append(len(events))

    await spine.publish(*some(10))
    async with spine.running(service):
        await until(lambda: sum(runs) == 10)
        await until(lambda: subscription(spine).at_work == 0)
    assert await spine.journal.head() == 20
