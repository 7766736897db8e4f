"""How soon another process's handler starts after publish has returned, and what waiting for it costs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from eventspine import Spine

from . import raw
from .figures import Figure, milliseconds, quantile
from .material import OrderPlaced, orders, records, storefront
from .places import folder
from .processes import child
from .sizes import Sizes

PER_SECOND = 200
Publish = Callable[[OrderPlaced], Awaitable[None]]


async def measure(sizes: Sizes) -> list[Figure]:
    count = round(PER_SECOND * sizes.latency_s)
    with folder() as where:
        ours, idle = await _ours(where / "ours.db", count, sizes.idle_s)
        by_hand = await _by_hand(where / "raw.db", where / "bell", count)
    after, called = ours
    raw_after, raw_called = by_hand
    early = sum(one < 0 for one in after) / len(after)
    return [
        Figure(
            f"another process's handler starts after publish returns, {PER_SECOND} events/s",
            _spread(after),
            "p50 < 5 ms, p99 < 25 ms",
            beside=[
                f"by hand, woken by a datagram: {_spread(raw_after)}",
                f"counted from the call of publish: {_spread(called)}; by hand: {_spread(raw_called)}",
                f"started before publish had returned: {early:.0%}",
            ],
            values={"events": count, "after": after, "after_by_hand": raw_after},
        ),
        Figure(
            f"an idle running process, over {sizes.idle_s:.0f} s",
            f"{idle:.2%} of a core",
            "< 2 %",
            values={"share": idle},
        ),
    ]


def _spread(delays: Sequence[float]) -> str:
    return f"p50 {milliseconds(quantile(delays, 0.5))}, p99 {milliseconds(quantile(delays, 0.99))}"


async def _ours(path: Path, count: int, idle_s: float) -> tuple[tuple[list[float], list[float]], float]:
    async with child("listener", path) as listener:
        await listener.ready()
        await listener.tell(str(idle_s))
        await listener.ready()
        async with Spine(f"sqlite:///{path}", service=storefront) as spine:

            async def publish(event: OrderPlaced) -> None:
                await spine.publish(event)

            called, returned = await _at_a_pace(publish, count)
            await asyncio.sleep(0.5)
        await listener.tell("stop")
        result = await listener.result()
    return _delays(result["started"], called, returned), result["idle"]


async def _by_hand(path: Path, bell: Path, count: int) -> tuple[list[float], list[float]]:
    table = raw.SameColumns(path)
    async with child("raw_listener", path, bell) as listener:
        await listener.ready()
        mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

        async def publish(event: OrderPlaced) -> None:
            table.insert(raw.SameColumns.rows(records([event])))
            mouth.sendto(b".", str(bell))

        called, returned = await _at_a_pace(publish, count)
        await asyncio.sleep(0.5)
        mouth.sendto(b"stop", str(bell))
        result = await listener.result()
    table.connection.close()
    return _delays(result["started"], called, returned)


async def _at_a_pace(publish: Publish, count: int) -> tuple[dict[str, int], dict[str, int]]:
    called: dict[str, int] = {}
    returned: dict[str, int] = {}
    began = time.monotonic()
    for n, event in enumerate(orders(count, 1_000)):
        await asyncio.sleep(max(0.0, began + n / PER_SECOND - time.monotonic()))
        called[event.order_id] = time.monotonic_ns()
        await publish(event)
        returned[event.order_id] = time.monotonic_ns()
    return called, returned


def _delays(
    started: dict[str, int], called: dict[str, int], returned: dict[str, int]
) -> tuple[list[float], list[float]]:
    """From the return, and from the call. The monotonic clock is one for all processes."""
    if started.keys() != returned.keys():
        raise RuntimeError(f"{len(returned)} events were published, {len(started)} handled")
    return (
        [(started[id] - at) / 1e9 for id, at in returned.items()],
        [(started[id] - at) / 1e9 for id, at in called.items()],
    )
