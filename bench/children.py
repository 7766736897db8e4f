"""The processes that measurements start: `python -m bench.children ROLE ARGUMENTS…`.

A child says "ready" on its standard output when it is, does what it is told by lines on its standard input, and ends
with one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from eventspine import Service, Spine

from . import raw
from .material import OrderPlaced, orders, records, storefront

Role = Callable[..., Coroutine[Any, Any, dict[str, Any]]]
EVENTS_PER_COMMIT = 10  # of a busy process


def say(text: str) -> None:
    print(text, flush=True)


async def told() -> str:
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


def memory_peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


# --- another process's handler ----------------------------------------------------------------------------------------


async def listener(url: str) -> dict[str, Any]:
    """When its handler starts, by order; and what it costs to be idle."""
    service: Service[None] = Service("listener")
    started: dict[str, int] = {}

    @service.on(OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        started[event.order_id] = time.monotonic_ns()

    async with Spine(url) as spine, spine.running(service):
        say("ready")
        idle = await cpu_of_idling(float(await told()))
        say("ready")
        await told()
    return {"started": started, "idle": idle}


async def cpu_of_idling(seconds: float) -> float:
    """The share of one core that this process takes, by its own times."""
    await asyncio.sleep(1.0)
    before, began = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    return (time.process_time() - before) / (time.monotonic() - began)


async def raw_listener(path: str, bell: str) -> dict[str, Any]:
    """By hand: a datagram wakes it, it reads what is new."""
    import socket

    connection = raw.connect(Path(path))
    ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ears.bind(bell)
    started: dict[str, int] = {}
    decode = raw.decoder()
    position = 0
    say("ready")
    while True:
        rung = ears.recv(16)
        rows = connection.execute("select position, data from events where position > ?", (position,)).fetchall()
        for _, data in rows:
            event = decode(data)
            started[event.order_id] = time.monotonic_ns()
        position = rows[-1][0] if rows else position
        if rung == b"stop":
            return {"started": started}


async def raw_postgres_listener(url: str) -> dict[str, Any]:
    """By hand: a notification wakes it, it reads what is new."""
    import psycopg

    connection, ears = psycopg.connect(url, autocommit=True), psycopg.connect(url, autocommit=True)
    ears.execute("listen events")
    started: dict[str, int] = {}
    decode = raw.decoder()
    position = 0
    say("ready")
    for notification in ears.notifies():
        rows = connection.execute("select position, data from events where position > %s", (position,)).fetchall()
        for _, data in rows:
            started[decode(data).order_id] = time.monotonic_ns()
        position = rows[-1][0] if rows else position
        if notification.payload == "stop":
            break
    return {"started": started}


# --- many writers -------------------------------------------------------------------------------------------------------


async def writers(url: str, first: str, count: str, seconds: str) -> dict[str, Any]:
    """So many at once, each with a journal of its own; now and then one publishes in a transaction of its own, which stays
    open for a while, and rolls some of these back. What was acknowledged, and when."""
    from . import many

    names = [f"writer-{number:02d}" for number in range(int(first), int(first) + int(count))]
    async with many.opened(url, names) as spines:
        say("ready")
        await told()
        until = time.monotonic() + float(seconds)
        written = await asyncio.gather(*(many.write(url, *one, until) for one in zip(spines, names, strict=True)))
    return dict(zip(names, written, strict=True))


# --- busy processes -----------------------------------------------------------------------------------------------------


async def busy(path: str, seed: str, seconds: str) -> dict[str, Any]:
    """Publishes without a pause, and says how long each commit took."""
    events = orders(5_000, 1_000, int(seed) * 10_000_000)
    waits: list[float] = []
    async with Spine(f"sqlite:///{path}", service=storefront) as spine:
        await spine.journal.head()
        say("ready")
        await told()
        until = time.monotonic() + float(seconds)
        at = 0
        while (now := time.monotonic()) < until:
            await spine.publish(*events[at : at + EVENTS_PER_COMMIT])
            waits.append(time.monotonic() - now)
            at = (at + EVENTS_PER_COMMIT) % len(events)
    return {"waits": waits}


async def raw_busy(path: str, seed: str, seconds: str) -> dict[str, Any]:
    """The same with sqlite3 and its own way of waiting."""
    made = records(orders(5_000, 1_000, int(seed) * 10_000_000))
    connection = raw.connect(Path(path))
    connection.execute("pragma busy_timeout=30000").close()
    table = raw.SameColumns.on(connection)
    waits: list[float] = []
    say("ready")
    await told()
    until = time.monotonic() + float(seconds)
    turn = 0
    while (now := time.monotonic()) < until:
        start = turn * EVENTS_PER_COMMIT % len(made)
        table.insert([(os.urandom(16), *record[2:]) for record in made[start : start + EVENTS_PER_COMMIT]])
        waits.append(time.monotonic() - now)
        turn += 1
    return {"waits": waits}


# --- a long backlog -----------------------------------------------------------------------------------------------------


async def reader(path: str, name: str, count: str) -> dict[str, Any]:
    """Handles the whole backlog; says when each hundredth of it was done."""
    service: Service[None] = Service(name)
    finished = asyncio.Event()
    total, handled = int(count), 0
    step = total // 100
    times: list[float] = []
    work: list[float] = []  # processor time, which says the same on a machine that others use too

    def note() -> None:
        times.append(time.monotonic())
        work.append(time.process_time())

    @service.on(OrderPlaced, start="earliest", name="handler")
    async def handle(_: OrderPlaced) -> None:
        nonlocal handled
        if not handled % step:
            note()
        handled += 1
        if handled == total:
            note()
            finished.set()

    async with Spine(f"sqlite:///{path}") as spine:
        say("ready")
        await told()
        began = time.monotonic()
        async with spine.running(service):
            await finished.wait()
    return {
        "began": began,
        "times": times,
        "work": work,
        "handled": handled,
        "memory": memory_peak_bytes(),
        "threads": threading.active_count(),
    }


async def carried_reader(path: str, url: str, count: str) -> dict[str, Any]:
    """The same of a backlog at a broker."""
    from .parcels import Parcel

    service: Service[None] = Service("reader")
    finished = asyncio.Event()
    total, handled = int(count), 0
    step = total // 100
    times: list[float] = []
    work: list[float] = []

    @service.on(Parcel, start="earliest", name="handle")
    async def handle(_: Parcel) -> None:
        nonlocal handled
        if not handled % step or handled == total - 1:
            times.append(time.monotonic())
            work.append(time.process_time())
        handled += 1
        if handled == total:
            finished.set()

    async with Spine(f"sqlite:///{path}", broker=url) as spine:
        say("ready")
        await told()
        began = time.monotonic()
        async with spine.running(service):
            await finished.wait()
    return {"began": began, "times": times, "work": work, "memory": memory_peak_bytes()}


ROLES: dict[str, Role] = {
    "listener": listener,
    "raw_listener": raw_listener,
    "raw_postgres_listener": raw_postgres_listener,
    "writers": writers,
    "busy": busy,
    "raw_busy": raw_busy,
    "reader": reader,
    "carried_reader": carried_reader,
}

if __name__ == "__main__":
    say(json.dumps(asyncio.run(ROLES[sys.argv[1]](*sys.argv[2:]))))
