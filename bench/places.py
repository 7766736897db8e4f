"""Where it is measured: folders on a real disk, and the machine."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

IN_MEMORY = ("tmpfs", "ramfs")
PACKAGES = ("eventspine", "msgspec", "faststream", "eventsourcing", "nats-py", "pydantic")


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own, removed afterwards. BENCH_DIR says where; else a usual place that is no memory disk."""
    path = Path(tempfile.mkdtemp(prefix="eventspine-bench-", dir=_root()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _root() -> Path:
    if given := os.environ.get("BENCH_DIR"):
        return Path(given)
    usual = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    return next((place for place in usual if file_system(place)[0] not in IN_MEMORY), usual[-1])


def file_system(path: Path) -> tuple[str, str]:
    """Its kind and the device behind it, as far as the system says."""
    found = ("unknown", "unknown")
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return found
    longest = -1
    for line in mounts:
        device, point, kind = line.split()[:3]
        if path.resolve().is_relative_to(point) and len(point) >= longest:
            longest, found = len(point), (kind, device)
    return found


def machine() -> dict[str, str]:
    kind, device = file_system(_root())
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": sqlite3.sqlite_version,
        "file system": f"{kind} on {device}",
        "packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
