"""Time-outs: an `async def` is cancelled; a thread can't be stopped, so its key stays taken until it returns (R17)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from eventspine import Delivery, Retry, Service, Spine
from eventspine.engine import runtime
from eventspine.engine.runtime import StuckThreads
from eventspine.errors import SpineError
from eventspine.sync import Delivery as SyncDelivery

from .material import QUICK, Broken, Mailed, Placed, Store, dead, host, parked, rows, turns, until


@pytest.mark.promise("handler fails")
async def test_an_async_handler_that_takes_too_long_is_cancelled_and_tried_again(spine: Spine) -> None:
    service = Service("mail")
    attempts, cancelled = list[int](), 0

    @service.on(Placed, timeout_s=0.05, retry=QUICK)
    async def note(event: Placed, delivery: Delivery) -> None:
        nonlocal cancelled
        attempts.append(delivery.attempt)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert attempts == [1, 2, 3]
    assert cancelled == 3
    assert row.reason == "HandlerTimeout"
    assert "timeout_s=" in row.error


async def test_one_that_swallows_its_cancellation_has_failed_all_the_same(spine: Spine) -> None:
    service = Service("email")

    @service.on(Placed, timeout_s=0.05, retry=Retry(attempts=1))
    async def note(event: Placed) -> Mailed:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return Mailed()

    await spine.publish(Placed())
    async with spine.running(service):
        await dead(spine)
    assert await spine.journal.head() == 1


class Stuck:
    """A `def` handler that does not return until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.go = threading.Event()
        self.inside = threading.Event()
        self.deliveries: list[SyncDelivery[Any]] = []
        self.attempts: list[int] = []
        self.handled: list[int] = []
        self.refused: list[Exception] = []
        self.service: Service[Any] = Service("email")
        self.service.on(Placed, name="note", **{"timeout_s": 0.05, "retry": QUICK, **options})(self.note)

    def note(self, event: Placed, delivery: SyncDelivery[Any]) -> None:
        self.deliveries.append(delivery)
        self.attempts.append(delivery.attempt)
        if event.number == 0 and len(self.deliveries) == 1:
            self.inside.set()
            self.go.wait(20)
            try:
                delivery.publish(Mailed())
            except SpineError as error:
                self.refused.append(error)
                raise
        self.handled.append(event.number)


async def test_r17_the_key_of_a_stuck_thread_stays_taken_until_it_returns(spine: Spine) -> None:
    stuck = Stuck()
    await spine.publish(Placed(number=0), Placed(number=1))
    async with spine.running(stuck.service):
        await until(stuck.inside.is_set)
        await until(lambda: spine.health()["status"] == "degraded")
        assert "1 handler thread is stuck" in spine.health()["problems"][0]
        await spine.publish(Placed(customer="bob", number=2))
        await until(lambda: stuck.handled == [2])
        assert len(stuck.deliveries) == 2, "no second attempt beside the first"
        stuck.go.set()
        await until(lambda: stuck.handled == [2, 0, 1])
        assert stuck.attempts == [1, 1, 2, 1]
        await until(lambda: spine.health()["status"] == "ok")


async def test_r17_what_it_wants_to_change_after_its_time_is_refused(spine: Spine) -> None:
    stuck = Stuck()
    await spine.publish(Placed(number=0))
    async with spine.running(stuck.service):
        await until(stuck.inside.is_set)
        await until(lambda: spine.health()["status"] == "degraded")
        stuck.go.set()
        await until(lambda: stuck.handled == [0])
    assert len(stuck.refused) == 1
    assert "run out of time" in str(stuck.refused[0])
    assert await spine.journal.head() == 1


async def test_threads_that_are_all_stuck_end_the_run(spine: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr(runtime, "THREADS", 2)
    service, go = Service("email"), threading.Event()

    @service.on(Placed, timeout_s=0.05)
    def note(event: Placed) -> None:
        go.wait(20)

    await spine.publish(Placed(customer="ann"), Placed(customer="bob"))
    try:
        with pytest.raises(StuckThreads, match="All 2 handler threads are stuck"):
            async with spine.running(service):
                await asyncio.Event().wait()
    finally:
        go.set()
    assert await rows(spine) == [], "nothing is settled, and no attempt counted, of what never returned"
    leases = await spine.journal.leases()
    assert any(lease.owner for lease in leases), "its keys stay with this process until it ends"


async def test_a_handlers_own_error_ends_nothing(spine: Spine) -> None:
    service = Service("email")

    @service.on(Placed, retry=Retry(attempts=1))
    def note(event: Placed) -> None:
        raise Broken

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
        assert spine.health()["status"] == "ok"
    assert "raise Broken" in row.traceback


async def test_a_parked_one_is_given_its_time_anew(spine: Spine) -> None:
    """A time-out of the attempt before says nothing about the next one."""
    service, handled = Service("email"), list[int]()

    @service.on(Placed, timeout_s=0.05, retry=QUICK)
    async def note(event: Placed, delivery: Delivery) -> None:
        if delivery.attempt < 3:
            await asyncio.Event().wait()
        handled.append(delivery.attempt)

    await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: handled == [3])


async def test_waiting_for_the_commit_is_not_the_handlers_time(file: Spine, monkeypatch: Any) -> None:
    """A transaction that commits slowly is not cancelled on its way; its key would stay taken for ever."""
    from eventspine.journal._sqlite_interactive import SQLiteTransaction

    commit = SQLiteTransaction.commit
    asked = 0

    async def slowly(transaction: Any, unit: Any) -> Any:
        nonlocal asked
        asked += 1
        started = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - started > 0.2)
        return await commit(transaction, unit)

    monkeypatch.setattr(SQLiteTransaction, "commit", slowly)
    service = Service("email")

    @service.on(Placed, timeout_s=0.05, retry=Retry(attempts=1))
    async def note(event: Placed, delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            await tx.query("select 1")

    await file.publish(Placed())
    async with file.running(service):
        await until(lambda: host(file).subscriptions[0].handled == 1)
    assert asked == 1
    assert await rows(file) == []


async def test_a_timed_out_attempt_is_stopped_with_everything_else(store: Store) -> None:
    """Out of time and told to stop in the same moment: the stop wins, and ends."""
    service = Service("email")

    @service.on(Placed, timeout_s=0.05, retry=QUICK)
    async def note(event: Placed) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns()

    async with store.spine() as spine:
        await spine.publish(Placed())
        async with asyncio.timeout(10), spine.running(service, drain_s=0.0):
            await parked(spine)
