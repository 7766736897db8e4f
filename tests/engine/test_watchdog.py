"""What looks after the rest: readers that ended, subscriptions that stand still, trouble with the journal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from eventspine import Service, Spine
from eventspine.clock import SystemClock
from eventspine.delivery import Delivery
from eventspine.engine import host as hosts, workers
from eventspine.engine.host import Host
from eventspine.engine.workers import Workers
from eventspine.errors import JournalFull
from eventspine.journal.port import Verdict

from .material import Mailed, Placed, Store, host, subscription, until


def noting() -> tuple[Service[Any], list[int]]:
    service, handled = Service("email"), list[int]()

    @service.on(Placed)
    async def note(event: Placed) -> Mailed:
        handled.append(event.number)
        return Mailed(number=event.number)

    return service, handled


async def test_a_reader_that_ended_is_started_again_and_health_shows_it(spine: Spine, monkeypatch: Any) -> None:
    service, handled = noting()
    async with spine.running(service):
        await spine.publish(Placed(number=1))
        await until(lambda: handled == [1])
        feed, failed = spine.journal.feed, False

        async def fails(*given: Any, **more: Any) -> Any:
            nonlocal failed
            if not failed:
                failed = True
                raise ZeroDivisionError
            return await feed(*given, **more)

        monkeypatch.setattr(spine.journal, "feed", fails)
        await spine.publish(Placed(number=2))
        await until(host(spine).readers.failed)
        assert handled == [1]
        await until(lambda: handled == [1, 2])
        assert spine.health()["services"][0]["restarts"] == 1
        assert failed


async def test_a_subscription_that_stands_still_is_loaded_again(spine: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr(hosts, "STALLED_S", 0.2)
    service, handled = noting()
    wake = Workers.wake
    async with spine.running(service):
        await spine.publish(Placed(number=1))
        await until(lambda: handled == [1])
        monkeypatch.setattr(Workers, "wake", lambda workers: None)
        await spine.publish(Placed(number=2))
        await until(lambda: subscription(spine).lanes.ready)
        await until(lambda: spine.health()["status"] == "degraded")
        assert "makes no progress" in spine.health()["problems"][0]
        assert handled == [1]
        await until(lambda: spine.health()["services"][0]["restarts"] >= 1)
        monkeypatch.setattr(Workers, "wake", wake)
        await until(lambda: handled == [1, 2])


async def test_a_worker_that_ends_is_replaced_and_its_work_taken_up(spine: Spine, monkeypatch: Any) -> None:
    service, handled = noting()
    async with spine.running(service):
        failed = False

        def fails(*arguments: Any) -> Delivery[Any]:
            nonlocal failed
            if not failed:
                failed = True
                raise ZeroDivisionError
            return Delivery(*arguments)

        monkeypatch.setattr(workers, "Delivery", fails)
        await spine.publish(*[Placed(number=number) for number in range(5)])
        await until(lambda: handled == [0, 1, 2, 3, 4])
        assert failed


async def test_trouble_with_the_journal_is_nobodys_failed_attempt(spine: Spine, monkeypatch: Any) -> None:
    service, handled = noting()
    commit, full = spine.journal.commit, True

    async def no_space(units: Any) -> Any:
        if full and any(unit.done for unit in units):
            return [Verdict("failed", error=JournalFull("no space left")) for _ in units]
        return await commit(units)

    await spine.publish(Placed(number=1))
    monkeypatch.setattr(spine.journal, "commit", no_space)
    async with spine.running(service):
        await until(lambda: spine.health()["status"] == "degraded")
        assert "no space left" in spine.health()["problems"][0]
        full = False
        await until(lambda: subscription(spine).handled == 1)
        await until(lambda: spine.health()["status"] == "ok")
    assert handled == [1], "it is asked again, not handled again"
    assert await spine.journal.deliveries() == []
    assert await spine.journal.head() == 2


async def test_an_unknown_outcome_is_asked_again_with_the_same_ids(spine: Spine, monkeypatch: Any) -> None:
    service, handled = noting()
    commit, asked = spine.journal.commit, 0

    async def lost_answer(units: Any) -> Any:
        nonlocal asked
        verdicts = await commit(units)
        if any(unit.appends for unit in units) and not asked:
            asked += 1
            return [Verdict("unknown") for _ in units]
        return verdicts

    async with spine.running(service):
        monkeypatch.setattr(spine.journal, "commit", lost_answer)
        receipt = await spine.publish(Placed(number=1))
        assert (receipt.position, asked) == (1, 1)
        await until(lambda: handled == [1])
        asked = 0
        await spine.publish(Placed(number=2))
        await until(lambda: subscription(spine).handled == 2)
    assert len((await spine.journal.feed(0, limit=10)).records) == 4


async def test_the_tasks_beside_the_work_outlive_trouble(spine: Spine, monkeypatch: Any) -> None:
    service, handled = noting()
    next_due, failures = spine.journal.next_due, 1

    async def fails() -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise ZeroDivisionError
        return await next_due()

    monkeypatch.setattr(spine.journal, "next_due", fails)
    async with spine.running(service):
        from datetime import timedelta

        await spine.publish(Placed(number=1), after=timedelta(milliseconds=1))
        await until(lambda: handled == [1])
    assert failures == 0


async def test_a_failure_of_the_engine_is_raised_where_the_block_is(spine: Spine) -> None:
    service, _ = noting()
    with pytest.raises(ZeroDivisionError):
        async with spine.running(service) as running:
            running.runtime.fail(ZeroDivisionError())
            await asyncio.Event().wait()


async def test_without_its_committer_the_engine_fails_rather_than_stands_still(spine: Spine, monkeypatch: Any) -> None:
    service, _ = noting()

    async def of_too_few(units: Any) -> Any:
        return []

    await spine.publish(Placed(number=1))
    monkeypatch.setattr(spine.journal, "commit", of_too_few)
    with pytest.raises(ValueError, match="zip"):
        async with spine.running(service):
            await asyncio.Event().wait()
    monkeypatch.undo()
    async with spine.running(service):
        await until(lambda: subscription(spine).handled == 1)
    assert len((await spine.journal.feed(0, limit=10)).records) == 2


class Jumping(SystemClock):
    """As the monotonic clock of a process that was paused, or of a machine that slept."""

    ahead_s = 0.0

    def now_us(self) -> int:
        return super().now_us() + round(self.ahead_s * 1e6)

    def monotonic(self) -> float:  # type: ignore[override]
        return time.monotonic() + self.ahead_s


async def looks(one: Host, count: int) -> None:
    for _ in range(count):
        looked = one._looked
        await until(lambda looked=looked: one._looked > looked)


@pytest.mark.parametrize("safe", [True, False])
async def test_a_process_that_was_paused_restarts_nothing(store: Store, monkeypatch: Any, safe: bool) -> None:
    """Nobody made progress while it stood still; that is no reason to begin anew. Without the safeguard it would be."""
    if not safe:
        monkeypatch.setattr(hosts, "AWAY_S", float("inf"))
    clock = Jumping()
    service, handled = noting()
    wake = Workers.wake
    async with store.spine(clock=clock, lease_s=100_000.0) as spine, spine.running(service):
        monkeypatch.setattr(Workers, "wake", lambda workers: None)
        await spine.publish(Placed(number=1))
        await until(lambda: subscription(spine).lanes.ready)
        one = host(spine)
        await looks(one, 2)  # what was passed without work is stored by then, which would count as work
        clock.ahead_s += 3600.0
        assert (spine.health()["status"] == "ok") == safe
        await looks(one, 2)
        await until(lambda: (one.restarts == 0) == safe)
        monkeypatch.setattr(Workers, "wake", wake)
        subscription(spine).workers.wake()
        await until(lambda: 1 in handled)
