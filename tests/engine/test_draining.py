"""Leaving the block: nothing new is handed out, what is at work finishes, cursors are stored, leases are free."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from eventspine import Service, Spine
from eventspine.engine.workers import Workers

from .material import (
    WAIT_S,
    Mailed,
    Placed,
    Store,
    abandon,
    finished_upto,
    host,
    rows,
    subscription,
    turns,
    until,
)


class Slow:
    """A handler that waits to be let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began: list[int] = []
        self.finished: list[int] = []
        self.cancelled: list[int] = []
        self.service: Service[Any] = Service("email")
        self.service.on(Placed, name="note", concurrency=2)(self.note)

    async def note(self, event: Placed) -> Mailed:
        self.began.append(event.number)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(event.number)
            raise
        self.finished.append(event.number)
        return Mailed(number=event.number)


def some(count: int) -> list[Placed]:
    return [Placed(customer=f"c{number}", number=number) for number in range(count)]


async def test_what_is_at_work_finishes_and_nothing_else_begins(store: Store) -> None:
    slow = Slow()
    async with store.spine() as spine:
        await spine.publish(*some(10))
        async with spine.running(slow.service) as running:
            await until(lambda: len(slow.began) == 2)
            one = host(spine)
            asyncio.get_running_loop().call_soon(asyncio.create_task, let_go_when_halted(one, slow))
        assert running.drained is True
        assert len(slow.began) == len(slow.finished) == 2
        assert await spine.journal.head() == 12, "their events are published"
        assert all(lease.owner == "" for lease in await spine.journal.leases())
        assert await spine.journal.processes() == []
        before = set(slow.finished)
        async with spine.running(slow.service):
            await until(lambda: len(slow.finished) == 10)
        assert set(slow.finished[2:]) == set(range(10)) - before, "and are not handled again"


async def let_go_when_halted(one: Any, slow: Slow) -> None:
    await until(lambda: one.stopping)
    slow.go.set()


async def test_if_workers_were_not_halted_they_would_go_on(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(Workers, "halt", lambda workers: None)
    monkeypatch.setattr(
        "eventspine.engine.runtime.Runtime._drain", lambda runtime, s: until(lambda: len(slow.began) > 2)
    )
    slow = Slow()
    async with store.spine() as spine:
        await spine.publish(*some(10))
        async with spine.running(slow.service):
            await until(lambda: len(slow.began) == 2)
            slow.go.set()
    assert len(slow.began) > 2


async def test_at_the_deadline_it_is_cancelled_and_handled_again_by_the_next_run(spine: Spine) -> None:
    slow = Slow()
    await spine.publish(*some(1))
    async with spine.running(slow.service, drain_s=0.05) as running:
        await until(lambda: slow.began)
    assert running.drained is False
    assert slow.cancelled == [0]
    assert await spine.journal.head() == 1, "a cancelled handler settles nothing"
    assert await rows(spine) == []
    slow.go.set()
    async with spine.running(slow.service):
        await until(lambda: slow.finished == [0])


async def test_at_the_deadline_it_ends_though_its_handler_keeps_the_cancellation_to_itself(spine: Spine) -> None:
    began: list[int] = []

    async def note(event: Placed) -> None:
        began.append(event.number)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    service: Service[Any] = Service("email")
    service.on(Placed, name="note")(note)
    await spine.publish(*some(1))
    async with asyncio.timeout(WAIT_S):
        async with spine.running(service, drain_s=0.05) as running:
            await until(lambda: began)
    assert running.drained is False


async def test_cursors_are_stored_also_of_what_was_passed(spine: Spine) -> None:
    slow = Slow()
    slow.go.set()
    async with spine.running(slow.service):
        await spine.publish(*some(40))
        await until(lambda: len(slow.finished) == 40)
        await until(lambda: min(part.scanned for part in subscription(spine).parts.values()) >= 80)
    head = await spine.journal.head()
    assert head == 80
    assert await finished_upto(spine, "email.note") == 80


async def test_leaving_by_an_error_drains_too(spine: Spine) -> None:
    slow = Slow()
    await spine.publish(*some(1))
    with pytest.raises(ZeroDivisionError):
        async with spine.running(slow.service):
            await until(lambda: slow.began)
            slow.go.set()
            raise ZeroDivisionError
    assert slow.finished == [0]


async def test_cancelling_the_block_drains_too_and_stays_a_cancellation(spine: Spine) -> None:
    slow = Slow()
    await spine.publish(*some(1))

    async def run() -> None:
        async with spine.running(slow.service):
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await until(lambda: slow.began)
    task.cancel()
    await turns()
    slow.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.finished == [0]
    assert await spine.journal.processes() == []


async def test_wait_returns_after_stop(spine: Spine) -> None:
    slow = Slow()
    async with spine.running(slow.service) as running:
        asyncio.get_running_loop().call_soon(running.stop)
        await running.wait()


async def test_what_is_at_work_on_a_partition_given_up_finishes_too(store: Store) -> None:
    """It was handed out before the partition was to go; draining waits for it as for any other."""
    slow = Slow()
    async with store.spine() as spine:
        await spine.publish(*some(1))
        async with spine.running(slow.service) as running:
            await until(lambda: slow.began)
            one = host(spine)
            one._give_up(list(one.held))
            assert subscription(spine).at_work == 1
            asyncio.get_running_loop().call_soon(asyncio.create_task, let_go_when_halted(one, slow))
        assert running.drained is True
        assert (slow.cancelled, slow.finished) == ([], [0])


async def test_after_an_abrupt_end_everything_unsettled_is_handled_again(store: Store) -> None:
    slow = Slow()
    async with store.spine(lease_s=0.3) as spine:
        await spine.publish(*some(6))
        async with spine.running(slow.service, drain_s=0.0):
            await until(lambda: len(slow.began) == 2)
            await abandon(spine)
        slow.go.set()
        async with spine.running(slow.service):
            await until(lambda: sorted(slow.finished) == list(range(6)))

        async def all_published() -> bool:
            return await spine.journal.head() == 12

        await until(all_published)


async def test_a_service_that_can_not_start_leaves_nothing_behind(spine: Spine) -> None:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def broken() -> Any:
        raise ZeroDivisionError
        yield

    slow, second = Slow(), Service("second", lifespan=broken)
    with pytest.raises(ZeroDivisionError):
        async with spine.running(slow.service, second):
            pass
    assert await spine.journal.processes() == []
    assert spine.health()["services"] == []
