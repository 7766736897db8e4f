"""How much is handed out at once and not stored: what may come again when the process is killed, however long a commit waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Retry, RetryAfter, Service, Spine
from eventspine.engine import subscription as engine, workers
from eventspine.journal.port import Unit, Verdict

from .material import Placed, Store, finished_upto, rows, subscription, turns, until

MOST = 60
COUNT = 3 * MOST


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HANDED_OUT_MAX", MOST)


def note_all(seen: list[int], failing: set[int], batch: Batch | None = None) -> Service[Any]:
    """A service that notes what it is given; what is in `failing` is first put off for a moment."""
    service: Service[Any] = Service("mail")

    def note(event: Placed) -> RetryAfter | None:
        if event.number in failing:
            failing.remove(event.number)
            return RetryAfter(0.5)
        seen.append(event.number)
        return None

    if batch is None:

        @service.on(Placed, name="note", retry=Retry(attempts=3))
        async def one(event: Placed) -> None:
            if (later := note(event)) is not None:
                raise later

    else:

        @service.on(Placed, name="note", retry=Retry(attempts=3), batch=batch)
        async def several(events: list[Placed], delivery: BatchDelivery) -> None:
            for event in events:
                if (later := note(event)) is not None:
                    delivery.retry(event, later)

    return service


class Held:
    """Commits that finish something are not made before they may."""

    def __init__(self, spine: Spine) -> None:
        self._commit = spine.journal.commit
        self.free = asyncio.Event()
        self.free.set()
        spine.journal.commit = self.commit  # type: ignore[method-assign]

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        if any(unit.done or unit.changes for unit in units):
            await self.free.wait()
        return await self._commit(units)


@pytest.mark.parametrize("batch", [None, Batch(7)])
@pytest.mark.parametrize("keys", [1, COUNT])
async def test_no_more_is_handled_than_that_while_a_commit_waits(store: Store, keys: int, batch: Batch | None) -> None:
    seen: list[int] = []
    async with store.spine() as spine:
        await spine.publish(*[Placed(customer=f"c{number % keys}", number=number) for number in range(COUNT)])
        held = Held(spine)
        held.free.clear()
        async with spine.running(note_all(seen, set(), batch)):
            await until(lambda: seen)
            await turns(300)
            handled = len(seen)
            held.free.set()
            assert handled <= MOST
            await until(lambda: len(seen) == COUNT)
        assert sorted(seen) == list(range(COUNT))
        assert await finished_upto(spine, "mail.note") == COUNT


@pytest.mark.parametrize("batch", [None, Batch(7)])
async def test_nor_of_what_was_parked_and_is_due_all_at_once(store: Store, batch: Batch | None) -> None:
    """Their rows are no part of the window of those that were read."""
    await _parked_and_due(store, batch)


async def _parked_and_due(store: Store, batch: Batch | None = None) -> None:
    seen: list[int] = []
    async with store.spine() as spine:
        await spine.publish(*[Placed(customer=f"c{number}", number=number) for number in range(COUNT)])
        held = Held(spine)

        async def parked() -> bool:
            return len(await rows(spine, "parked")) == COUNT

        async with spine.running(note_all(seen, set(range(COUNT)), batch)):
            await until(parked)
            held.free.clear()
            await until(lambda: len(seen) >= MOST)
            await turns(300)
            handled, taken = len(seen), subscription(spine).lanes.taken
            held.free.set()
            assert handled == MOST
            assert taken == MOST
            await until(lambda: len(seen) == COUNT)
        assert sorted(seen) == list(range(COUNT))
        assert await rows(spine, "parked") == []


async def test_without_the_bound_all_of_them_would_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HANDED_OUT_MAX", 10 * COUNT)
    with pytest.raises(AssertionError, match=f"== {MOST}"):
        await _parked_and_due(store)


def test_so_many_are_read_ahead_and_reckoned_with_by_the_next_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the documentation says."""
    monkeypatch.undo()
    assert workers.HANDED_OUT_MAX == engine.WINDOW == engine.SUSPECTS == 2048
