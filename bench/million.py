"""A backlog of a million, four services in four processes, and a `spine tail` beside them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .figures import Figure, per_second
from .material import backlog
from .places import folder
from .processes import children
from .sizes import Sizes

READERS = 4
KEYS = 1_000
MB = 1e6


async def measure(sizes: Sizes) -> list[Figure]:
    with folder() as where:
        path = where / "journal.db"
        began = time.monotonic()
        await backlog(f"sqlite:///{path}", sizes.million, KEYS)
        written = sizes.million / (time.monotonic() - began)
        watch = Watch(path)
        with (where / "tail").open("wb") as out:
            tail = subprocess.Popen(
                [sys.executable, "-m", "eventspine.cli", "tail", "--from", "earliest", "--json", "--journal",
                 f"sqlite:///{path}"], stdout=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                results = await _read(path, sizes.million, watch, tail.pid)
                shown = await _shown(where / "tail", sizes.million)
            finally:
                tail.terminate()
                tail.wait()
    return [_figure(sizes.million, results, watch, written, shown)]


class Watch:
    """Looks at the WAL and at the tail's memory, now and then."""

    def __init__(self, journal: Path) -> None:
        self.wal = Path(f"{journal}-wal")
        self.wal_bytes_max = 0
        self.tail_bytes_max = 0

    async def look(self, tail: int) -> None:
        while True:
            if self.wal.exists():
                self.wal_bytes_max = max(self.wal_bytes_max, self.wal.stat().st_size)
            self.tail_bytes_max = max(self.tail_bytes_max, _memory_peak(tail))
            await asyncio.sleep(0.05)


async def _read(path: Path, count: int, watch: Watch, tail: int) -> list[dict[str, Any]]:
    looking = asyncio.create_task(watch.look(tail))
    try:
        async with children("reader", [(path, f"reader-{n}", count) for n in range(READERS)]) as readers:
            for reader in readers:
                await reader.tell()
            return [await reader.result() for reader in readers]
    finally:
        looking.cancel()


async def _shown(path: Path, count: int) -> int:
    """How many lines the tail has printed, after it had time to finish."""
    for _ in range(600):
        with path.open("rb") as lines:
            found = sum(1 for _ in lines)
        if found >= count:
            break
        await asyncio.sleep(0.2)
    return found


def _figure(count: int, results: list[dict[str, Any]], watch: Watch, written: float, shown: int) -> Figure:
    flat = [_flatness(result["times"]) for result in results]
    began = min(result["began"] for result in results)
    seconds = max(result["times"][-1] for result in results) - began
    memory = max(result["memory"] for result in results)
    work = [_flatness(result["work"]) for result in results]
    together = _flatness_together([result["times"] for result in results])
    return Figure(
        f"backlog of {count:,} events, {READERS} processes of {READERS} services, and a tail",
        f"last tenth {together:.2f}× the first (each: {', '.join(f'{one:.2f}' for one in flat)}); "
        f"memory {memory / MB:.0f} MB, of the tail {watch.tail_bytes_max / MB:.0f} MB; WAL {watch.wal_bytes_max / MB:.0f} MB",
        "last tenth ≥ 0.8× the first, memory < 200 MB, WAL < 128 MB",
        "",
        [
            f"all readers together: {per_second(len(results) * count / seconds)}",
            f"tenth by tenth: {', '.join(f'{rate / 1000:.0f}k' for rate in _tenths(results, count))}",
            f"by processor time instead of the clock: {', '.join(f'{one:.2f}×' for one in work)}",
            f"written in commits of 1,000: {per_second(written)}; the tail printed {shown:,} events",
        ],
        {"times": [result["times"] for result in results], "memory": [result["memory"] for result in results]},
    )


def _tenths(results: list[dict[str, Any]], count: int) -> list[float]:
    """How fast all readers together handled each tenth of the whole."""
    done = sorted(at for result in results for at in result["times"])
    step = len(done) // 10
    return [
        len(results) * count / 10 / (done[min(start + step, len(done) - 1)] - done[start])
        for start in range(0, step * 10, step)
    ]


def _flatness(times: list[float]) -> float:
    """The rate of the last tenth over that of the first."""
    tenth = len(times) // 10
    return (times[tenth] - times[0]) / (times[-1] - times[-1 - tenth])


def _flatness_together(every: list[list[float]]) -> float:
    """The same of the sum of all readers: of all hundredths, whoever did them, in order of time."""
    begun = max(times[0] for times in every)
    return _flatness(sorted(at for times in every for at in times if at >= begun))


def _memory_peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
