"""A process whose disk fails once to sync the database itself: `python -m tests.faults.power.copying_disk FOLDER [WHOLE]`.

SQLite has copied a part of the log into it before, as much as a reader let it, and without a sync, since the log goes on.
Where it had copied the WHOLE of it there was no such part."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from eventspine import Spine
from tests.faults.power import child
from tests.faults.power.broken_disk import SYNC


async def main(folder: Path, *, whole: bool) -> None:
    acks = os.open(folder / "spine.db.acks", os.O_WRONLY | os.O_CREAT)
    disk, numbers = ctypes.CDLL(None), count()
    async with Spine(f"sqlite:///{folder}/spine.db") as spine, spine.running(child.desk):
        """Registered, with its table."""
    spine = await Spine(f"sqlite:///{folder}/spine.db", service=child.counter).open()

    async def publish() -> None:
        number = next(numbers)
        await spine.publish(child.Counted(key="k", number=number))
        os.write(acks, b"%9d\n" % number)

    await _times(5, publish)
    reader = sqlite3.connect(folder / "spine.db", isolation_level=None)
    if not whole:
        reader.execute("begin")
        reader.execute("select count(*) from spine_events").fetchone()
    await _times(child.PAGES_PER_CHECKPOINT, publish)
    reader.close()
    disk.disk_errors(SYNC, 0, 1)
    while not disk.errors_met():
        await publish()
    await _times(2 * child.PAGES_PER_CHECKPOINT, publish)
    os._exit(0)


async def _times(number: int, do: Callable[[], Awaitable[None]]) -> None:
    for _ in range(number):
        await do()


if __name__ == "__main__":
    child.with_settings(f"wal_autocheckpoint={child.PAGES_PER_CHECKPOINT}")
    asyncio.run(main(Path(sys.argv[1]), whole="WHOLE" in sys.argv))
