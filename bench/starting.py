"""Whole processes: how long an import takes, and the help of the command line.

Byte code is kept between the runs, as it is wherever a package is installed, whatever this environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from .figures import Figure, milliseconds
from .places import folder
from .sizes import Sizes

COMMANDS = {
    "nothing": ["-c", "pass"],
    "import": ["-c", "import eventspine"],
    "help": ["-m", "eventspine.cli", "--help"],
    "parts": ["-c", "import asyncio, sqlite3, msgspec"],
}


async def measure(sizes: Sizes) -> list[Figure]:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    work: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with folder() as cache:
        for _ in range(sizes.starts + 1):
            for name, arguments in COMMANDS.items():
                used = _processor_time()
                times[name].append(_time(arguments, cache))
                work[name].append(_processor_time() - used)
    took = {name: median(some[1:]) for name, some in times.items()}  # the first one compiles
    busy = {name: milliseconds(median(some[1:])) for name, some in work.items()}
    beside = [
        f"python -c pass: {milliseconds(took['nothing'])}",
        f"import asyncio, sqlite3, msgspec: {milliseconds(took['parts'])}",
    ]
    return [
        Figure(
            "python -c 'import eventspine', whole process",
            milliseconds(took["import"]),
            "< 100 ms",
            "",
            [*beside, f"of processor time: {busy['import']}, without eventspine {busy['parts']}"],
            times,
        ),
        Figure(
            "spine --help, whole process",
            milliseconds(took["help"]),
            "< 300 ms",
            "",
            [beside[0], f"of processor time: {busy['help']}"],
            {},
        ),
    ]


def _time(arguments: list[str], cache: Path) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    began = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return perf_counter() - began


def _processor_time() -> float:
    """Of all children so far."""
    used = os.times()
    return used.children_user + used.children_system
