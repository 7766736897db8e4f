"""`python -m bench [name …] [--quick] [--json FILE] [--write PAGE]`: see the package's docstring."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from eventspine.cli.serving import collect_less

from . import backlog, both, busy, carried, growth, lanes, latency, many, million, publishing, starting, state
from .figures import Figure
from .page import Section, text, write_json, write_page
from .sizes import QUICK, Sizes
from .twins import HAVE_TWINS

Measure = Callable[[Sizes], Awaitable[list[Figure]]]

MEASUREMENTS: dict[str, Measure] = {
    "publish": publishing.batches,
    "concurrent": publishing.concurrent,
    "backlog": backlog.measure,
    "both": both.measure,
    "lanes": lanes.measure,
    "latency": latency.on_sqlite,
    "latency-postgres": latency.on_postgres,
    "busy": busy.measure,
    "million": million.measure,
    "growth": growth.on_sqlite,
    "growth-postgres": growth.on_postgres,
    "starting": starting.measure,
    "state": state.on_sqlite,
    "state-postgres": state.on_postgres,
    "many-postgres": many.measure,
}

ON_REQUEST = ("growth", "growth-postgres", "long")  # some ten minutes each


def main() -> None:
    options = _options()
    collect_less()  # as `spine run` does; every leg of every comparison runs with it
    sizes = QUICK if options.quick else Sizes()
    if options.million:
        sizes = replace(sizes, million=options.million)
    measurements = _measurements(options)
    sections: list[Section] = []
    for name in options.names or [name for name in measurements if name not in ON_REQUEST]:
        sections.append(asyncio.run(_measure(name, measurements[name], sizes, options.broker)))
        print(text(sections[-1]), end="\n\n", flush=True)
    run = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "arguments": _arguments(options)}
    if options.json:
        write_json(options.json, sections, run)
    if options.write:
        write_page(options.write, sections, run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Each figure beside its raw twin or a peer.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"{', '.join(MEASUREMENTS)}; with --broker {', '.join(carried.MEASUREMENTS)}",
    )
    parser.add_argument("--broker", choices=HAVE_TWINS, help="measure at this broker, whose server is started for it")
    parser.add_argument("--million", type=int, metavar="N", help="events of the long backlog, instead of a million")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, and roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, with every round, as JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page of results")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in _measurements(options)]:
        parser.error(f"there is no measurement {unknown[0]!r}; there are {', '.join(_measurements(options))}")
    return options


def _measurements(options: argparse.Namespace) -> dict[str, Measure]:
    if options.broker is None:
        return MEASUREMENTS
    return {name: partial(measure, options.broker) for name, measure in carried.MEASUREMENTS.items()}


def _arguments(options: argparse.Namespace) -> str:
    """What `make bench` is given for the same run."""
    given = [*options.names, *(["--quick"] if options.quick else [])]
    at = f" BROKER={options.broker}" if options.broker else ""
    return at + (f' BENCH="{" ".join(given)}"' if given else "")


async def _measure(name: str, measure: Measure, sizes: Sizes, broker: str | None) -> Section:
    began, before = time.perf_counter(), _load()
    try:
        figures = await measure(sizes)
    except Exception as error:
        # One that fails takes the others' figures with it if it isn't kept apart.
        print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
        figures = [Figure(name, f"failed: {type(error).__name__}: {error}")]
    return Section(
        f"--broker {broker} {name}" if broker else name, time.perf_counter() - began, (before, _load()), figures
    )


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
