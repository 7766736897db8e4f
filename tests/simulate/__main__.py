"""`make sim`: our own shop, through as many histories as asked for, or for as long. SEED, HISTORIES and MINUTES say which."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from eventspine.testing.simulate import Simulated, SimulationFailed, simulate
from tests.simulate.chains import bursts, bursts_beside_an_operator, mix, written_once
from tests.simulate.kinds import (
    letters,
    letters_are_counted_once,
    letters_beside_an_operator,
    office,
    reminders_come_once,
)
from tests.simulate.shop import books, each_order_takes_stock_once, orders, stock

EVERY = 100


class Kind(NamedTuple):
    what: str
    services: tuple[Any, ...]
    drive: Any
    invariants: list[Any]
    each: int  # so many times as long as one of the shop's is one of its histories
    broker: Any = None


KINDS = [
    Kind("shop", (stock, books), orders, [each_order_takes_stock_once], 1),
    Kind("kinds", (office,), letters, [letters_are_counted_once, reminders_come_once], 10),
    Kind("kinds, operated", (office,), letters_beside_an_operator, [letters_are_counted_once, reminders_come_once], 10),
    Kind("chains", (mix,), bursts, [written_once], 10),
    Kind("chains, operated", (mix,), bursts_beside_an_operator, [written_once], 10),
    Kind("shop with a broker", (stock, books), orders, [each_order_takes_stock_once], 10, "queue"),
]


def told(what: str) -> Any:
    def tell(done: Simulated) -> None:
        if done.histories % EVERY == 0:
            print(f"{what}: {done!r}", flush=True)

    return tell


def rounds(minutes: float, histories: int, seed: int) -> Iterator[tuple[int, int]]:
    """How many histories, and from which seed: once, or a hundred at a time until the time is over."""
    if not minutes:
        yield histories, seed
        return
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        yield EVERY, seed
        seed += EVERY


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of the first; any, if not given")
    parser.add_argument("--histories", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=0.0, help="as many histories as that takes")
    given = parser.parse_args()
    how_many = f"MINUTES={given.minutes:g}" if given.minutes else f"HISTORIES={given.histories}"
    print(f"seed {given.seed}; the same again: make sim SEED={given.seed} {how_many}", flush=True)
    try:
        for histories, seed in rounds(given.minutes, given.histories, given.seed):
            for kind in KINDS:
                done = simulate(
                    *kind.services,
                    drive=kind.drive,
                    invariants=kind.invariants,
                    histories=max(1, histories // kind.each),
                    seed=seed,
                    broker=kind.broker,
                    progress=told(kind.what),
                )
                print(f"{kind.what}: {done!r}, all promises held", flush=True)
    except SimulationFailed as failed:
        print(f"{failed}\nOr: make sim SEED={failed.history.seed} HISTORIES=1")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
