"""Where the journal changes all the time, timers are looked up now and then; what is known to be due is fired in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from eventspine.engine.timers import MOMENT_S, Timers
from eventspine.testing import VirtualClock

MS = 1_000


class Rests(VirtualClock):
    def __init__(self) -> None:
        super().__init__(datetime(2030, 1, 1, tzinfo=UTC))
        self.rests: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)


class Book:
    """A journal, as far as timers ask it."""

    def __init__(self, due_us: int | None) -> None:
        self.due_us, self.looked, self.fired = due_us, 0, list[int]()

    async def next_due(self) -> int | None:
        self.looked += 1
        return self.due_us

    async def fire(self, now_us: int, _: int) -> int:
        self.fired.append(now_us)
        self.due_us = None
        return 1


async def changed(timers: Timers) -> None:
    looking = asyncio.create_task(timers.fire())
    await asyncio.sleep(0)
    timers.changed()
    await looking


@pytest.mark.parametrize(("due_ms", "rests"), [(None, [MOMENT_S]), (60_000, [MOMENT_S]), (20, [0.02])])
async def test_it_rests_between_two_looks_but_not_beyond_what_is_due(due_ms: int | None, rests: list[float]) -> None:
    clock = Rests()
    book: Any = Book(None if due_ms is None else clock.now_us() + due_ms * MS)
    await changed(Timers(book, clock))
    assert (clock.rests, book.looked) == (rests, 1)


async def test_what_became_due_while_it_waited_is_fired_without_a_rest() -> None:
    clock = Rests()
    book: Any = Book(clock.now_us() + 20 * MS)
    timers = Timers(book, clock)
    looking = asyncio.create_task(timers.fire())
    await asyncio.sleep(0)
    clock.move(clock.now_us() + 20 * MS)
    await looking
    await timers.fire()
    assert (clock.rests, book.fired) == ([], [clock.now_us()])
