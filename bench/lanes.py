"""Key lanes: handlers that wait, many keys at once, one event per key at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from time import perf_counter

from eventspine import Service, Spine

from .figures import Figure, in_turns, per_second
from .material import OrderPlaced, backlog
from .places import folder
from .sizes import Sizes

KEYS = 100
HANDLER_S = 0.005


async def measure(sizes: Sizes) -> list[Figure]:
    with folder() as where:
        await backlog(f"sqlite:///{where / 'journal.db'}", sizes.lanes, KEYS)
        number = iter(range(1_000_000))

        async def lanes() -> float:
            return await _handle(where / "journal.db", f"lanes-{next(number)}", sizes.lanes)

        async def one_at_a_time() -> float:
            began = perf_counter()
            for _ in range(sizes.one_at_a_time):
                await asyncio.sleep(HANDLER_S)
            return sizes.one_at_a_time / (perf_counter() - began)

        rounds = await in_turns({"lanes": lanes, "one": one_at_a_time}, sizes.rounds)
    return [
        Figure(
            f"key lanes: {KEYS} keys, a handler that waits {HANDLER_S * 1000:.0f} ms; order per key intact",
            per_second(rounds.rate("lanes")),
            "≥ 20× one at a time",
            rounds.spread("lanes", "one"),
            [f"one at a time, nothing else: {per_second(rounds.rate('one'))}"],
            {"events": sizes.lanes, "rates": rounds.rates},
        )
    ]


async def _handle(path: Path, name: str, count: int) -> float:
    service: Service[None] = Service(name)
    finished = asyncio.Event()
    seen: dict[str, list[str]] = defaultdict(list)
    at_work: set[str] = set()
    left = count

    @service.on(OrderPlaced, start="earliest", name="handler")
    async def wait(event: OrderPlaced) -> None:
        nonlocal left
        if event.customer_id in at_work:
            raise RuntimeError(f"two events of {event.customer_id} at once")
        at_work.add(event.customer_id)
        await asyncio.sleep(HANDLER_S)
        at_work.remove(event.customer_id)
        seen[event.customer_id].append(event.order_id)
        left -= 1
        if not left:
            finished.set()

    async with Spine(f"sqlite:///{path}") as spine:
        began = perf_counter()
        async with spine.running(service):
            await finished.wait()
        seconds = perf_counter() - began
    if any(ids != sorted(set(ids)) for ids in seen.values()):
        raise RuntimeError("the order of a key was not kept")
    return count / seconds
