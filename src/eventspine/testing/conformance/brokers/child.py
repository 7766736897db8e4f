"""A process that listens at a site: `python -m eventspine.testing.conformance.brokers.child OPENER ADDRESS FILE DIES_AT`.

Each event that it begins to handle is a line in FILE, which several may share. At the number DIES_AT it kills itself inside the
handler, after its effects outside and before anything is committed; 0: never."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from importlib import import_module

from ....delivery import Delivery
from ....service import Service
from ....spine import Spine
from .material import SOON, Heard, Said


def listening(file: str, dies_at: int) -> Service[None]:
    service: Service[None] = Service("listener", publishes="hearing")

    @service.on(Said, retry=SOON)
    async def hear(event: Said, delivery: Delivery) -> Heard:
        line = f"{os.getpid()} {event.who} {event.number} {delivery.attempt} {delivery.idempotency_key}\n"
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        delivery.publish(Heard(who=event.who, number=1000 + event.number))
        if dies_at and event.number == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return Heard(who=event.who, number=event.number)

    return service


async def main(opener: str, address: str, file: str, dies_at: str) -> None:
    module, _, name = opener.partition(":")
    service = listening(file, int(dies_at))
    spine: Spine = getattr(import_module(module), name)(address, service)
    async with spine, spine.running(service):
        print("ready", flush=True)  # noqa: T201 -- that is how it says so
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
