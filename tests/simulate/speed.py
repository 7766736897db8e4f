"""How many histories a second: `python -m tests.simulate.speed`. A service with one handler, one process, twelve deliveries,
one crash; processor time of one core, the best of five rounds."""

from __future__ import annotations

from dataclasses import replace

from eventspine import Event, Service
from eventspine.testing.simulate import Faults, World, simulate

HISTORIES = 300


class Placed(Event, context="small", key="customer"):
    customer: str


small = Service("small")


@small.on(Placed)
async def take(event: Placed) -> None: ...


async def a_dozen(world: World) -> None:
    for number in range(12):
        await world.publish(Placed(customer=f"c{number % 3}"))


ONE_CRASH = replace(Faults.none(), crashes=1)


def rate(first: int = 0) -> float:
    return simulate(small, drive=a_dozen, processes=1, faults=ONE_CRASH, seed=first, histories=HISTORIES).rate


if __name__ == "__main__":
    rate()
    print(f"{max(rate() for _ in range(5)):.0f} histories/s")
