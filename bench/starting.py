"""Whole processes: how long an import takes, and the help of the command line."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from .figures import Figure, milliseconds
from .sizes import Sizes

COMMANDS = {
    "nothing": ["-c", "pass"],
    "import": ["-c", "import eventspine"],
    "help": ["-m", "eventspine.cli", "--help"],
    "parts": ["-c", "import asyncio, sqlite3, msgspec"],
}


async def measure(sizes: Sizes) -> list[Figure]:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(sizes.starts + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(_time(arguments))
    took = {name: median(some[1:]) for name, some in times.items()}  # the first one warms the disk's cache
    beside = [
        f"python -c pass: {milliseconds(took['nothing'])}",
        f"import asyncio, sqlite3, msgspec: {milliseconds(took['parts'])}",
    ]
    return [
        Figure(
            "python -c 'import eventspine', whole process", milliseconds(took["import"]), "< 100 ms", "", beside, times
        ),
        Figure("spine --help, whole process", milliseconds(took["help"]), "< 300 ms", "", beside[:1], {}),
    ]


def _time(arguments: list[str]) -> float:
    began = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - began
