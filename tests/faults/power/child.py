"""A process that publishes, handles and says what it was promised: `python -m tests.faults.power.child FOLDER EVENTS [FIRST] [NORMAL]`.

The number of each acknowledged event is written to `spine.db.acks`, after the acknowledgement and on the same recorded
disk, so that the record tells which promises had been given at any moment."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from eventspine import Delivery, Event, Service, Spine
from eventspine.journal import _sqlite_file

PAGES_PER_CHECKPOINT = 40  # instead of a thousand: so that power fails in the middle of many checkpoints too
GROUPS = (1, 3, 7, 2, 12)


class Counted(Event, context="counts", key="key"):
    key: str
    number: int
    padding: str = "x" * 700


def tables(connection):
    connection.execute("create table desk_counted (number integer not null)")


counter = Service("counter", publishes="counts")
desk = Service("desk", tables=tables)


@desk.on(Counted)
async def count(event: Counted, delivery: Delivery) -> None:
    delivery.execute("insert into desk_counted values (:number)", number=event.number)


def with_settings(*settings: str) -> None:
    connect = _sqlite_file.connect

    def changed(*args, **kwargs):
        connection = connect(*args, **kwargs)
        if not kwargs.get("readonly"):
            for setting in settings:
                connection.execute(f"/*spine*/ pragma {setting}").close()
        return connection

    _sqlite_file.connect = changed


async def main(folder: Path, events: int, first: int) -> None:
    acks = os.open(folder / "spine.db.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with Spine(f"sqlite:///{folder}/spine.db", service=counter) as spine, spine.running(desk):

        async def one(number: int) -> None:
            await spine.publish(Counted(key=f"k{number % 5}", number=number))
            os.write(acks, b"%9d\n" % number)

        number, turn = first, 0
        while number < first + events:
            group = range(number, number + GROUPS[turn % len(GROUPS)])
            await asyncio.gather(*map(one, group))
            number, turn = group.stop, turn + 1


if __name__ == "__main__":
    with_settings(
        f"wal_autocheckpoint={PAGES_PER_CHECKPOINT}", *(["synchronous=normal"] if "NORMAL" in sys.argv else [])
    )
    asyncio.run(
        main(Path(sys.argv[1]), int(sys.argv[2]), next((int(word) for word in sys.argv[3:] if word.isdigit()), 0))
    )
