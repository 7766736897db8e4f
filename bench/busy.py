"""Four processes that write to one file without a pause: how long each waits for its commit, and whether all get on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventspine import Spine

from . import raw
from .children import EVENTS_PER_COMMIT
from .figures import Figure, milliseconds, quantile
from .material import storefront
from .places import folder
from .processes import children
from .sizes import Sizes

PROCESSES = 4


async def measure(sizes: Sizes) -> list[Figure]:
    with folder() as where:
        async with Spine(f"sqlite:///{where}/ours.db", service=storefront):
            pass  # the tables are made
        raw.SameColumns(where / "raw.db").connection.close()
        # Halves, in turns: a noisy minute falls on both.
        ours, twin = [], []
        for _ in range(2):
            ours.append(await _run("busy", where / "ours.db", sizes.busy_s / 2))
            twin.append(await _run("raw_busy", where / "raw.db", sizes.busy_s / 2))
    mine, its = _merged(ours), _merged(twin)
    return [
        Figure(
            f"{PROCESSES} busy processes on one file, {EVENTS_PER_COMMIT} events per commit",
            f"commit wait {_waits(mine)}; least/most commits of a process {_share(mine):.2f}",
            "p99 < 50 ms, none starved",
            "",
            [f"sqlite3 with its busy timeout: commit wait {_waits(its)}; least/most {_share(its):.2f}"],
            {"commits": [len(some) for some in mine], "by_hand": [len(some) for some in its]},
        )
    ]


async def _run(role: str, path: Path, seconds: float) -> list[list[float]]:
    arguments: list[tuple[Any, ...]] = [(path, seed, seconds) for seed in range(PROCESSES)]
    async with children(role, arguments) as processes:
        for process in processes:
            await process.tell()
        return [(await process.result())["waits"] for process in processes]


def _merged(runs: list[list[list[float]]]) -> list[list[float]]:
    return [[wait for part in parts for wait in part] for parts in zip(*runs, strict=True)]


def _share(waits: list[list[float]]) -> float:
    return min(map(len, waits)) / max(map(len, waits))


def _waits(waits: list[list[float]]) -> str:
    every = [wait for some in waits for wait in some]
    return (
        f"p50 {milliseconds(quantile(every, 0.5))}, p99 {milliseconds(quantile(every, 0.99))}, "
        f"longest {milliseconds(max(every))}"
    )
