"""What is deployed in these tests: a desk that writes down what the till says, as its releases declare it.

Every handler leaves the traces of tests/faults: a row in `effects`, in its unit, and lines in a file, outside of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from eventspine import Delivery, Event, Service
from tests.faults.services import (
    FOLDER,
    POSTGRES,
    SOON,
    Carved,
    Counted,
    Refunded,
    effect,
    misbehave,
    note,
    readers,
    tables,
    there,
    till,
)

__all__ = ["POSTGRES", "Carved", "CarvedBefore", "Counted", "Refunded", "desk", "keeper", "readers", "slow", "till"]


class CarvedBefore(Event, context="till", key="key", type="till.Carved", version=1):
    """As it was published before its version 2."""

    key: str
    number: int


async def write(event: Counted | Refunded, delivery: Delivery) -> None:
    note("start", event, delivery)
    await misbehave(getattr(event, "do", ""), event.key)
    effect(event, delivery)
    note("end", event, delivery)


def desk(release: int) -> Service[Any]:
    service: Service[Any] = Service("desk", tables=tables)
    match release:
        case 1:
            service.on(Counted, name="write")(write)
        case 2:  # handlers are added
            service.on(Counted, name="write")(write)
            service.on(Counted, name="count")(write)
            service.on(Counted, name="archive", start="earliest")(write)
        case 3:  # a handler is renamed
            service.on(Counted, name="compose", renamed_from="write")(write)
        case 4:  # and its filter is widened
            service.on(Counted, Refunded, name="write")(write)
        case 5:  # renamed, and nobody says so
            service.on(Counted, name="compose")(write)
    return service


def keeper(release: int) -> Service[Any]:
    """Its keys wait for a dead event. Release 2 differs in a handler that has nothing to do with it."""
    service: Service[Any] = Service("keeper", tables=tables)
    service.on(Counted, name="keep", retry=SOON, on_dead="waits")(write)
    if release > 1:
        service.on(Refunded, name="other")(write)
    return service


@asynccontextmanager
async def until_told() -> AsyncIterator[None]:
    """What a service needs before it can work: a model to load, a pool to fill."""
    with (FOLDER / "loading").open("a") as told:
        told.write(f"{os.getpid()}\n")
    while not there("loaded"):
        await asyncio.sleep(0.01)
    yield


def slow(release: int) -> Service[Any]:
    """Release 2 wants more, and takes its time to start."""
    service: Service[Any] = Service("desk", tables=tables, lifespan=until_told if release > 1 else None)
    service.on(*[Counted, Refunded][:release], name="write")(write)
    return service
