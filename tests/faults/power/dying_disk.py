"""A process that is gone after a sync has failed: `python -m tests.faults.power.dying_disk FOLDER FIRST [FAILS]`.

It publishes a few events, the last of which meets a sync that FAILS, and ends without closing anything."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from pathlib import Path

from eventspine import Spine
from eventspine.errors import SpineError
from tests.faults.power import child
from tests.faults.power.broken_disk import LOG_SYNC

EVENTS = 8


async def main(folder: Path, first: int, *, fails: bool) -> None:
    acks = os.open(folder / "spine.db.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if fails:
        async with Spine(f"sqlite:///{folder}/spine.db") as spine, spine.running(child.desk):
            """Registered, with its table."""
    spine = await Spine(f"sqlite:///{folder}/spine.db", service=child.counter).open()
    for number in range(first, first + EVENTS):
        if fails and number == first + EVENTS - 1:
            ctypes.CDLL(None).disk_errors(LOG_SYNC, 0, 1_000_000)
        try:
            await spine.publish(child.Counted(key="k", number=number))
        except SpineError as error:
            print(type(error).__name__, flush=True)
        else:
            os.write(acks, b"%9d\n" % number)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), fails="FAILS" in sys.argv))
