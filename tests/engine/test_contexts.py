"""What a handler leaves in context variables is of that event and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from decimal import Context as Exact, Decimal, getcontext, localcontext, setcontext
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Delivery, Retry, Service, Spine
from eventspine.engine import workers

from .material import Broken, Mailed, Placed, until

COUNT = 30
AT_ONCE = Retry(attempts=3, immediate=3)
tenant: ContextVar[str | None] = ContextVar("tenant", default=None)
Handler = Callable[[Placed, Delivery], Awaitable[None]]


async def plain(event: Placed, delivery: Delivery) -> None: ...


async def suspends(event: Placed, delivery: Delivery) -> None:
    await asyncio.sleep(0.001 * (event.number % 3))


async def changes(event: Placed, delivery: Delivery) -> None:
    delivery.publish(Mailed(customer=event.customer))


async def fails(event: Placed, delivery: Delivery) -> None:
    if event.number % 4 == 0 and delivery.attempt < 3:
        raise Broken


async def seen_by(spine: Spine, work: Handler, **options: Any) -> list[str | None]:
    """What each attempt finds that another has left."""
    service, seen = Service[None]("email"), list[str | None]()
    handled = set[int]()

    @service.on(Placed, **{"retry": AT_ONCE, **options})
    async def handle(event: Placed, delivery: Delivery) -> None:
        seen.append(tenant.get())
        tenant.set(event.customer)
        await work(event, delivery)
        assert tenant.get() == event.customer
        handled.add(event.number)

    await spine.publish(*[Placed(customer=f"c{number % 7}", number=number) for number in range(COUNT)])
    async with spine.running(service):
        await until(lambda: len(handled) == COUNT)
    return seen


@pytest.mark.parametrize("work", [plain, suspends, changes, fails], ids=lambda work: work.__name__)
@pytest.mark.parametrize("options", [{}, {"concurrency": 1}, {"order": "feed"}], ids=str)
async def test_no_attempt_sees_what_another_has_set(spine: Spine, work: Handler, options: dict[str, Any]) -> None:
    assert {None} == set(await seen_by(spine, work, **options))


async def test_what_was_set_before_running_is_seen_by_all_and_changed_by_none(spine: Spine) -> None:
    before = tenant.set("ours")
    try:
        assert {"ours"} == set(await seen_by(spine, plain))
    finally:
        tenant.reset(before)


async def test_if_workers_went_on_with_what_they_have_the_next_event_would_see_it(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "copy_context", Context)
    assert {None} != set(await seen_by(spine, plain))


async def test_nor_does_a_run_see_what_another_has_set(spine: Spine) -> None:
    service, seen, handled = Service[None]("email"), list[str | None](), list[int]()

    @service.on(Placed, batch=Batch(5))
    async def handle(events: list[Placed]) -> None:
        seen.append(tenant.get())
        tenant.set(events[0].customer)
        handled.extend(event.number for event in events)

    await spine.publish(*[Placed(customer=f"c{number % 7}", number=number) for number in range(COUNT)])
    async with spine.running(service):
        await until(lambda: len(handled) == COUNT)
    assert {None} == set(seen)


async def test_nor_does_a_run_that_is_asked_for_again(file: Spine) -> None:
    service, calls = Service[None]("email"), list[tuple[str | None, int]]()

    @service.on(Placed, batch=Batch(3), retry=AT_ONCE)
    async def handle(events: list[Placed], delivery: BatchDelivery) -> None:
        calls.append((tenant.get(), len(events)))
        tenant.set(events[0].customer)
        await asyncio.sleep(0)
        delivery.execute("select 1")
        if len(events) == 3:
            delivery.retry(events[0], Broken())

    await file.publish(*[Placed(customer=f"c{number}", number=number) for number in range(3)])
    async with file.running(service):
        await until(lambda: len(calls) == 3)
    assert [(None, 3), (None, 2), (None, 1)] == calls


@pytest.mark.parametrize("batch", [None, Batch(5)], ids=["one by one", "in runs"])
async def test_nor_does_it_calculate_as_another_has_said(spine: Spine, batch: Batch | None) -> None:
    service, seen, handled = Service[None]("email"), set[int](), list[int]()

    def calculate(numbers: list[int]) -> None:
        seen.add(getcontext().prec)
        setcontext(Exact(prec=3))
        assert Decimal(1) / 3 == Decimal("0.333")
        handled.extend(numbers)

    async def each(event: Placed) -> None:
        calculate([event.number])

    async def runs(events: list[Placed]) -> None:
        calculate([event.number for event in events])

    if batch is None:
        service.on(Placed, concurrency=1)(each)
    else:
        service.on(Placed, batch=batch)(runs)
    await spine.publish(*[Placed(customer=f"c{number % 7}", number=number) for number in range(COUNT)])
    async with spine.running(service):
        await until(lambda: len(handled) == COUNT)
    assert {getcontext().prec} == seen != {3}


async def test_a_handler_that_calculates_keeps_its_worker(spine: Spine) -> None:
    """decimal keeps its own context in such a variable."""
    service, tasks, handled = Service[None]("email"), set[Any](), list[int]()

    @service.on(Placed, concurrency=1)
    async def handle(event: Placed) -> None:
        with localcontext() as context:
            context.prec = 3
            assert Decimal(1) / 3 == Decimal("0.333")
        tasks.add(asyncio.current_task())
        handled.append(event.number)

    await spine.publish(*[Placed(customer=f"c{number % 7}", number=number) for number in range(COUNT)])
    async with spine.running(service):
        await until(lambda: len(handled) == COUNT)
    assert 1 == len(tasks)
