"""Dead deliveries: what their key does meanwhile (R10), how they come back, and what never dies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Delivery, Event, Retry as Policy, Service, Spine
from eventspine.engine import loading
from eventspine.errors import JournalError
from eventspine.journal.port import Append, Drop, Replay, Retry, Unit, Verdict

from .material import (
    FOR_EVER,
    ONCE,
    SHORT_LEASE_S,
    Broken,
    Placed,
    Store,
    abandon,
    dead,
    host,
    parked,
    rows,
    subscription,
    turns,
    until,
)


class Bug:
    """A handler that fails for some numbers until it is mended."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)
        self.handled: list[tuple[int, bool]] = []

    async def handle(self, event: Placed, delivery: Delivery) -> None:
        if event.number in self.numbers:
            raise Broken(str(event.number))
        self.handled.append((event.number, delivery.late))

    def mend(self) -> None:
        self.numbers.clear()

    @property
    def order(self) -> list[int]:
        return [number for number, _ in self.handled]

    def service(self, **options: Any) -> Service[Any]:
        service: Service[Any] = Service("mail")
        service.on(Placed, name="note", retry=ONCE, **options)(self.handle)
        return service


async def replay(spine: Spine) -> int:
    numbers = [row.number for row in await rows(spine, "dead")]
    return await spine.journal.control([Replay(numbers)])


LATER = Policy(immediate=0, first_s=3600, most_s=3600)
ORDERS = pytest.mark.parametrize("order", ["key", "feed"])


@ORDERS
async def test_r10_the_key_goes_on_and_what_died_comes_late(spine: Spine, order: Any) -> None:
    bug = Bug(5)
    await spine.publish(*[Placed(number=number) for number in (5, 6, 7)])
    async with spine.running(bug.service(order=order)):
        await dead(spine)
        await until(lambda: bug.order == [6, 7])
        bug.mend()
        await replay(spine)
        await until(lambda: bug.order == [6, 7, 5])
    assert [False, False, True] == [late for _, late in bug.handled]
    assert ["settled"] == [row.state for row in await rows(spine)]


@ORDERS
async def test_r10_a_key_that_waits_keeps_its_whole_order(spine: Spine, order: Any) -> None:
    bug = Bug(5)
    await spine.publish(*[Placed(number=number) for number in (4, 5, 6, 7)])
    async with spine.running(bug.service(order=order, on_dead="waits")):
        await dead(spine)
        await spine.publish(Placed(number=8))
        if order == "key":
            await parked(spine, 3)
        assert bug.order == [4]
        bug.mend()
        await replay(spine)
        await until(lambda: bug.order == [4, 5, 6, 7, 8])
    assert not any(late for _, late in bug.handled), "its key has waited for it"
    assert {"settled"} == {row.state for row in await rows(spine)}


@ORDERS
async def test_a_key_that_waits_goes_on_waiting_after_a_restart(spine: Spine, order: Any) -> None:
    bug = Bug(5)
    service = bug.service(order=order, on_dead="waits")
    await spine.publish(Placed(number=5), Placed(number=6))
    async with spine.running(service):
        await dead(spine)
    bug.mend()
    async with spine.running(service):
        await spine.publish(Placed(customer="bob", number=1))
        if order == "key":
            await until(lambda: bug.order == [1])
        await until(lambda: host(spine).held)
        assert 6 not in bug.order
        await replay(spine)
        await until(lambda: len(bug.order) == 3)
    assert bug.order == ([1, 5, 6] if order == "key" else [5, 6, 1])


@pytest.mark.parametrize("what", ["replay", "drop"])
async def test_a_feed_goes_on_whose_word_comes_while_it_is_read_again(spine: Spine, what: str) -> None:
    bug = Bug(5)
    service = bug.service(order="feed", on_dead="waits")
    await spine.publish(Placed(number=5), Placed(number=6))
    async with spine.running(service):
        (row,) = await dead(spine)
    bug.mend()
    async with spine.running(service):
        async with spine._runtimes[0].gate.alone(lambda: False):
            await until(lambda: subscription(spine).lanes.size == 2)
            await spine.journal.control([Replay([row.number]) if what == "replay" else Drop([row.number])])
            changed = await spine.journal.control_version()
            await until(lambda: host(spine).control == changed)
        await until(lambda: bug.order == ([5, 6] if what == "replay" else [6]))


async def late_and_behind(spine: Spine, bug: Bug, at_work: int) -> None:
    """One died and is replayed while the next ones of its key are at work; then one more is published."""
    numbers = range(6, 6 + at_work)
    await dead(spine)
    await spine.publish(*[Placed(number=number) for number in numbers])
    await until(lambda: subscription(spine).at_work == at_work)
    bug.mend()
    await replay(spine)
    lanes = subscription(spine).lanes.lanes.values()
    await until(lambda: any(lane.stored for lane in lanes))
    await spine.publish(Placed(number=6 + at_work))
    await until(lambda: any(lane.queue or len(lane.stored) == 2 for lane in lanes))


async def test_what_comes_behind_a_late_one_does_not_overtake_what_was_at_work_in_a_process_that_died(
    store: Store,
) -> None:
    """Who takes over would find it among the stored rows, and what was at work not yet read."""
    bug, go = Bug(5), asyncio.Event()

    async def handle(event: Placed, delivery: Delivery) -> None:
        if event.number == 6:
            await go.wait()
        await bug.handle(event, delivery)

    service: Service[Any] = Service("mail")
    service.on(Placed, name="note", retry=ONCE)(handle)
    async with store.spine(lease_s=SHORT_LEASE_S) as spine:
        await spine.publish(Placed(number=5))
        async with spine.running(service, drain_s=0.0):
            await late_and_behind(spine, bug, 1)
            await abandon(spine)
        go.set()
        feed = spine.journal.feed

        async def slow(*given: Any, **options: Any) -> Any:
            await asyncio.sleep(0.3)
            return await feed(*given, **options)

        spine.journal.feed = slow  # type: ignore[method-assign]
        async with spine.running(service):
            await until(lambda: sorted(bug.order) == [5, 6, 7])
    assert [number for number in bug.order if number != 5] == [6, 7]


async def test_what_comes_behind_a_late_one_does_not_overtake_a_run_that_fails(spine: Spine) -> None:
    bug, go = Bug(5), asyncio.Event()

    async def handle(events: list[Placed], delivery: BatchDelivery) -> None:
        if len(events) > 1:
            await go.wait()
            raise Broken
        await bug.handle(events[0], delivery.of(events[0]))

    service: Service[Any] = Service("mail")
    service.on(Placed, name="note", retry=ONCE, batch=Batch(2))(handle)
    await spine.publish(Placed(number=5))
    async with spine.running(service):
        await late_and_behind(spine, bug, 2)
        go.set()
        await until(lambda: sorted(bug.order) == [5, 6, 7, 8])
    assert [number for number in bug.order if number != 5] == [6, 7, 8]


async def test_other_keys_do_not_wait(spine: Spine) -> None:
    bug = Bug(5)
    async with spine.running(bug.service(on_dead="waits")):
        await spine.publish(Placed(number=5), Placed(number=6), Placed(customer="bob", number=7))
        await until(lambda: bug.order == [7])


@ORDERS
@pytest.mark.parametrize("on_dead", ["goes_on", "waits"])
@pytest.mark.parametrize("before", ["once", "replayed"])
async def test_what_is_replayed_before_it_is_known_here_to_be_dead_is_handled(
    spine: Spine, order: Any, on_dead: Any, before: str
) -> None:
    """The answer to the commit in which it died is late, or had been lost and was asked for again."""
    bug = Bug(5)
    commit, held = spine.journal.commit, asyncio.Event()
    deaths = 1 if before == "once" else 2

    async def late(units: Sequence[Unit]) -> list[Verdict]:
        nonlocal deaths
        verdicts = await commit(units)
        deaths -= any(row.state == "dead" for unit in units for row in (*unit.puts, *unit.changes))
        if not deaths:
            await held.wait()
        return verdicts

    spine.journal.commit = late  # type: ignore[method-assign]
    await spine.publish(Placed(number=5), Placed(number=6))
    async with spine.running(bug.service(order=order, on_dead=on_dead)):
        await dead(spine)
        if before == "replayed":
            await replay(spine)
            await until(lambda: not deaths)
            await dead(spine)
        bug.mend()
        await replay(spine)
        changed = await spine.journal.control_version()
        await until(lambda: host(spine).control == changed)
        held.set()
        await until(lambda: sorted(bug.order) == [5, 6])
    assert on_dead == "goes_on" or bug.order == [5, 6]
    assert {"settled"} == {row.state for row in await rows(spine)}


@pytest.mark.parametrize("retry", [ONCE, LATER])
async def test_what_a_feed_stands_at_is_over_when_dropped_while_its_partition_is_taken_up(
    spine: Spine, retry: Any
) -> None:
    """The cursor is read before, and its row no more: it comes as if it had never been tried."""
    handled, deliveries = list[int](), spine.journal.deliveries

    async def followed() -> bool:
        return host(spine).control == await spine.journal.control_version()

    async def dropped_before(*given: Any, **options: Any) -> Any:
        if options.get("partitions"):
            await spine.journal.control([Drop([row.number for row in await deliveries(states=["parked", "dead"])])])
        return await deliveries(*given, **options)

    service: Service[Any] = Service("mail")

    @service.on(Placed, retry=retry, order="feed", on_dead="waits")
    async def note(event: Placed) -> None:
        if event.number == 5:
            await until(followed, "and nothing that is looked at later tells of it")
            raise Broken
        handled.append(event.number)

    await spine.publish(Placed(number=5))
    async with spine.running(service):
        await (dead(spine) if retry is ONCE else parked(spine))
    spine.journal.deliveries = dropped_before  # type: ignore[method-assign]
    async with spine.running(service):
        await until(lambda: host(spine).held)
        spine.journal.deliveries = deliveries  # type: ignore[method-assign]
        await spine.publish(Placed(number=6))
        await until(lambda: handled)
    assert ["dropped"] == [row.reason for row in await rows(spine)]


@pytest.mark.parametrize("retry", [ONCE, LATER])
async def test_what_a_feed_stands_at_is_over_when_dropped_before_the_answer_is_asked_for_again(
    spine: Spine, retry: Any
) -> None:
    handled, commit = list[int](), spine.journal.commit
    lost = True

    async def lose_the_answer(units: Sequence[Unit]) -> list[Verdict]:
        nonlocal lost
        verdicts = await commit(units)
        if lost and any(unit.puts for unit in units):
            lost = False
            await spine.journal.control([Drop([row.number for row in await rows(spine, "parked", "dead")])])
            return [Verdict("unknown") for _ in units]
        return verdicts

    service: Service[Any] = Service("mail")

    @service.on(Placed, retry=retry, order="feed", on_dead="waits")
    async def note(event: Placed) -> None:
        if event.number == 5:
            raise Broken
        handled.append(event.number)

    spine.journal.commit = lose_the_answer  # type: ignore[method-assign]
    await spine.publish(Placed(number=5), Placed(number=6))
    async with spine.running(service):
        await until(lambda: handled)
    assert not lost
    assert ["dropped"] == [row.reason for row in await rows(spine)]


@ORDERS
@pytest.mark.parametrize("batch", [None, Batch(1)])
async def test_a_key_waits_for_what_died_again_while_its_row_was_read(spine: Spine, order: Any, batch: Any) -> None:
    """What is read of it says that it was replayed, and that it has died once more is known here before."""
    bug, go, attempts = Bug(5), asyncio.Event(), 0
    deliveries, asked, held = spine.journal.deliveries, asyncio.Event(), asyncio.Event()

    async def handle(event: Placed, delivery: Delivery) -> None:
        nonlocal attempts
        attempts += event.number == 5
        if attempts == 2:
            await go.wait()
        await bug.handle(event, delivery)

    async def handle_run(events: list[Placed], delivery: BatchDelivery) -> None:
        await handle(events[0], delivery.of(events[0]))

    async def late(*given: Any, **options: Any) -> Any:
        found = await deliveries(*given, **options)
        if attempts == 2 and options.get("partitions"):
            asked.set()
            await held.wait()
        return found

    service: Service[Any] = Service("mail")
    declare = service.on(Placed, name="note", retry=ONCE, order=order, on_dead="waits", batch=batch)
    declare(handle_run if batch else handle)
    spine.journal.deliveries = late  # type: ignore[method-assign]
    await spine.publish(Placed(number=5), Placed(number=6))
    async with spine.running(service):
        await dead(spine)
        if order == "key":
            await parked(spine)
        await replay(spine)
        await until(lambda: attempts == 2)
        host(spine).look_again(subscription(spine))
        await asked.wait()
        go.set()
        await dead(spine)
        lanes = subscription(spine).lanes
        await until(lambda: not lanes.taken)
        held.set()
        await until(lambda: not host(spine).reloads.asked and not host(spine)._changing.locked())
        await spine.publish(Placed(customer="bob", number=7))
        await (until(lambda: bug.order) if order == "key" else turns())
        bug.mend()
        await replay(spine)
        await until(lambda: len(bug.order) == 3)
    assert bug.order == ([7, 5, 6] if order == "key" else [5, 6, 7])
    assert attempts == 3


async def test_replaying_twice_handles_once(spine: Spine) -> None:
    bug = Bug(5)
    await spine.publish(Placed(number=5))
    async with spine.running(bug.service()):
        (row,) = await dead(spine)
        bug.mend()
        assert await spine.journal.control([Replay([row.number]), Replay([row.number])]) == 1
        assert await spine.journal.control([Replay([row.number])]) == 0
        await until(lambda: bug.order == [5])
        assert await spine.journal.control([Replay([row.number])]) == 0, "settled: there is nothing to replay"
        await spine.publish(Placed(number=6))
        await until(lambda: bug.order == [5, 6])


async def test_what_is_replayed_while_nobody_runs_is_handled_by_the_next_who_does(spine: Spine) -> None:
    bug = Bug(5)
    await spine.publish(Placed(number=5), Placed(number=6))
    async with spine.running(bug.service()):
        await dead(spine)
        await until(lambda: bug.order == [6])
    bug.mend()
    await replay(spine)
    async with spine.running(bug.service()):
        await until(lambda: bug.handled == [(6, False), (5, True)])


async def test_several_dead_of_a_key_are_replayed_in_their_order(spine: Spine) -> None:
    bug = Bug(*range(5))
    await spine.publish(*[Placed(number=number) for number in range(8)])
    async with spine.running(bug.service()):
        await dead(spine, 5)
        await until(lambda: bug.order == [5, 6, 7])
        bug.mend()
        numbers = [row.number for row in await rows(spine, "dead")]
        await spine.journal.control([Replay(numbers[::-1])])
        await until(lambda: len(bug.order) == 8)
    assert bug.order == [5, 6, 7, 0, 1, 2, 3, 4]


async def test_the_first_of_them_that_fails_again_holds_the_rest(spine: Spine) -> None:
    service = Service("mail")
    broken, handled, tried = {0, 1, 2}, list[int](), 0

    @service.on(Placed, retry=FOR_EVER, errors={Broken: ONCE})
    async def note(event: Placed, delivery: Delivery) -> None:
        nonlocal tried
        if event.number in broken:
            if delivery.late:
                tried += 1
                raise OSError
            raise Broken
        handled.append(event.number)

    await spine.publish(*[Placed(number=number) for number in range(3)])
    async with spine.running(service):
        await dead(spine, 3)
        broken.discard(1)
        broken.discard(2)
        await replay(spine)
        await until(lambda: tried > 3)
        await spine.publish(Placed(number=3))
        await until(lambda: subscription(spine).waiting.count == 4)
        assert handled == []
        broken.clear()
        await until(lambda: len(handled) == 4)
    assert handled == [0, 1, 2, 3]


@ORDERS
async def test_dropping_a_dead_delivery_lets_its_key_go_on(spine: Spine, order: Any) -> None:
    bug = Bug(5)
    await spine.publish(*[Placed(number=number) for number in (5, 6)])
    async with spine.running(bug.service(order=order, on_dead="waits")):
        (row,) = await dead(spine)
        await spine.journal.control([Drop([row.number])])
        await until(lambda: bug.order == [6])
        await spine.publish(Placed(number=7))
        await until(lambda: bug.order == [6, 7])
        await until(lambda: subscription(spine).waiting.count == 0)


async def test_retrying_a_parked_delivery_does_it_now(spine: Spine) -> None:
    service = Service("mail")
    handled, broken = list[int](), True

    @service.on(Placed, retry=LATER)
    async def note(event: Placed) -> None:
        if broken:
            raise Broken
        handled.append(event.number)

    await spine.publish(Placed(number=1), Placed(number=2))
    async with spine.running(service):
        rows = await parked(spine, 2)
        broken = False
        await spine.journal.control([Retry([rows[0].number])])
        await until(lambda: handled == [1, 2])


# --- what can't be read -----------------------------------------------------------------------------------------------


async def publish_raw(spine: Spine, data: bytes, version: int = 1, customer: str = "ann") -> None:
    (record,) = spine.records([Placed(customer=customer)], cause=None, time=None, id=None)
    (verdict,) = await spine.journal.commit([Unit(appends=[Append([record._replace(data=data, version=version)])])])
    assert verdict.ok


@ORDERS
async def test_what_can_not_be_decoded_is_dead_at_once_and_blocks_nobody(spine: Spine, order: Any) -> None:
    bug = Bug()
    await publish_raw(spine, b'{"customer": 7}')
    await spine.publish(Placed(number=2))
    async with spine.running(bug.service(order=order)):
        (row,) = await dead(spine)
        await until(lambda: bug.order == [2])
    assert (row.reason, row.attempts) == ("undecodable", 1)
    assert "customer" in row.error
    assert row.record is not None
    assert row.record.data == b'{"customer": 7}', "raw bytes are kept for the day when they can be read"


class NewPlaced(Event, context="orders", key="customer", type="orders.Placed", version=2):
    customer: str
    number: int = 0
    currency: str = "EUR"


class OldPlaced(Event, context="orders", key="customer", type="orders.Placed", version=1):
    customer: str
    number: int = 0


@ORDERS
async def test_an_event_of_a_newer_version_waits_for_a_process_that_knows_it(store: Store, order: Any) -> None:
    old, new = Service("mail"), Service("mail")
    seen: list[tuple[int, str]] = []

    async def read_old(event: OldPlaced) -> None:
        seen.append((event.number, "old"))

    async def read_new(event: NewPlaced, delivery: Delivery) -> None:
        assert delivery.attempt == 1, "being too old is no failed attempt"
        seen.append((event.number, event.currency))

    old.on(OldPlaced, name="note", retry=ONCE, order=order)(read_old)
    new.on(NewPlaced, name="note", retry=ONCE, order=order)(read_new)
    async with store.spine() as spine:
        await spine.publish(OldPlaced(customer="ann", number=1))
        await spine.publish(NewPlaced(customer="ann", number=2, currency="USD"))
        await spine.publish(OldPlaced(customer="ann", number=3))
        async with spine.running(old):
            (row, *_) = await parked(spine)
            assert (row.reason, row.attempts) == ("newer-version", 0)
            assert seen == [(1, "old")]
        async with spine.running(new):
            await until(lambda: len(seen) == 3)
    assert seen == [(1, "old"), (2, "USD"), (3, "EUR")]


async def test_an_old_process_without_a_declared_version_gives_back_what_it_can_not_read(spine: Spine) -> None:
    bug = Bug()
    await publish_raw(spine, b'{"customer":["a","list"]}', version=2)
    async with spine.running(bug.service()):
        (row,) = await parked(spine)
    assert row.reason == "newer-version"


# --- operators at work while handlers are -------------------------------------------------------------------------------


async def look_slowly(spine: Spine, monkeypatch: Any, meanwhile: Any) -> None:
    """Have an operator's change be looked at by a read that is answered before, and arrives after, `meanwhile`."""
    read, asked, go = loading._rows, asyncio.Event(), asyncio.Event()

    async def slowly(*given: Any) -> Any:
        found = await read(*given)
        asked.set()
        await go.wait()
        return found

    monkeypatch.setattr(loading, "_rows", slowly)
    spine_host = host(spine)
    spine_host.control = -1
    look = asyncio.create_task(spine_host.beat())
    await asked.wait()
    await meanwhile()
    monkeypatch.setattr(loading, "_rows", read)
    go.set()
    await look


@ORDERS
async def test_what_parks_while_an_operators_change_is_read_is_not_forgotten(
    spine: Spine, monkeypatch: Any, order: Any
) -> None:
    service = Service("mail")
    handled, broken, go = list[int](), True, asyncio.Event()

    @service.on(Placed, retry=LATER, order=order)
    async def note(event: Placed) -> None:
        if event.number == 0 and broken:
            await go.wait()
            raise Broken
        handled.append(event.number)

    async def fail() -> None:
        go.set()
        await parked(spine)
        await until(lambda: subscription(spine).at_work == 0)

    await spine.publish(Placed(number=0))
    async with spine.running(service):
        await until(lambda: subscription(spine).workers.items)
        await look_slowly(spine, monkeypatch, fail)
        broken = False
        await spine.publish(Placed(number=1))
        await until(lambda: subscription(spine).lanes.size or len(handled) or subscription(spine).waiting.count == 2)
        (row, *_) = await rows(spine, "parked")
        await spine.journal.control([Retry([row.number])])
        await until(lambda: len(handled) == 2)
    assert handled == [0, 1]


async def test_a_change_that_could_not_be_looked_at_is_looked_at_again(spine: Spine, monkeypatch: Any) -> None:
    """Of an operator's change the number was known, and its rows could not be read: it would have waited for ever."""
    service = Service("mail")
    handled, broken, failed = list[int](), True, list[str]()

    @service.on(Placed, retry=LATER)
    async def note(event: Placed) -> None:
        if broken:
            raise Broken
        handled.append(event.number)

    read = loading._rows

    async def fails_once(*given: Any) -> Any:
        if not failed:
            failed.append("now")
            raise JournalError("The journal can't be reached.")
        return await read(*given)

    await spine.publish(Placed(number=0))
    async with spine.running(service):
        (row,) = await parked(spine)
        await until(lambda: subscription(spine).at_work == 0)
        broken = False
        monkeypatch.setattr(loading, "_rows", fails_once)
        await spine.journal.control([Retry([row.number])])
        await until(lambda: handled)
    assert failed
