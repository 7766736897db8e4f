"""Several processes on one store, and some of them killed with SIGKILL at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ....journal.cursors import Range
from ....journal.port import Journal, Subscription, Timer
from ..running import needs
from .child import PER_UNIT
from .material import (
    START_US,
    WAIT_S,
    Store,
    commit,
    cursor,
    event,
    one_subscription,
    process,
    publish,
    whole_feed,
)

KILLS = 4


class Spawned:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, *command: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        await self.process.stdin.drain()

    async def answer(self) -> Any:
        assert self.process.stdout
        line = await asyncio.wait_for(self.process.stdout.readline(), WAIT_S)
        assert line, "the process has ended; what it said stands above, on stderr"
        return json.loads(line)

    async def do(self, *command: Any) -> Any:
        await self.ask(*command)
        return await self.answer()

    async def kill(self) -> list[Any]:
        """At once; what it had still said before, a last line cut off left out."""
        assert self.process.stdout
        self.process.kill()
        rest = await self.process.stdout.read()
        await self.process.wait()
        return [json.loads(line) for line in rest.split(b"\n")[:-1]]


@asynccontextmanager
async def children(store: Store, journal: Journal, number: int) -> AsyncIterator[list[Spawned]]:
    started = [await spawn(store, journal) for _ in range(number)]
    try:
        yield started
    finally:
        for child in started:
            if child.process.returncode is None:
                await child.kill()


async def spawn(store: Store, journal: Journal) -> Spawned:
    spawned = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "eventspine.testing.conformance.journals.child",
        store.maker.opened_by,
        journal.url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    child = Spawned(spawned)
    assert "ready" == await child.answer()
    return child


class ManyProcesses:
    @needs("processes")
    async def test_expected_versions_hold_across_processes(self, journal: Journal, store: Store) -> None:
        async with children(store, journal, 3) as racing:
            won = await asyncio.gather(*(child.do("race", 20) for child in racing))
        assert list(range(1, 61)) == sorted(version for each in won for version in each)

    @needs("processes")
    async def test_a_commit_wakes_other_processes(self, journal: Journal, store: Store) -> None:
        async with children(store, journal, 2) as watching:
            for child in watching:
                await child.do("watch")
            await publish(journal, event())
            assert [1, 1] == [await child.do("heard") for child in watching]

    @needs("processes")
    async def test_a_timer_fires_once_whichever_process_fires_it(self, journal: Journal, store: Store) -> None:
        await commit(journal, timers=[Timer(START_US + n, event()) for n in range(60)])
        async with children(store, journal, 3) as firing:
            fired = await asyncio.gather(*(child.do("fire", START_US + 100) for child in firing))
        assert 60 == sum(fired) == await journal.head()

    @needs("processes")
    async def test_one_process_has_a_lease(self, journal: Journal, store: Store) -> None:
        async with children(store, journal, 3) as asking:
            epochs = await asyncio.gather(*(child.do("lease", "l") for child in asking))
        assert [0, 0, 1] == sorted(epochs)


async def settled(journal: Journal, mine: Subscription) -> tuple[int, list[Range]]:
    """The cursor, once it agrees with what was published and parked: what a process had sent to a server before it was killed
    may be committed there a moment later, and between two of our questions."""
    async with asyncio.timeout(WAIT_S):
        while True:
            at, beyond = await cursor(journal, mine)
            published = len(await whole_feed(journal))  # counted: a unit that was killed may have used up a position
            if at == published == len(await journal.deliveries(limit=100_000)):
                return at, beyond


class Killed:
    @needs("processes")
    async def test_what_was_acknowledged_before_a_kill_is_there_and_every_unit_is_whole(
        self, journal: Journal, store: Store
    ) -> None:
        acknowledged: list[str] = []
        for number in range(KILLS):
            async with children(store, journal, 1) as [child]:
                await child.ask("publish_for_ever")
                acknowledged += [await child.answer() for _ in range(3 + 7 * number)]
                acknowledged += await child.kill()
        units = Counter(record.correlation for record in await whole_feed(journal))
        assert set(acknowledged) <= set(units)
        assert {PER_UNIT} == set(units.values())
        assert len(units) - len(acknowledged) <= KILLS, "one that it could not tell of, each"

    @needs("processes")
    async def test_a_reader_beside_killed_writers_sees_every_event_once_and_no_gap(
        self, journal: Journal, store: Store
    ) -> None:
        seen: list[int] = []
        writing = True

        async def read() -> None:
            after = 0
            while writing or after < await journal.head():
                page = await journal.feed(after, limit=50)
                seen.extend(record.position for record in page.records)
                after = page.scanned
                await asyncio.sleep(0.005)  # between two looks: the children need the processor, too

        reading = asyncio.create_task(read())
        for _ in range(KILLS):
            async with children(store, journal, 2) as writers:
                for child in writers:
                    await child.ask("publish_for_ever")
                for child in writers:
                    await child.answer()
                    await child.answer()
                    await child.kill()
        writing = False
        await reading
        assert [record.position for record in await whole_feed(journal)] == seen

    @needs("processes")
    async def test_the_cursor_goes_with_what_was_published_and_parked(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        told = 0
        for number in range(KILLS):
            async with children(store, journal, 1) as [child]:
                await child.ask("finish_for_ever", mine.number)
                for _ in range(2 + 5 * number):
                    told = await child.answer()
                told = ([told, *await child.kill()])[-1]
            at, beyond = await settled(journal, mine)
            assert told <= at <= told + 1, "nothing acknowledged is lost, and at most one more was done"
            assert [] == beyond

    @needs("processes")
    async def test_who_was_killed_loses_its_lease_and_nothing_it_did_counts_any_more(
        self, journal: Journal, store: Store
    ) -> None:
        async with children(store, journal, 1) as [child]:
            epoch = await child.do("lease", "l")
            assert "done" == await child.do("fenced", "l", epoch)
            await child.kill()
        later = START_US + 2_000_000
        view = await journal.lease(process("heir"), ["l"], [], later, later + 1_000_000)
        assert view.held["l"].epoch > epoch
        assert view.held["l"].unclean
        async with children(store, journal, 1) as [late]:
            assert "fenced" == await late.do("fenced", "l", epoch)

    @needs("processes")
    async def test_killing_whoever_writes_holds_up_nobody(self, journal: Journal, store: Store) -> None:
        for _ in range(KILLS):
            async with children(store, journal, 1) as [child]:
                await child.ask("publish_for_ever")
                await child.answer()
                await child.kill()
                verdict = await asyncio.wait_for(commit(journal, appends=[]), WAIT_S)
                assert verdict.ok
                await publish(journal, event())
