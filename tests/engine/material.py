"""What the engine's tests are made of: a few events, services that note what they were given, and a way to wait."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

from eventspine import Event, Retry, Service, Spine
from eventspine.clock import SystemClock
from eventspine.engine.host import Host
from eventspine.engine.subscription import Subscription
from eventspine.journal.port import Delivery, Journal, State

WAIT_S = 15.0  # the longest that a test waits for a condition; nothing waits that long unless it fails
QUICK = Retry(attempts=3, immediate=1, first_s=0.001, factor=1.0, most_s=0.001)
ONCE = Retry(attempts=1)
FOR_EVER = Retry(attempts=1_000_000, immediate=0, first_s=0.001, factor=1.0, most_s=0.001)
SHORT_LEASE_S = 0.6


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"
    number: int = 0
    note: str = ""


class Cancelled(Event, context="orders", key="customer"):
    customer: str = "ann"
    number: int = 0


class Paid(Event, context="payments", key="customer"):
    customer: str = "ann"
    number: int = 0


class Reserved(Event, context="inventory", key="customer"):
    customer: str = "ann"
    number: int = 0


class Mailed(Event, context="email", key="customer"):
    customer: str = "ann"
    number: int = 0


SHOP: Service[Any] = Service("shop", publishes=("orders", "payments"))


class Broken(Exception):
    """What failing handlers raise."""


class Store:
    """One store; every `journal()` is the same one, opened as another process would."""

    def __init__(self, journal: Callable[[], Journal], *, sql: bool) -> None:
        self.journal = journal
        self.sql = sql

    def spine(self, **options: Any) -> Spine:
        return Spine(self.journal(), service=options.pop("service", SHOP), **options)


class HandClock(SystemClock):
    """Wall time moves when told to; durations are real."""

    def __init__(self, us: int = 1_700_000_000_000_000) -> None:
        self.random = random.Random(7)
        self.us = us

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def entropy(self, size: int) -> bytes:
        return self.random.randbytes(size)

    @property
    def now(self) -> datetime:
        from datetime import UTC

        return datetime.fromtimestamp(self.us / 1e6, UTC)


class Together:
    """How many are inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    def __enter__(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        self.inside -= 1


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait for a condition (a plain function or a coroutine function) and give back what it said."""
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_S:g} s in vain {what}") from None


async def turns(count: int = 50) -> None:
    """Let whatever could happen now happen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def rows(spine: Spine, *states: State) -> list[Delivery]:
    return await spine.journal.deliveries(states=states or None)


async def dead(spine: Spine, count: int = 1) -> list[Delivery]:
    """Wait until that many have died."""

    async def found() -> list[Delivery] | None:
        some = await rows(spine, "dead")
        return some if len(some) >= count else None

    some: list[Delivery] = await until(found, f"for {count} dead")
    return some


async def parked(spine: Spine, count: int = 1) -> list[Delivery]:
    async def found() -> list[Delivery] | None:
        some = await rows(spine, "parked")
        return some if len(some) >= count else None

    some: list[Delivery] = await until(found, f"for {count} parked")
    return some


def host(spine: Spine, service: str | None = None) -> Host:
    """The host of a service that runs here; of the only one unless named."""
    hosts = [one for runtime in spine._runtimes for one in runtime.hosts]
    return next(one for one in hosts if service in (None, one.service.name))


def subscription(spine: Spine, name: str | None = None) -> Subscription:
    return next(one for one in host(spine).subscriptions if name in (None, one.handler.name))


async def finished_upto(spine: Spine, name: str) -> int:
    """The lowest cursor of a subscription, by its full name."""
    (stored,) = [row for row in await spine.journal.subscriptions() if row.name == name]
    return min(cursor.position for cursor in await spine.journal.cursors([stored.number]))


async def abandon(spine: Spine) -> None:
    """What SIGKILL leaves behind: tasks end where they stand, nothing is given back, nothing more is stored."""
    for runtime in list(spine._runtimes):
        runtime.hosts, hosts = [], runtime.hosts
        for task in runtime._tasks:
            task.cancel()
        runtime._tasks.clear()
        await runtime.committer.stop()
        for one in hosts:
            one.halt()
            if one._keeper is not None:
                one._keeper.cancel()
            await one.readers.stop()
            for each in one.subscriptions:
                await each.workers.stop()
        runtime.committer._busy = False
        runtime.committer._plain.clear()
        runtime.committer._units.clear()
