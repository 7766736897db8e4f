"""A process of its own on a journal file: does what each line of its standard input says, and answers with a line.

python -m tests.journal.sqlite_child sqlite:////path/spine.db
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import sys
import threading
import time
from typing import Any

from eventspine.journal.port import Append, Process, Unit
from eventspine.journal.processes import pid_start, this_host
from eventspine.journal.sqlite import SQLiteJournal
from tests.journal.material import Bell, commit, event, one_subscription


class Child:
    def __init__(self, journal: SQLiteJournal) -> None:
        self.journal = journal
        self.bell: Bell | None = None

    async def publish(self, count: int = 1, size: int = 10, per_unit: int = 1) -> int:
        """One commit each; every acknowledged id is told by how many there are."""
        done = 0
        for _ in range(count):
            records = [event(id=os.urandom(16), data=b"x" * size) for _ in range(per_unit)]
            verdict = await commit(self.journal, Unit(appends=[Append(records)]))
            done += verdict.kind == "done"
        return done

    async def publish_for(self, seconds: float) -> list[float]:
        """As fast as it goes; how long each commit took."""
        took, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            await self.publish()
            took.append(time.monotonic() - began)
        return took

    async def tell_publishing(self) -> None:
        """Until killed: a line for each acknowledged commit."""
        count = 0
        while True:
            count += await self.publish()
            print(count, flush=True)

    async def lease(self, id: str, *names: str) -> dict[str, Any]:
        now_us = time.time_ns() // 1000
        process = Process(id, "email", 1, os.getpid(), this_host(), now_us, 64, "0.1.0", 0, pid_start(os.getpid()))
        view = await self.journal.lease(process, names, [], now_us, now_us + 60_000_000)
        return {name: [held.epoch, held.unclean] for name, held in view.held.items()}

    async def watch(self) -> bool:
        self.bell = Bell(self.journal)
        await self.bell.rings()  # the first look
        return True

    async def rings(self) -> float:
        assert self.bell is not None
        await self.bell.rings()
        return time.monotonic()

    async def register(self) -> int:
        return (await one_subscription(self.journal)).number

    async def stop_inside_a_commit(self) -> None:
        """Stops as SIGSTOP may find it: holding its turn and the write lock."""
        writer = self.journal._here().writer
        proper = writer.commit_statement

        def stops(connection: sqlite3.Connection) -> None:
            writer.commit_statement = proper
            print(json.dumps("stopping"), flush=True)
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread goes no further
            proper(connection)

        writer.commit_statement = stops
        await self.publish()

    async def hold_the_file(self) -> bool:
        """As a program of its own would, through a connection that is none of the journal's."""
        self.own = sqlite3.connect(self.journal.path, isolation_level=None)
        self.own.execute("begin immediate")
        return True

    async def let_the_file_go(self) -> bool:
        self.own.close()
        return True

    async def read_slowly(self, until: str) -> int:
        """Snapshots of 50 ms, one after the other, until there is a file of that name."""
        connection = sqlite3.connect(self.journal.path, isolation_level=None)
        count = 0
        while not os.path.exists(until):
            connection.execute("begin")
            connection.execute("select max(position) from spine_events").fetchone()
            await asyncio.sleep(0.05)
            connection.execute("commit")
            count += 1
        connection.close()
        return count

    async def cpu(self, seconds: float) -> float:
        """The part of a CPU that it uses while nothing happens."""
        before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        await asyncio.sleep(seconds)
        return (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before) / seconds

    async def head(self) -> int:
        return await self.journal.head()

    async def figures(self) -> dict[str, Any]:
        log = self.journal._here().writer.log
        return {"wal": log.bytes_max, "checkpoints": log.checkpoints}

    async def leave_the_log_alone(self) -> bool:
        self.journal._here().writer.log._at = 1 << 60
        return True


async def main() -> None:
    journal = SQLiteJournal(sys.argv[1])
    await journal.open()
    child = Child(journal)
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, *arguments = json.loads(line)
        print(json.dumps(await getattr(child, name)(*arguments)), flush=True)
    if child.bell:
        child.bell.stop()
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main())
