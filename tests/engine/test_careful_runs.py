"""Careful mode of batch handlers (R16): suspects make runs, with one commit for their start marks and one for what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Service, Spine
from eventspine.engine import batches, careful
from eventspine.engine.workers import Workers
from eventspine.journal.port import Unit, Verdict

from .material import ONCE, Broken, Placed, Store, abandon, dead, host, rows, subscription, until
from .test_careful import LEASE_S, marks

SIZE = 100
Runs = list[list[int]]


async def nothing(numbers: list[int]) -> None: ...


async def never(numbers: list[int]) -> None:
    await asyncio.Event().wait()


class Bundles:
    """A batch handler; what it does with a run is put in by the test."""

    def __init__(self, size: int = SIZE, *, concurrency: int = 1) -> None:
        self.began: Runs = []
        self.done: list[int] = []
        self.deed: Callable[[list[int]], Awaitable[None]] = nothing
        self.service: Service[Any] = Service("mail")
        self.service.on(Placed, batch=Batch(size), concurrency=concurrency, retry=ONCE)(self.note)

    async def note(self, events: list[Placed], delivery: BatchDelivery) -> None:
        numbers = [event.number for event in events]
        self.began.append(numbers)
        await self.deed(numbers)
        self.done += numbers

    async def killed_at_once(self, store: Store) -> None:
        """A process that dies with its first run in hand."""
        deed, self.deed = self.deed, never
        await self.run_and_die(store)
        self.began.clear()
        self.deed = deed

    async def run_and_die(self, store: Store) -> None:
        """A process that dies when its handler has come to a stop."""
        before = len(self.began)
        async with store.spine(lease_s=LEASE_S) as spine:
            async with spine.running(self.service, drain_s=0.0):
                await until(lambda: len(self.began) > before)
                await abandon(spine)


async def publish(store: Store, count: int, keys: int = 7) -> None:
    async with store.spine() as spine:
        await spine.publish(*[Placed(customer=f"c{number % keys}", number=number) for number in range(count)])


def units_of(spine: Spine) -> list[Unit]:
    """Units as they are committed from now on."""
    noted, commit = list[Unit](), spine.journal.commit

    async def noting(units: Sequence[Unit]) -> list[Verdict]:
        noted.extend(units)
        return await commit(units)

    spine.journal.commit = noting  # type: ignore[method-assign]
    return noted


async def until_done(spine: Spine, count: int, bundles: Bundles) -> None:
    await until(lambda: len(bundles.done) >= count)
    await until(lambda: subscription(spine).at_work == 0)


async def test_r16_a_run_of_suspects_takes_one_commit_for_its_marks_and_one_for_what_it_does(store: Store) -> None:
    bundles = Bundles()
    await publish(store, 40)
    await bundles.killed_at_once(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        units = units_of(spine)
        async with spine.running(bundles.service):
            await until_done(spine, 40, bundles)
        assert await marks(spine) == {}
    marking, ending = [unit for unit in units if unit.starts]
    assert (len(marking.starts), marking.done, any(mark.times == 0 for mark in marking.starts)) == (40, [], False)
    assert (len(ending.starts), len(ending.done), all(mark.times == 0 for mark in ending.starts)) == (40, 40, True)
    assert len(set(marking.fences)) == len(marking.fences) == len({mark.partition for mark in marking.starts})
    assert [len(run) for run in bundles.began] == [40]


@pytest.mark.parametrize(
    ("size", "concurrency", "largest"), [(SIZE, 1, 64), (10, 1, 10), (SIZE, 4, 16), (SIZE, 100, 1)]
)
async def test_r16_runs_of_suspects_have_a_bound_and_are_in_order_per_key(
    store: Store, size: int, concurrency: int, largest: int
) -> None:
    bundles = Bundles(size, concurrency=concurrency)
    await publish(store, 150)
    await bundles.killed_at_once(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service):
            await until_done(spine, 150, bundles)
    assert max(map(len, bundles.began)) == largest
    for key in range(7):
        assert [number for number in bundles.done if number % 7 == key] == list(range(key, 150, 7))


@pytest.mark.parametrize("keys", [150, 3])
async def test_r16_no_run_has_suspects_and_others_and_after_them_runs_are_as_large_as_before(
    store: Store, monkeypatch: Any, keys: int
) -> None:
    monkeypatch.setattr("eventspine.engine.loading.SUSPECTS", 30)
    bundles = Bundles()
    await publish(store, 150, keys=keys)
    await bundles.killed_at_once(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        units = units_of(spine)
        async with spine.running(bundles.service):
            await until_done(spine, 150, bundles)
    marked = [len(unit.starts) for unit in units if unit.starts and unit.starts[0].times]
    assert sum(marked) == 30
    assert all({number < 30 for number in run} in ({True}, {False}) for run in bundles.began)
    assert max(map(len, bundles.began)) == SIZE


async def test_r16_those_in_hand_at_the_second_death_run_alone_and_the_others_in_runs(store: Store) -> None:
    bundles = Bundles(20)
    await publish(store, 60)
    await bundles.killed_at_once(store)
    bundles.deed = never
    await bundles.run_and_die(store)
    (in_hand,) = bundles.began
    async with store.spine(lease_s=LEASE_S) as spine:
        assert sorted((await marks(spine)).values()) == [(1, 0)] * 20
    bundles.deed = nothing
    bundles.began.clear()
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service):
            await until_done(spine, 60, bundles)
        assert (await marks(spine), await rows(spine, "dead")) == ({}, [])
    assert sorted(run[0] for run in bundles.began if len(run) == 1 and run[0] in in_hand) == sorted(in_hand)
    assert not any(set(run) & set(in_hand) for run in bundles.began if len(run) > 1)
    assert sorted(bundles.done) == list(range(60))


async def test_r16_an_orderly_end_in_the_middle_of_a_run_of_suspects_takes_all_its_marks_back(store: Store) -> None:
    bundles = Bundles()
    await publish(store, 40)
    await bundles.killed_at_once(store)
    bundles.deed = never
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service, drain_s=0.0):
            await until(lambda: bundles.began)
            assert len(await marks(spine)) == 40 == len(bundles.began[0])
        assert await marks(spine) == {}


async def test_r16_if_only_the_first_of_a_run_were_withdrawn_the_others_would_be_suspected(
    store: Store, monkeypatch: Any
) -> None:
    monkeypatch.setattr(batches.BatchWorkers, "in_hand", Workers.in_hand)
    bundles = Bundles()
    await publish(store, 40)
    await bundles.killed_at_once(store)
    bundles.deed = never
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service, drain_s=0.0):
            await until(lambda: bundles.began)
        assert len(await marks(spine)) == 39


async def fails_with_13(numbers: list[int]) -> None:
    if 13 in numbers:
        raise Broken


async def test_r16_a_run_of_suspects_that_fails_as_a_whole_goes_one_by_one_and_only_the_culprit_dies(
    store: Store,
) -> None:
    bundles = Bundles()
    bundles.deed = fails_with_13
    await publish(store, 40)
    await bundles.killed_at_once(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service):
            (row,) = await dead(spine)
            await until_done(spine, 39, bundles)
        assert await marks(spine) == {}
    assert (row.reason, row.attempts) == ("Broken", 1), "the run's failure was nobody's attempt"
    assert sorted(bundles.done) == [number for number in range(40) if number != 13]
    assert [len(run) for run in bundles.began] == [40] + [1] * 40


async def test_r16_an_orderly_end_after_a_run_has_failed_leaves_no_marks_of_it(store: Store) -> None:
    """One is in hand by itself, the others of the run wait in their keys; all have had a mark."""
    bundles, failed = Bundles(), False

    async def first_fails(numbers: list[int]) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise Broken
        await never(numbers)

    bundles.deed = first_fails
    await publish(store, 40)
    await bundles.killed_at_once(store)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service, drain_s=0.0):
            await until(lambda: len(bundles.began) > 1)
        assert await marks(spine) == {}


async def test_r16_what_follows_a_failed_one_of_a_run_of_suspects_loses_its_mark_until_it_runs_again(
    store: Store,
) -> None:
    service, done, again = Service("mail"), list[int](), asyncio.Event()
    dies = True

    @service.on(Placed, batch=Batch(SIZE), concurrency=1, retry=ONCE)
    async def note(events: list[Placed], delivery: BatchDelivery) -> None:
        if dies or 1 not in {event.number for event in events}:
            again.set()
            await never([])
        for event in events:
            if event.number == 1:
                delivery.retry(event, Broken())
            done.append(event.number)

    await publish(store, 4, keys=1)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(service, drain_s=0.0):
            await until(again.is_set)
            await abandon(spine)
    dies = False
    again.clear()
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(service, drain_s=0.0):
            await until(again.is_set)
            assert list((await marks(spine)).values()) == [(1, 0), (1, 0)]
        assert await marks(spine) == {}


async def test_r16_suspects_whose_marks_are_fenced_are_given_back_and_handled_by_who_owns_them(
    store: Store, monkeypatch: Any
) -> None:
    bundles, refused = Bundles(), 0
    await publish(store, 40)
    await bundles.killed_at_once(store)
    committed = careful._committed

    async def fenced_once(one: Any, unit: Unit) -> Verdict:
        nonlocal refused
        refused += 1
        return Verdict("fenced") if refused == 1 else await committed(one, unit)

    monkeypatch.setattr(careful, "_committed", fenced_once)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service):
            await until_done(spine, 40, bundles)
            assert host(spine).fenced == 40
        assert await marks(spine) == {}
    assert sorted(bundles.done) == list(range(40))


async def test_r16_an_error_of_the_engine_while_suspects_are_marked_leaves_no_key_taken(
    store: Store, monkeypatch: Any
) -> None:
    bundles, raised = Bundles(), False
    await publish(store, 40)
    await bundles.killed_at_once(store)
    marked = careful.marked

    async def raises_once(*given: Any) -> bool:
        nonlocal raised
        if not raised:
            raised = True
            raise RuntimeError("of the engine's own")
        return await marked(*given)

    monkeypatch.setattr(batches, "marked", raises_once)
    async with store.spine(lease_s=LEASE_S) as spine:
        async with spine.running(bundles.service):
            await until_done(spine, 40, bundles)
            assert subscription(spine).bytes == 0
    assert sorted(bundles.done) == list(range(40))
