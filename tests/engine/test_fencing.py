"""Who owns what: leases with epochs, cursors with generations (R13), and how processes of one service share."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from eventspine import Delivery, Retry, Service, Spine
from eventspine.engine import commits, host as hosts
from eventspine.engine.readers import Readers
from eventspine.journal.port import PARTITIONS, Fence, Record, Rename, Rewind, SetState, Unit
from eventspine.observe.correlation import Cause, current, going_on
from eventspine.observe.logs import CorrelationFilter

from .material import (
    FOR_EVER,
    SHORT_LEASE_S,
    Broken,
    Mailed,
    Placed,
    Store,
    abandon,
    host,
    parked,
    rows,
    subscription,
    until,
)


class Worker:
    """A service in one process: what it handled, and a way to hold it up."""

    def __init__(self, name: str = "email", **options: Any) -> None:
        self.handled: list[int] = []
        self.began: list[int] = []
        self.keys: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.service: Service[Any] = Service(name)
        self.service.on(Placed, **{"name": "note", **options})(self.note)

    async def note(self, event: Placed, delivery: Delivery) -> Mailed:
        self.began.append(event.number)
        await self.go.wait()
        self.keys.append(delivery.idempotency_key)
        self.handled.append(event.number)
        return Mailed(customer=event.customer, number=event.number)


def some(*numbers: int) -> list[Placed]:
    return [Placed(customer=f"c{number}", number=number) for number in numbers]


async def mailed(spine: Spine) -> list[int]:
    page = await spine.journal.feed(0, limit=10_000, types=["email.Mailed"])
    return sorted(int(record.data.rpartition(b":")[2][:-1]) for record in page.records)


async def stored(spine: Spine, service: str = "email") -> Any:
    (row,) = await spine.journal.subscriptions(service)
    return row


# --- leases -------------------------------------------------------------------------------------------------------------


async def late_commit(store: Store) -> tuple[Worker, Worker, list[int], int]:
    """A process that pauses past its lease with a handler at work, and wakes up when another has taken over."""
    first, second = Worker(), Worker()
    first.go.clear()
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        await one.publish(*some(1))
        async with one.running(first.service):
            await until(lambda: first.began)
            paused = host(one)
            assert paused._keeper is not None
            paused._keeper.cancel()
            async with other.running(second.service):
                await until(lambda: len(host(other).held) == PARTITIONS, "for the take-over")
                await until(lambda: second.handled == [1])
                first.go.set()
                await until(lambda: first.handled == [1] and subscription(one).at_work == 0)
                await until(lambda: subscription(other).at_work == 0)
                return first, second, await mailed(other), paused.fenced


@pytest.mark.promise("process stopped")
async def test_r13_what_a_process_finishes_after_its_lease_is_fenced(store: Store) -> None:
    first, second, published, fenced = await late_commit(store)
    assert first.handled == second.handled == [1]
    assert published == [1]
    assert fenced == 1


async def test_what_is_no_longer_ours_is_logged_with_its_own_fields(
    store: Store, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is being handled where that is noticed."""
    fenced = hosts.Subscription.fenced

    def noticed_elsewhere(one: Any, item: Any) -> None:
        with going_on(Cause("another", event_id="another", handler="email.other")):
            fenced(one, item)

    monkeypatch.setattr(hosts.Subscription, "fenced", noticed_elsewhere)
    caplog.set_level(logging.INFO, "eventspine.engine")
    with caplog.filtering(CorrelationFilter()):
        await late_commit(store)
    (line,) = [record for record in caplog.records if "is no longer ours" in record.getMessage()]
    about = vars(line)
    assert f"orders.Placed {about['spine_event_id']} (key 'c1')" in line.getMessage()
    assert ("email.note", "c1") == (about["spine_handler"], about["spine_key"])


async def test_before_its_attempt_a_delivery_is_not_logged_as_the_one_before(store: Store, monkeypatch: Any) -> None:
    """A worker goes on from one to the next; a suspect has something to store before it may begin."""
    handle, found = hosts.Subscription.handle, []

    async def looked(one: Any, item: Any) -> None:
        found.append(current.get())
        await handle(one, item)

    monkeypatch.setattr(hosts.Subscription, "handle", looked)
    tried = list[int]()
    service: Service[Any] = Service("email")

    @service.on(Placed, name="note", concurrency=1, retry=Retry(immediate=2))
    async def fails_once(event: Placed) -> None:
        tried.append(event.number)
        if tried == [1]:
            raise Broken

    async with store.spine() as spine, spine.running(service):
        await spine.publish(*some(1))
        await until(lambda: tried == [1, 1])
    assert found
    assert set(found) == {None}


async def test_r13_without_the_fence_it_would_count_twice(store: Store, monkeypatch: Any) -> None:
    """The id of what it publishes is known, so count the units that were accepted."""
    complete = hosts.Subscription.complete

    def unfenced(one: Any, item: Any, unit: Unit) -> None:
        complete(one, item, unit)
        unit.fences.clear()
        unit.done.clear()

    monkeypatch.setattr(hosts.Subscription, "complete", unfenced)
    _, _, _, fenced = await late_commit(store)
    assert fenced == 0


async def test_a_process_that_can_not_renew_hands_out_nothing_new(store: Store) -> None:
    worker = Worker()
    async with store.spine(lease_s=0.3) as spine:
        async with spine.running(worker.service):
            one = host(spine)
            assert one._keeper is not None
            one._keeper.cancel()
            await until(lambda: one.closed)
            await spine.publish(*some(1))
            await until(lambda: subscription(spine).lanes.size == 1)
            assert worker.began == []
            await one.beat()
            await until(lambda: worker.handled == [1])


async def test_two_processes_share_the_work_and_each_event_is_handled_once(store: Store) -> None:
    first, second = Worker(), Worker()
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        async with one.running(first.service):
            await until(lambda: len(host(one).held) == PARTITIONS)
            async with other.running(second.service):
                await until(lambda: len(host(one).held) == len(host(other).held) == PARTITIONS // 2)
                assert not set(host(one).held) & set(host(other).held)
                await one.publish(*some(*range(200)))
                await until(lambda: len(first.handled) + len(second.handled) == 200)
                assert first.handled
                assert second.handled
                assert len(await mailed(one)) <= 200
            await until(lambda: len(host(one).held) == PARTITIONS, "what a process leaves behind is taken up")
            await one.publish(*some(*range(200, 300)))
            await until(lambda: len(first.handled) + len(second.handled) == 300)
        counts = Counter(first.handled + second.handled)
        assert set(counts.values()) == {1}
        assert await mailed(one) == list(range(300))


async def test_events_go_on_while_partitions_move(store: Store) -> None:
    """Nothing is lost and no effect happens twice, with two handlers and one process that comes and goes."""
    workers = [Worker() for _ in range(2)]
    for worker in workers:
        worker.service.on(Placed, name="second")(note_nothing)
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        async with one.running(workers[0].service):
            for begin in range(0, 300, 100):
                async with other.running(workers[1].service):
                    for number in range(begin, begin + 100, 10):
                        await one.publish(*some(*range(number, number + 10)))
                    await until(lambda: host(other).held)

            async def all_mailed() -> bool:
                return len(await mailed(one)) == 300

            await until(all_mailed)
        assert await mailed(one) == list(range(300))


async def note_nothing(event: Placed) -> None: ...


async def test_a_process_that_dies_is_replaced_within_twice_the_lease(store: Store) -> None:
    first, second = Worker(), Worker()
    first.go.clear()
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        await one.publish(*some(1, 2, 3))
        async with one.running(first.service, drain_s=0.0):
            await until(lambda: len(first.began) == 3)
            await abandon(one)
        loop = asyncio.get_running_loop()
        died = loop.time()
        async with other.running(second.service):
            await until(lambda: sorted(second.handled) == [1, 2, 3])
            assert loop.time() - died < 2 * SHORT_LEASE_S + 1.0
        assert await mailed(other) == [1, 2, 3]


# --- generations of the cursor ------------------------------------------------------------------------------------------


async def rewind_at_work(spine: Spine) -> Worker:
    worker = Worker()
    await spine.publish(*[Placed(number=number) for number in range(4)])
    async with spine.running(worker.service):
        await until(lambda: len(worker.handled) == 4)
        worker.go.clear()
        await spine.publish(Placed(number=4))
        await until(lambda: worker.began[-1] == 4)
        await spine.journal.control([Rewind((await stored(spine)).number, 1)])
        await until(lambda: subscription(spine).generation == 2 and subscription(spine).parts)
        worker.go.set()
        await until(lambda: len(worker.handled) == 9)
        await until(lambda: subscription(spine).at_work == 0)
        worker.fenced = host(spine).fenced  # type: ignore[attr-defined]
    return worker


async def test_r13_a_rewind_fences_what_is_at_work_and_begins_anew_from_there(spine: Spine) -> None:
    worker = await rewind_at_work(spine)
    assert worker.handled == [0, 1, 2, 3, 4, 1, 2, 3, 4]
    assert worker.fenced == 1  # type: ignore[attr-defined]
    assert await mailed(spine) == [0, 1, 2, 3, 4]
    assert len(set(worker.keys)) == 5, "idempotency keys are the same again"


async def test_a_rewind_discards_what_is_parked_from_there_on(spine: Spine) -> None:
    service, handled, broken = Service("email"), list[int](), True

    @service.on(Placed, retry=FOR_EVER)
    async def note(event: Placed) -> None:
        if broken:
            raise Broken
        handled.append(event.number)

    await spine.publish(Placed(number=0), Placed(number=1))
    async with spine.running(service):
        await parked(spine, 2)
        await spine.journal.control([Rewind((await stored(spine)).number, 0)])
        broken = False
        await until(lambda: handled[-2:] == [0, 1])  # one at work as it was rewound is fenced, and comes again
    assert {"settled"} >= {row.state for row in await rows(spine)}


async def test_pausing_stops_and_resuming_goes_on_where_it_was(spine: Spine) -> None:
    worker = Worker()
    async with spine.running(worker.service):
        await spine.publish(*some(1))
        await until(lambda: worker.handled == [1])
        number = (await stored(spine)).number
        await spine.journal.control([SetState(number, "paused")])
        await until(lambda: subscription(spine).state == "paused" and not subscription(spine).parts)
        await spine.publish(*some(2, 3))
        assert spine.health()["services"][0]["subscriptions"][0]["state"] == "paused"
        assert worker.handled == [1]
        await spine.journal.control([SetState(number, "active")])
        await until(lambda: sorted(worker.handled) == [1, 2, 3])


async def test_a_subscription_renamed_by_an_operator_keeps_its_keys(spine: Spine) -> None:
    worker = Worker()
    async with spine.running(worker.service):
        await spine.publish(*some(1))
        await until(lambda: worker.handled == [1])
        await until(lambda: not subscription(spine).at_work)  # else the rename fences it, and it is handled again
        before = await stored(spine)
        await spine.journal.control([Rename(before.number, "email.confirm")])
        await until(lambda: subscription(spine).generation == 2)
        await spine.publish(*some(2))
        await until(lambda: worker.handled == [1, 2])
    again = Worker(name="email")
    again.service.handlers.clear()
    again.service.on(Placed, name="confirm")(again.note)
    async with spine.running(again.service):
        await spine.publish(*some(3))
        await until(lambda: again.handled == [3])
        after = await stored(spine)
        assert (before.number, before.uid, "email.confirm") == (after.number, after.uid, after.name)


async def test_a_handler_renamed_in_code_keeps_its_place_and_its_keys(spine: Spine) -> None:
    worker = Worker()
    await spine.publish(*some(1))
    async with spine.running(worker.service):
        await until(lambda: worker.handled == [1])
        uid = (await stored(spine)).uid
    again = Worker(name="email")
    again.service.handlers.clear()
    again.service.on(Placed, name="confirm", renamed_from="note")(again.note)
    await spine.publish(*some(2))
    async with spine.running(again.service):
        await until(lambda: again.handled == [2])
        assert (await stored(spine)).uid == uid
        await spine.journal.control([Rewind((await stored(spine)).number, 0)])
        await until(lambda: again.handled in ([2, 1, 2], [2, 2, 1]))
    assert worker.keys[0] in again.keys
    assert await mailed(spine) == [1, 2]


# --- taking up what others read -------------------------------------------------------------------------------------------


async def what_is_missed_after_loading_slowly(spine: Spine, monkeypatch: Any) -> set[int]:
    """Two subscriptions are rewound and loaded again, slowly, while events come in and a reader is far ahead."""
    service = Service("email")
    handled: dict[str, set[int]] = {"one": set(), "other": set()}

    @service.on(Placed)
    async def one(event: Placed) -> None:
        handled["one"].add(event.number)

    @service.on(Placed)
    async def other(event: Placed) -> None:
        handled["other"].add(event.number)

    read, published, asked = spine.journal.deliveries, 50, 0

    async def slowly(**given: Any) -> Any:
        nonlocal published, asked
        asked += 1
        if asked == 2:  # the first of them has its partitions again, the second not yet
            await spine.publish(*some(*range(50, 100)))
            published = 100
            readers = list(host(spine).readers._readers)
            await until(lambda: all(reader.position >= 100 for reader in readers if not reader.task.done()))
        return await read(**given)

    await spine.publish(*some(*range(50)))
    async with spine.running(service):
        await until(lambda: len(handled["one"]) == len(handled["other"]) == 50)
        handled["one"].clear()
        handled["other"].clear()
        monkeypatch.setattr(spine.journal, "deliveries", slowly)
        await spine.journal.control([Rewind(row.number, 0) for row in await spine.journal.subscriptions("email")])
        await until(lambda: published == 100 and all(one.parts for one in host(spine).subscriptions))
        monkeypatch.setattr(spine.journal, "deliveries", read)
        await spine.publish(*some(*range(100, 116)))
        await until(lambda: set(range(100, 116)) <= handled["one"] & handled["other"])
        await until(lambda: all(one.at_work == one.lanes.size == 0 for one in host(spine).subscriptions))
    return set(range(116)) - (handled["one"] & handled["other"])


async def test_a_reader_that_is_ahead_passes_nothing_for_who_is_loaded_anew(spine: Spine, monkeypatch: Any) -> None:
    assert await what_is_missed_after_loading_slowly(spine, monkeypatch) == set()


async def test_if_it_read_on_meanwhile_it_would(memory: Spine, monkeypatch: Any) -> None:
    rebuild = Readers.rebuild
    stop = Readers.stop

    async def stop_and_rebuild(readers: Readers, subscriptions: Any) -> None:
        await stop(readers)
        await rebuild(readers, subscriptions)

    async def go_on(readers: Readers) -> None: ...

    monkeypatch.setattr(Readers, "rebuild", stop_and_rebuild)
    monkeypatch.setattr(Readers, "stop", go_on)
    missed = await what_is_missed_after_loading_slowly(memory, monkeypatch)
    monkeypatch.undo()
    assert missed


async def test_loading_that_fails_is_tried_again(spine: Spine, monkeypatch: Any) -> None:
    from eventspine.errors import JournalError

    worker = Worker()
    read, failures = spine.journal.cursors, 1

    async def fails(*given: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise JournalError("no answer")
        return await read(*given)

    async with spine.running(worker.service):
        await spine.publish(*some(1))
        await until(lambda: worker.handled == [1])
        monkeypatch.setattr(spine.journal, "cursors", fails)
        await spine.journal.control([Rewind((await stored(spine)).number, 0)])
        await until(lambda: worker.handled == [1, 1])
    assert failures == 0


async def handled_where_one_partition_is_lost(spine: Spine) -> tuple[Counter[int], set[int]]:
    """Forty at work, without effects and so finished as one unit; of one partition the lease has just gone. How often each is
    handled, and which are of that partition."""
    began: Counter[int] = Counter()
    go = asyncio.Event()
    service: Service[Any] = Service("email")

    @service.on(Placed, name="note")
    async def note(event: Placed) -> None:
        began[event.number] += 1
        await go.wait()

    async with spine.running(service):
        await spine.publish(*some(*range(40)))
        await until(lambda: len(began) == 40)
        part = next(part for part in subscription(spine).parts.values() if part.taken > 1)
        lost = {record.position - 1 for record in await whole_feed(spine) if record.slot % PARTITIONS == part.number}
        part.epoch -= 1
        go.set()
        await until(lambda: subscription(spine).handled == 40)
    return began, lost


async def whole_feed(spine: Spine) -> Sequence[Record]:
    return (await spine.journal.feed(0, limit=10_000)).records


async def test_what_was_handled_in_other_partitions_is_stored_where_one_is_lost(spine: Spine) -> None:
    began, lost = await handled_where_one_partition_is_lost(spine)
    assert {number: 1 + (number in lost) for number in range(40)} == began


async def test_with_one_unit_for_all_of_them_all_would_be_handled_again(spine: Spine, monkeypatch: Any) -> None:
    ranges = commits._ranges
    monkeypatch.setattr(commits, "_ranges", lambda several: ranges(several)._replace(apart=()))
    began, _ = await handled_where_one_partition_is_lost(spine)
    assert set(began.values()) == {2}


@pytest.mark.parametrize("epoch", [0, 2])
async def test_a_unit_counts_only_with_the_leases_own_epoch(spine: Spine, epoch: int) -> None:
    worker = Worker()
    async with spine.running(worker.service):
        lease = host(spine).held[0]
        assert lease.epoch == 1
        (verdict,) = await spine.journal.commit([Unit(fences=[Fence(lease.name, epoch)])])
        assert verdict.kind == "fenced"
