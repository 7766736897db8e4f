"""A process whose disk answers with an error at the nth read, write or sync of the log, for every n, once or for a while:
`python -m tests.faults.power.broken_disk FOLDER TIMES FIRST [IDLE]`. FIRST is its first event's number; where it is IDLE
nobody handles.

Prints as JSON what was accepted, what was refused and with which error, and how many errors there were."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import sys
from pathlib import Path

from eventspine import Spine
from eventspine.errors import SpineError
from tests.faults.power import child
from tests.faults.power.full_disk import _handled, _stored

READ, WRITE, LOG_SYNC, SYNC = 1, 2, 4, 8  # as recorder.c has them
KINDS = {"read": READ, "write": WRITE, "sync": LOG_SYNC}
FOR_A_WHILE = 5  # operations one after another


async def main(folder: Path, times: int, number: int, *, idle: bool) -> None:
    disk = ctypes.CDLL(None)  # the recorder, loaded before everything else
    acks = os.open(folder / "spine.db.acks", os.O_WRONLY | os.O_CREAT)
    accepted, refused, met = list[int](), dict[int, str](), dict[str, int]()
    async with Spine(f"sqlite:///{folder}/spine.db") as spine, spine.running(child.desk):
        """Registered, with its table."""
    async with contextlib.AsyncExitStack() as stack:
        spine = await stack.enter_async_context(Spine(f"sqlite:///{folder}/spine.db", service=child.counter))
        if not idle:
            await stack.enter_async_context(spine.running(child.desk))

        async def publish(number: int) -> None:
            try:
                await spine.publish(child.Counted(key=f"k{number % 5}", number=number))
            except SpineError as error:
                refused[number] = type(error).__name__
            else:
                accepted.append(number)
                os.write(acks, b"%9d\n" % number)

        for name, kind in KINDS.items():
            before = disk.errors_met()
            for after in range(times):
                for errors in (1, FOR_A_WHILE):
                    upto = disk.errors_met() + errors
                    disk.disk_errors(kind, after, errors)
                    while disk.errors_met() < upto:
                        await asyncio.gather(publish(number), publish(number + 1))
                        number += 2
                    await publish(number)
                    number += 1
            met[name] = disk.errors_met() - before
        async with asyncio.timeout(60):
            while not idle and await _handled(spine) < await _stored(spine):
                await asyncio.sleep(0.02)
    print(json.dumps({"accepted": accepted, "refused": refused, "met": met}))


if __name__ == "__main__":
    child.with_settings(f"wal_autocheckpoint={child.PAGES_PER_CHECKPOINT}", "cache_size=1")
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), idle="IDLE" in sys.argv))
