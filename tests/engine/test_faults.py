"""Errors of the engine's own handling: no hot loop, no flood of the log, and health says so."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from eventspine import Batch, Retry, RetryAfter, Service, Spine
from eventspine.delivery import Delivery
from eventspine.engine import batches, faults, verdicts, waiting, workers
from eventspine.engine.subscription import Subscription
from eventspine.journal.port import Record
from eventspine.runs import BatchDelivery

from .material import QUICK, Broken, Placed, dead, subscription, turns, until


class Hurried(RetryAfter):
    """As one that forgets its base: it has no `after`."""

    def __init__(self) -> None:
        pass


def broken(service: Service[Any], **options: Any) -> None:
    """Past what `on` checks."""
    service.handlers["note"] = replace(service.handlers["note"], **options)


def told(caplog: pytest.LogCaptureFixture) -> int:
    return len([record for record in caplog.records if "error of the engine" in record.message])


@pytest.mark.parametrize(
    ("error", "options"), [(Broken("no"), {"retry": 3}), (Hurried(), {}), (Broken(), {"errors": 3})]
)
async def test_policies_that_cannot_be_asked_leave_it_to_the_default(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, error: Exception, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(waiting, "Retry", lambda: QUICK)
    service, handled = Service("email"), list[str]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.customer)
        if event.customer == "bad":
            raise error

    broken(service, **options)
    await spine.publish(Placed(customer="bad"), Placed(customer="ann"))
    async with spine.running(service):
        (row,) = await dead(spine)
        await until(lambda: "ann" in handled)
        assert subscription(spine).workers.faults.count == 0
    assert (row.attempts, handled.count("bad")) == (3, 3)
    assert f"email.note failed ({type(error).__name__}" in row.error
    assert "its retry= and errors=" in row.error


async def test_a_worker_that_cannot_work_is_hired_again_after_a_pause(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    service, handled = Service("email"), list[int]()

    @service.on(Placed, batch=Batch(3))
    async def note(events: list[Placed]) -> None:
        handled.extend(event.number for event in events)

    broken(service, batch=3)
    async with spine.running(service):
        await spine.publish(Placed(number=1))
        one = subscription(spine)
        await until(lambda: one.workers.faults.count)
        await turns(500)
        assert (one.workers.faults.count, told(caplog)) == (1, 1)
        assert spine.health()["status"] == "degraded"
        assert "'int' object has no attribute 'size'" in " ".join(spine.health()["problems"])
        one.handler = replace(one.handler, batch=Batch(3))
        await until(lambda: handled == [1])


async def test_without_the_pause_it_is_a_hot_loop(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PAUSE_S", 0.0)
    monkeypatch.setattr(faults, "PAUSE_MOST_S", 0.0)
    monkeypatch.setattr(faults.log, "disabled", True)
    service = Service("email")

    @service.on(Placed, batch=Batch(3))
    async def note(events: list[Placed]) -> None: ...

    broken(service, batch=3)
    async with spine.running(service):
        await spine.publish(Placed(number=1))
        await until(lambda: subscription(spine).workers.faults.count > 50)


async def test_what_the_engine_failed_with_is_loaded_again_later_and_others_go_on(
    spine: Spine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, handled, failed = Service("email"), list[str](), list[str]()

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.customer)

    async with spine.running(service):
        one = subscription(spine)

        def fails_once(subscription: Any, item: Any, record: Record) -> Delivery[Any]:
            if record.key == "bad" and not failed:
                failed.append("bad")
                raise MemoryError
            return Delivery(subscription, item, record)

        monkeypatch.setattr(workers, "Delivery", fails_once)
        await spine.publish(Placed(customer="bad"))
        await until(lambda: failed)
        await until(lambda: one.workers.faults.count)
        await spine.publish(*[Placed(customer=f"c{number}") for number in range(40)])
        await until(lambda: len(handled) >= 20)
        assert "bad" not in handled
        assert told(caplog) == 1
        await until(lambda: len(handled) == 41)
        assert sorted(set(handled)) == sorted(handled), "each once"


class Hands:
    def __init__(self) -> None:
        self.now = 100.0
        self.random: Any = None

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return 0

    def entropy(self, size: int) -> bytes:
        return bytes(size)


def test_pauses_grow_and_each_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Hands()
    some = faults.Faults("email.note", clock)
    caplog.set_level(logging.ERROR)
    pauses = list[float]()
    for _ in range(9):
        pauses.append(some.pause_after(MemoryError()))
        assert some.pause_after(MemoryError()) == pauses[-1], "another worker, by the same"
        assert some.problem is not None
        clock.now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert told(caplog) == 9
    clock.now += 61
    assert some.problem is None
    assert some.pause_after(MemoryError()) == 1


class Wrong:
    """The engine's own mistake, once, at one place of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.made = 0
        right = getattr(owner, name)

        def wrong(*arguments: Any) -> Any:
            if not self.made:
                self.made += 1
                raise MemoryError
            return right(*arguments)

        monkeypatch.setattr(owner, name, wrong)


@asynccontextmanager
async def handling_runs(
    spine: Spine, handled: list[int], monkeypatch: pytest.MonkeyPatch, place: str
) -> AsyncIterator[Any]:
    """Twenty keys, two events of each, in runs, with a mistake at this place; where that is on the way of runs of which an
    event fails, one does."""
    service = Service("email")
    fails = {0} if place in ("complete", "verdict") else set()

    @service.on(Placed, batch=Batch(40, within_ms=20), retry=Retry(immediate=1))
    async def note(events: list[Placed], delivery: BatchDelivery[None]) -> None:
        for event in events:
            if event.number in fails:
                fails.remove(event.number)
                delivery.retry(event, ValueError("not now"))
            else:
                handled.append(event.number)

    owner = next(one for one in (batches, verdicts, Subscription) if hasattr(one, place))
    wrong = Wrong(monkeypatch, owner, place)
    await spine.publish(*[Placed(customer=f"c{n % 20}", number=n) for n in range(40)])
    async with spine.running(service):
        one = subscription(spine)
        await until(lambda: wrong.made)
        await until(lambda: one.workers.faults.count == 1)
        yield one


@pytest.mark.parametrize("place", ["decoded", "_by_part", "finished", "complete", "verdict"])
async def test_when_the_engine_fails_within_a_run_every_key_of_it_goes_on(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    handled = list[int]()
    async with handling_runs(spine, handled, monkeypatch, place) as one:
        await until(lambda: set(handled) == set(range(40)))
        await until(lambda: not one.at_work)
        assert not one.lanes.size


async def test_were_only_the_first_of_the_run_released_the_others_would_stay_taken(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumbled = workers.Workers.stumbled
    monkeypatch.setattr(workers.Workers, "stumbled", lambda self, items, error: stumbled(self, items[:1], error))
    async with handling_runs(spine, [], monkeypatch, "_by_part") as one:
        await until(lambda: one.parts and not one.workers._later)
        assert one.at_work >= 39
        one.lanes.taken = 0  # so that the drain does not wait for them
