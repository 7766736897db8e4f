"""A process at a site: `python -m eventspine.testing.conformance.brokers.child OPENER ADDRESS ...`, until it is killed.

`listen FILE AT SIGNAL`: each event that it begins to handle is a line in FILE, which several may share. The first time that it
handles the number AT it sends itself SIGNAL inside the handler, after its effects outside and before anything is committed;
0: never.

`speak`: it publishes one event after the other, and prints the number of each that publish has answered for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

from ....delivery import Delivery
from ....service import Service
from ....spine import Spine
from .material import SOON, Said, effect, speaker


def listening(file: str, at: int, sends: signal.Signals) -> Service[None]:
    service: Service[None] = Service("listener", publishes="hearing")

    @service.on(Said, retry=SOON)
    async def hear(event: Said, delivery: Delivery) -> None:
        line = f"{os.getpid()} {event.who} {event.number} {delivery.attempt} {delivery.idempotency_key}\n"
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        effect(delivery, event, 1_000_000 + event.number)
        if at and event.number == at:
            os.kill(os.getpid(), sends)
        effect(delivery, event)

    return service


async def listen(spine: Spine, service: Service[None]) -> None:
    async with spine, spine.running(service):
        print("ready", flush=True)  # noqa: T201 -- that is how it says so
        await asyncio.to_thread(sys.stdin.read)


async def speak(spine: Spine) -> None:
    async with spine:
        for number in count(1):
            await spine.publish(Said(who=f"key {number % 3}", number=number))
            print(number, flush=True)  # noqa: T201 -- that is how it says so


async def main(opener: str, address: str, role: str, *given: str) -> None:
    module, _, name = opener.partition(":")
    spine_at: Callable[[str, Service[Any]], Spine] = getattr(import_module(module), name)
    if role == "speak":
        await speak(spine_at(address, speaker()))
    else:
        file, at, sends = given
        service = listening(file, int(at), signal.Signals[sends])
        await listen(spine_at(address, service), service)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
