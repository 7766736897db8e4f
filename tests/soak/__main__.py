"""`make soak MINUTES=10 SEED=17`: prints its report, and ends with 1 if anything is wrong."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.harness import Place
from tests.soak.soak import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--without", nargs="*", default=[], help="safeguards, as in tests.faults.child")
    parser.add_argument(
        "--only", nargs="*", default=[], help="of what can happen: the names of deeds in tests.soak.crowd"
    )
    parser.add_argument("--keep", type=Path, help="an empty folder in which everything is left for a look")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and leave no process behind
    seed = secrets.randbelow(1_000_000) if asked.seed is None else asked.seed
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        place = Place(asked.keep or Path(folder))
        place.folder.mkdir(exist_ok=True)
        outcome = soak(place, seed, asked.minutes * 60, tuple(asked.without), tuple(asked.only))
    print(outcome.report())
    return bool(outcome.wrong)


if __name__ == "__main__":
    sys.exit(main())
