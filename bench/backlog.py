"""A backlog handled exactly once by one process, beside the loop that one would write by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from eventspine import Service, Spine

from . import raw
from .figures import Figure, in_turns, per_second
from .material import OrderPlaced, backlog
from .places import folder
from .sizes import Sizes

Handler = Callable[[Any], Awaitable[None]]

# How much of the usual backlog: events of one key go one by one, each with a commit of its own.
KEYS = {1_000: 1.0, 1: 0.02, 100: 0.25}


async def measure(sizes: Sizes) -> list[Figure]:
    figures: list[Figure] = []
    for keys, share in KEYS.items():
        count = round(sizes.backlog * share)
        with folder() as where:
            path = where / "journal.db"
            await backlog(f"sqlite:///{path}", count, keys)
            for name, handler in HANDLERS.items():
                figures.append(await _figure(path, count, keys, name, handler, sizes.rounds))
    return figures


async def _figure(path: Path, count: int, keys: int, name: str, handler: Handler, turns: int) -> Figure:
    number = iter(range(1_000_000))

    async def ours() -> float:
        return await handle_all(path, f"{name}-{next(number)}", handler, count)

    async def by_hand() -> float:
        counted, finished = counting(handler, count)
        began = perf_counter()
        handled = await raw.handle_all(path, f"{name}-{next(number)}", counted)
        seconds = perf_counter() - began
        if not finished.is_set():
            raise RuntimeError(f"by hand, {handled} of {count} events were handled")
        return handled / seconds

    rounds = await in_turns({"ours": ours, "raw": by_hand}, turns)
    return Figure(
        f"backlog of {count:,} over {keys:,} key{'s' if keys > 1 else ''}, a handler that {name.replace('-', ' ')}",
        per_second(rounds.rate("ours")),
        "≥ 0.3× the hand-written loop" if keys == 1_000 else "",
        rounds.spread("ours", "raw"),
        [f"sqlite3 + msgspec loop on the same feed, position stored per {raw.READ}: {per_second(rounds.rate('raw'))}"],
        {"events": count, "rates": rounds.rates},
    )


async def handle_all(path: Path, service_name: str, handler: Handler, count: int) -> float:
    """From the start of the service to the end of its drain: every event handled, every cursor stored."""
    service: Service[None] = Service(service_name)
    counted, finished = counting(handler, count)
    service.on(OrderPlaced, start="earliest", name="handler")(counted)
    async with Spine(f"sqlite:///{path}") as spine:
        began = perf_counter()
        async with spine.running(service) as running:
            await finished.wait()
        seconds = perf_counter() - began
        if not running.drained:
            raise RuntimeError("not all events were handled exactly once")
    return count / seconds


def counting(handler: Handler, count: int) -> tuple[Handler, asyncio.Event]:
    """The handler as both sides call it, and what is set when it has been called so often; more often is an error."""
    finished = asyncio.Event()
    left = count

    async def counted(event: OrderPlaced) -> None:
        nonlocal left
        await handler(event)
        left -= 1
        if left <= 0:
            if left:
                raise RuntimeError("an event was handled twice")
            finished.set()

    return counted, finished


async def does_nothing(_: Any) -> None:
    pass


async def suspends_once(_: Any) -> None:
    await asyncio.sleep(0)


HANDLERS: dict[str, Handler] = {"does-nothing": does_nothing, "suspends-once": suspends_once}
