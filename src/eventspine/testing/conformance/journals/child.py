"""A process of its own on a store: `python -m eventspine.testing.conformance.journals.child OPENER URL`.

It carries out what each line of its standard input says, and answers with a line. Some commands never end: they tell what has
been acknowledged, until the process is killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import import_module
from typing import Any

from ....journal.port import Append, Done, Fence, Journal, Unit
from .material import START_US, Bell, commit, event, parked, process, publish_to, reload_number

PER_UNIT = 3  # events, so that half of a unit would be seen


def opened_by(opener: str, url: str) -> Journal:
    module, _, name = opener.partition(":")
    journal: Journal = getattr(import_module(module), name)(url)
    return journal


class Child:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def publish(self, count: int) -> int:
        done = 0
        for _ in range(count):
            done += (await commit(self.journal, Unit([Append([event(id=os.urandom(16))])]))).ok
        return done

    async def publish_for_ever(self) -> None:
        """Units of several events; a line for each that is acknowledged."""
        number = 0
        while True:
            name = f"{os.getpid()} {number}"
            records = [event(id=os.urandom(16), correlation=name) for _ in range(PER_UNIT)]
            if (await commit(self.journal, Unit([Append(records)]))).ok:
                number += 1
                tell(name)

    async def finish_for_ever(self, number: int) -> None:
        """As an owner does: each unit finishes one position, publishes, and parks; from where the cursor is."""
        mine = await reload_number(self.journal, number)
        [at] = [row.position for row in await self.journal.cursors([number]) if row.partition == 5]
        while True:
            done = Done(number, 5, [(at, at + 1)], mine.generation)
            put = parked(mine, event(id=os.urandom(16), position=at + 1))
            unit = Unit([Append([event(id=os.urandom(16))])], done=[done], puts=[put])
            assert "done" == (await commit(self.journal, unit)).kind
            at += 1
            tell(at)

    async def race(self, wins: int) -> list[int]:
        """Append to one stream until it has won so often; the versions that it made."""
        won: list[int] = []
        while len(won) < wins:
            version = await self.journal.stream_version("orders", "o-1")
            verdict = await publish_to(self.journal, "o-1", event(id=os.urandom(16)), expected=version)
            won += verdict.versions if verdict.ok else []
        return won

    async def lease(self, name: str) -> int:
        """As one that lives from the suite's beginning of time, for one second."""
        view = await self.journal.lease(process(f"{os.getpid()}"), [name], [], START_US, START_US + 1_000_000)
        return view.held[name].epoch if name in view.held else 0

    async def fenced(self, name: str, epoch: int) -> str:
        return (await commit(self.journal, Unit([Append([event(id=os.urandom(16))])], [Fence(name, epoch)]))).kind

    async def fire(self, now_us: int) -> int:
        fired = 0
        while more := await self.journal.fire(now_us, 3):
            fired += more
        return fired

    async def watch(self) -> bool:
        """Answers when it begins to watch, and once more when it has heard a ring after that."""
        self.bell = Bell(self.journal)
        self.head = await self.journal.head()
        return True

    async def heard(self) -> int:
        while (head := await self.journal.head()) == self.head:
            await self.bell.rings()
        self.bell.stop()
        return head


def tell(answer: Any) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201 -- that is how it answers


async def main(opener: str, url: str) -> None:
    journal = opened_by(opener, url)
    await journal.open()
    child = Child(journal)
    tell("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, *arguments = json.loads(line)
        tell(await getattr(child, name)(*arguments))
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
