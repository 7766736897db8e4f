"""The feed of a journal in PostgreSQL while 24 writers append to it: what is lost, what is out of order, how far behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import NamedTuple

from eventspine import Event, Service, Spine

from . import databases
from .figures import Figure, milliseconds, per_second, quantile
from .processes import children
from .sizes import Sizes

WRITERS = 24
PROCESSES = 4
PER_SECOND = 10  # commits of each writer
OWN = 10  # one of so many is published in a transaction of the writer's own,
OPEN_S = 0.01  # which stays open for so long,
BACK = 2  # and one of so many of these is rolled back


class Counted(Event, context="many", key="writer"):
    writer: str
    number: int


class Seen(NamedTuple):
    numbers: list[int]
    at: list[int]  # nanoseconds of the monotonic clock, which is one for all processes


many: Service[None] = Service("many")


async def measure(sizes: Sizes) -> list[Figure]:
    each = WRITERS // PROCESSES
    async with databases.postgres() as database:
        url = database.fresh()
        seen: dict[str, Seen] = {}
        async with Spine(url) as spine, spine.running(_reader(seen)):
            some: list[tuple[object, ...]] = [(url, first, each, sizes.busy_s) for first in range(0, WRITERS, each)]
            async with children("writers", some) as started:
                for one in started:
                    await one.tell()
                written: dict[str, list[list[int]]] = {}
                for one in started:
                    written |= await one.result()
            await _until_quiet(seen)
    return [_figure(written, seen, sizes.busy_s)]


def _reader(seen: dict[str, Seen]) -> Service[None]:
    reader: Service[None] = Service("reader")

    @reader.on(Counted, start="earliest", order="feed")
    async def see(event: Counted) -> None:
        found = seen.setdefault(event.writer, Seen([], []))
        found.numbers.append(event.number)
        found.at.append(time.monotonic_ns())

    return reader


async def _until_quiet(seen: Mapping[str, Seen]) -> None:
    """Nothing new for two seconds."""
    before = -1
    while (now := sum(len(one.numbers) for one in seen.values())) != before:
        before = now
        await asyncio.sleep(2)


def _figure(written: Mapping[str, Sequence[Sequence[int]]], seen: Mapping[str, Seen], seconds: float) -> Figure:
    lost = reordered = 0
    lags: list[float] = []
    for writer, acknowledged in written.items():
        found = seen.get(writer, Seen([], []))
        at = dict(zip(found.numbers, found.at, strict=True))
        lags += [(at[number] - returned) / 1e9 for number, returned in acknowledged if number in at]
        lost += sum(number not in at for number, _ in acknowledged)
        reordered += sum(after <= before for before, after in zip(found.numbers, found.numbers[1:], strict=False))
    rolled_back = sum(len(one.numbers) for one in seen.values()) - len(lags)
    return Figure(
        f"the feed on PostgreSQL under {WRITERS} writers in {PROCESSES} processes, {WRITERS * PER_SECOND} commits/s",
        f"{lost} lost, {reordered} reordered, lag p50 {milliseconds(quantile(lags, 0.5))}, "
        f"p99 {milliseconds(quantile(lags, 0.99))}",
        "0 lost, 0 reordered, lag p99 < 50 ms",
        beside=[
            f"{per_second(len(lags) / seconds)} acknowledged and seen; {rolled_back} seen that were not acknowledged",
            f"one of {OWN} in a transaction of its own, open for {milliseconds(OPEN_S)}; one of {BACK} of these rolled back",
        ],
        values={"lags": lags, "lost": lost, "reordered": reordered},
    )


# --- in the writers' processes ----------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(url: str, names: Sequence[str]) -> AsyncIterator[list[Spine]]:
    async with AsyncExitStack() as stack:
        spines = [await stack.enter_async_context(Spine(url, service=many)) for _ in names]
        for spine in spines:
            await spine.journal.head()
        yield spines


async def write(url: str, spine: Spine, name: str, until: float) -> list[tuple[int, int]]:
    """Numbers that were acknowledged, each with when; until then."""
    import psycopg

    random, found, number = Random(name), [], 0
    async with await psycopg.AsyncConnection.connect(url) as connection:
        due = time.monotonic() + random.random() / PER_SECOND
        while due < until:
            await asyncio.sleep(due - time.monotonic())
            due, number = due + 1 / PER_SECOND, number + 1
            if await _written(spine, connection, Counted(writer=name, number=number), random):
                found.append((number, time.monotonic_ns()))
    return found


async def _written(spine: Spine, connection: object, event: Counted, random: Random) -> bool:
    from psycopg import AsyncConnection

    if random.randrange(OWN):
        await spine.publish(event)
        return True
    assert isinstance(connection, AsyncConnection)
    await spine.publish(event, within=connection)
    await asyncio.sleep(OPEN_S)
    if not random.randrange(BACK):
        await connection.rollback()
        return False
    await connection.commit()
    return True
