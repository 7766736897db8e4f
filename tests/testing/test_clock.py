"""Virtual time, and that the engine knows no other."""

from __future__ import annotations

import ast
import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import eventspine
from eventspine.clock import SystemClock
from eventspine.testing import VirtualClock

START = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = 1_000_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(START, seed=1)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_stands_still_until_it_is_moved(clock: VirtualClock) -> None:
    began, monotonic = clock.now_us(), clock.monotonic()
    await asyncio.sleep(0.01)
    assert (clock.now, clock.now_us(), clock.monotonic()) == (START, began, monotonic)
    clock.move(began + 90 * SECOND)
    assert clock.now == START + timedelta(seconds=90)
    assert clock.monotonic() == pytest.approx(monotonic + 90)
    clock.move(began)
    assert clock.now == START + timedelta(seconds=90), "never back"


async def test_what_is_due_comes_in_order_and_not_before(clock: VirtualClock) -> None:
    came: list[int] = []
    for seconds in (30, 10, 20):
        clock.call_at(clock.now_us() + seconds * SECOND, lambda seconds=seconds: came.append(seconds))
    cancelled = clock.call_at(clock.now_us() + 15 * SECOND, lambda: came.append(15))
    cancelled.cancel()
    assert clock.next_due() == clock.now_us() + 10 * SECOND
    clock.move(clock.now_us() + 20 * SECOND - 1)
    await turns()
    assert came == [10]
    clock.move(clock.now_us() + 10 * SECOND + 1)
    assert clock.ringing == 2
    await turns()
    assert came == [10, 20, 30]
    assert (clock.next_due(), clock.ringing) == (None, 0)
    clock.call_at(clock.now_us(), lambda: came.append(0))
    await turns()
    assert came[-1] == 0


async def test_a_look_is_taken_once_however_far_the_clock_jumps(clock: VirtualClock) -> None:
    looks: list[str] = []
    clock.call_later(1.0, lambda: looks.append("soon"))
    clock.call_later(3600.0, lambda: looks.append("late"))
    clock.call_later(1.0, lambda: looks.append("never")).cancel()
    clock.move(clock.now_us() + SECOND // 2)
    await turns()
    assert looks == []
    clock.move(clock.now_us() + 60 * SECOND)
    await turns()
    assert looks == ["soon"]


async def test_looks_go_on_in_real_time(clock: VirtualClock) -> None:
    async with asyncio.timeout(10):
        await clock.sleep(0.01)
        looked = asyncio.Event()
        clock.call_later(0.01, looked.set)
        await looked.wait()
    assert clock.now == START


async def test_a_sleep_ends_with_a_jump_beyond_it(clock: VirtualClock) -> None:
    async with asyncio.timeout(10):
        asleep = asyncio.create_task(clock.sleep(3600.0))
        await turns()
        clock.move(clock.now_us() + 3600 * SECOND)
        await asleep


def test_chance_and_ids_are_the_seeds() -> None:
    one, same, other = VirtualClock(START, seed=1), VirtualClock(START, seed=1), VirtualClock(START, seed=2)
    assert one.entropy(16) == same.entropy(16) != other.entropy(16)
    assert one.random.random() == same.random.random() != other.random.random()
    assert VirtualClock(START, unique_ids=True).entropy(16) != VirtualClock(START, unique_ids=True).entropy(16)


async def test_the_system_clock_waits_in_real_time() -> None:
    clock, came = SystemClock(), asyncio.Event()
    async with asyncio.timeout(10):
        began = clock.monotonic()
        clock.call_at(clock.now_us() + SECOND // 50, came.set)
        clock.call_later(0.001, lambda: None).cancel()
        await came.wait()
        await clock.sleep(0.001)
    assert clock.monotonic() - began >= 0.02


# What would read time or chance past the clock; awaiting a turn of the loop, `sleep(0)`, is neither.
FORBIDDEN = {
    "time.",
    "random.",
    "asyncio.timeout",
    "asyncio.wait_for",
    "loop.time",
    "os.urandom",
    "datetime.now",
    "uuid.",
}
EXCEPT = {"health.py"}  # compares how long the journal has really waited for its lock


def calls_past_the_clock(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            waits = called == "asyncio.sleep" and ast.unparse(node.args[0]) != "0"
            timer = called.endswith((".call_later", ".call_at")) and "clock." not in called
            if waits or timer or any(called.startswith(word) for word in FORBIDDEN):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


ENGINE = sorted((Path(eventspine.__file__).parent / "engine").glob("*.py"))


@pytest.mark.parametrize("path", ENGINE, ids=[path.name for path in ENGINE])
def test_the_engine_reads_time_and_chance_from_its_clock_alone(path: Path) -> None:
    assert path.name in EXCEPT or calls_past_the_clock(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("line", ["time.time()", "asyncio.sleep(1)", "loop.call_later(1, f)", "random.random()"])
def test_that_test_would_find_it(line: str) -> None:
    assert calls_past_the_clock(f"def f():\n    {line}") == [f"line 2: {line}"]
