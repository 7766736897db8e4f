"""How soon another process's handler starts after publish has returned, and what waiting for it costs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eventspine import Spine

from . import databases, raw
from .databases import Database
from .figures import Figure, milliseconds, quantile
from .material import OrderPlaced, orders, records, storefront
from .places import folder
from .processes import child
from .sizes import Sizes

PER_SECOND = 200
Publish = Callable[[OrderPlaced], Awaitable[None]]


class Delays(NamedTuple):
    """Until the handler starts, in seconds."""

    after: list[float]  # publish has returned
    called: list[float]  # publish was called


async def on_sqlite(sizes: Sizes) -> list[Figure]:
    count = round(PER_SECOND * sizes.latency_s)
    with folder() as where:
        ours, idle = await _ours(f"sqlite:///{where / 'ours.db'}", count, sizes.idle_s)
        by_hand = await _by_datagram(where / "raw.db", where / "bell", count)
    return _figures(ours, by_hand, "by hand, woken by a datagram", idle, sizes)


async def on_postgres(sizes: Sizes) -> list[Figure]:
    count = round(PER_SECOND * sizes.latency_s)
    async with databases.postgres() as database:
        ours, idle = await _ours(database.fresh(), count, sizes.idle_s)
        by_hand = await _by_notification(database, count)
    return _figures(ours, by_hand, "by hand, woken by its notification", idle, sizes)


def _figures(ours: Delays, by_hand: Delays, named: str, idle: float, sizes: Sizes) -> list[Figure]:
    early = sum(one < 0 for one in ours.after) / len(ours.after)
    return [
        Figure(
            f"another process's handler starts after publish returns, {PER_SECOND} events/s",
            _spread(ours.after),
            "p50 < 5 ms, p99 < 25 ms",
            beside=[
                f"{named}: {_spread(by_hand.after)}",
                f"counted from the call of publish: {_spread(ours.called)}; by hand: {_spread(by_hand.called)}",
                f"started before publish had returned: {early:.0%}",
            ],
            values={"events": len(ours.after), "after": ours.after, "after_by_hand": by_hand.after},
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


async def _ours(url: str, count: int, idle_s: float) -> tuple[Delays, float]:
    async with child("listener", url) as listener:
        await listener.ready()
        await listener.tell(str(idle_s))
        await listener.ready()
        async with Spine(url, service=storefront) as spine:

            async def publish(event: OrderPlaced) -> None:
                await spine.publish(event)

            called, returned = await _at_a_pace(publish, count)
            await asyncio.sleep(0.5)
        await listener.tell("stop")
        result = await listener.result()
    return _delays(result["started"], called, returned), result["idle"]


async def _by_datagram(path: Path, bell: Path, count: int) -> Delays:
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


async def _by_notification(database: Database, count: int) -> Delays:
    """A row and a notification in one transaction; another process listens, and reads what is new."""
    url = database.fresh()
    connection = database.connect(url)
    connection.execute("create table events (position bigint generated always as identity primary key, data bytea)")
    async with child("raw_postgres_listener", url) as listener:
        await listener.ready()

        async def publish(event: OrderPlaced) -> None:
            with database.transaction(connection):
                connection.execute("insert into events (data) values (%s)", (records([event])[0].data,))
                connection.execute("notify events")

        called, returned = await _at_a_pace(publish, count)
        await asyncio.sleep(0.5)
        connection.execute("notify events, 'stop'")
        result = await listener.result()
    connection.close()
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


def _delays(started: dict[str, int], called: dict[str, int], returned: dict[str, int]) -> Delays:
    """The monotonic clock is one for all processes."""
    if started.keys() != returned.keys():
        raise RuntimeError(f"{len(returned)} events were published, {len(started)} handled")
    return Delays(
        [(started[id] - at) / 1e9 for id, at in returned.items()],
        [(started[id] - at) / 1e9 for id, at in called.items()],
    )
