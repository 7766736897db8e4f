"""`make sim`: our own shop, through as many histories as asked for. SEED and HISTORIES say which."""

from __future__ import annotations

import argparse
import sys

from eventspine.testing.simulate import Simulated, SimulationFailed, simulate
from tests.simulate.kinds import letters, letters_are_counted_once, office, reminders_come_once
from tests.simulate.shop import books, each_order_takes_stock_once, orders, stock

EVERY = 100


def told(what: str):
    def tell(done: Simulated) -> None:
        if done.histories % EVERY == 0:
            print(f"{what}: {done!r}", flush=True)

    return tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the first history; any, if not given")
    parser.add_argument("--histories", type=int, default=300)
    given = parser.parse_args()
    few = max(1, given.histories // 10)  # of those whose histories are ten times as long
    try:
        for what, services, drive, invariants, histories, broker in (
            ("shop", (stock, books), orders, [each_order_takes_stock_once], given.histories, None),
            ("kinds", (office,), letters, [letters_are_counted_once, reminders_come_once], few, None),
            ("shop with a broker", (stock, books), orders, [each_order_takes_stock_once], few, "queue"),
        ):
            done = simulate(
                *services,
                drive=drive,
                invariants=invariants,
                histories=histories,
                seed=given.seed,
                broker=broker,
                progress=told(what),
            )
            print(f"{what}: {done!r}, all promises held", flush=True)
    except SimulationFailed as failed:
        print(f"{failed}\nOr: make sim SEED={failed.history.seed} HISTORIES=1")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
