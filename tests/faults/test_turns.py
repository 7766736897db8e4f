"""Processes that write at once take turns; left to SQLite's own waiting, one goes on while the others sleep."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import groupby
from pathlib import Path

import pytest

from eventspine.journal.lockfile import HAS_FLOCK

WRITERS = "abc"
EVENTS = 200
WRITER = """
import asyncio, logging, sys
from eventspine import Event, Service, Spine
from eventspine.journal import lockfile

logging.disable(logging.WARNING)
url, name, turns = sys.argv[1:]
if turns == "off":
    lockfile.HAS_FLOCK = False

class Said(Event, context="said", key="who"):
    who: str

async def main():
    async with Spine(url, service=Service(name, publishes="said")) as spine:
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(int(EVENTS)):
            await spine.publish(Said(who=name))

asyncio.run(main())
"""


def in_a_row(file: Path, turns: str) -> float:
    """How many events a writer stores, on average, before another one does, while all of them are at work."""
    code = WRITER.replace("EVENTS", str(EVENTS))
    command = [sys.executable, "-c", code, f"sqlite:///{file}"]
    writers = [
        subprocess.Popen([*command, name, turns], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in WRITERS
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("\n")
            writer.stdin.flush()
        assert [writer.wait(timeout=300) for writer in writers] == [0] * len(WRITERS)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    with closing(sqlite3.connect(file)) as connection:
        feed = [source for (source,) in connection.execute("select source from spine_events order by position")]
    assert len(feed) == EVENTS * len(WRITERS)
    begins = max(feed.index(name) for name in WRITERS)
    ends = min(len(feed) - feed[::-1].index(name) for name in WRITERS)
    runs = [len(list(run)) for _, run in groupby(feed[begins:ends])]
    return sum(runs) / len(runs)


@pytest.mark.skipif(not HAS_FLOCK, reason="without flock there are no turns, and SQLite's own waiting has to do")
def test_writers_take_turns_and_without_the_lock_file_one_goes_on_while_others_wait(tmp_path: Path) -> None:
    assert in_a_row(tmp_path / "turns.db", "on") < 1.7 < in_a_row(tmp_path / "none.db", "off")
