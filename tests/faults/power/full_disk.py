"""A process whose disk is full from the nth write on, for every n: `python -m tests.faults.power.full_disk FOLDER TIMES`.

Prints as JSON what was accepted, what was refused and with which error, and how many writes the disk refused."""

from __future__ import annotations

import asyncio
import ctypes
import json
import sys
from pathlib import Path

from eventspine import Spine
from eventspine.errors import SpineError
from tests.faults.power import child

PLENTY = 10_000  # numbers of events that are published while there is space


async def main(folder: Path, times: int) -> None:
    disk = ctypes.CDLL(None)  # the recorder, loaded before everything else
    accepted, refused = list[int](), dict[int, str]()
    async with Spine(f"sqlite:///{folder}/spine.db", service=child.counter) as spine, spine.running(child.desk):

        async def publish(number: int) -> None:
            try:
                await spine.publish(child.Counted(key=f"k{number % 5}", number=number))
                accepted.append(number)
            except SpineError as error:
                refused[number] = type(error).__name__

        for writes in range(times):
            disk.disk_full_after(writes)
            await asyncio.gather(publish(writes * 2), publish(writes * 2 + 1))
            disk.disk_full_after(-1)
            await publish(PLENTY + writes)
        async with asyncio.timeout(60):
            while await _handled(spine) < await _stored(spine):
                await asyncio.sleep(0.02)
    print(json.dumps({"accepted": accepted, "refused": refused, "writes_refused": disk.writes_refused()}))


async def _handled(spine: Spine) -> int:
    (row,) = await spine.journal.query("select count(*) as handled from desk_counted", {})
    return int(row["handled"])


async def _stored(spine: Spine) -> int:
    return len((await spine.journal.feed(0, limit=100_000)).records)


if __name__ == "__main__":
    child.with_settings(f"wal_autocheckpoint={child.PAGES_PER_CHECKPOINT}")
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
