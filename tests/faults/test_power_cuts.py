"""The power fails, below the file system: of what a process wrote, only what was synced is sure to be there.

One process publishes and handles on a recorded disk; then the disk is rebuilt as it may have looked after each of a
thousand moments, and whatever had been promised by then must be on it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest

from eventspine import Spine
from tests.faults.power import child, cuts

EVENTS = 250
CUTS_MIN = 1_000
SEED = 20

pytestmark = pytest.mark.skipif(
    not shutil.which("gcc") and not os.environ.get("CI"), reason="records the disk with a library built by gcc"
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[cuts.Step]:
    return cuts.record(tmp_path_factory.mktemp("recorded"), EVENTS)


def begun(recorded: list[cuts.Step]) -> int:
    """The first step at which something had been promised; before it there may not even be a journal."""
    return next(at for at, step in enumerate(recorded) if step.file == ".acks")


def spacing(recorded: list[cuts.Step]) -> int:
    return max(1, (len(recorded) - begun(recorded)) // (CUTS_MIN + 200))


def found_on(path: Path) -> tuple[set[int], list[int]]:
    """Numbers in the feed, and numbers whose effect is stored, after SQLite's own recovery."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        feed = [msgspec.json.decode(data) for (data,) in connection.execute("select data from spine_events")]
        effects = [number for (number,) in connection.execute("select number from desk_counted")]
    finally:
        connection.close()
    return {one["number"] for one in feed}, effects


def lost_by(
    recorded: list[cuts.Step], folder: Path, every: int, first: int | None = None, seed: int = SEED
) -> tuple[int, set[int]]:
    """How many moments were tried, and what had been promised by then and was gone."""
    tried, lost = 0, set[int]()
    for cut in cuts.cuts(recorded, begun(recorded) if first is None else first, every, seed):
        stored, effects = found_on(cuts.put_down(cut, folder / "cut"))
        lost |= cut.promised - stored
        assert len(effects) == len(set(effects)), f"an effect is there twice, step {cut.at}"
        assert set(effects) <= stored, f"an effect without its event, step {cut.at}"
        shutil.rmtree(folder / "cut")
        tried += 1
    return tried, lost


@pytest.mark.promise("power fails", "sqlite")
def test_no_power_cut_loses_an_acknowledged_event(recorded, tmp_path):
    tried, lost = lost_by(recorded, tmp_path, spacing(recorded))
    assert tried >= CUTS_MIN
    assert lost == set()


@pytest.mark.promise("power fails", "sqlite processes")
def test_so_it_is_where_two_processes_write(tmp_path):
    recorded = cuts.record(tmp_path, EVENTS // 3, processes=2)
    tried, lost = lost_by(recorded, tmp_path, spacing(recorded) * 4)
    assert tried >= CUTS_MIN // 5
    assert lost == set()
    assert {number >= cuts.APART for number in found_on(tmp_path / "spine.db")[0]} == {False, True}


def test_the_record_holds_syncs_checkpoints_and_promises(recorded):
    """Else the cuts would prove nothing."""
    assert sum(step.kind == "s" and step.file == "-wal" for step in recorded) > 50
    assert sum(step.kind == "s" and step.file == "" for step in recorded) > 5
    assert sum(step.file == ".acks" for step in recorded) >= EVENTS


def test_without_a_sync_per_commit_power_cuts_lose_acknowledged_events(tmp_path):
    recorded = cuts.record(tmp_path, EVENTS, "NORMAL")
    _, lost = lost_by(recorded, tmp_path, spacing(recorded) * 4)
    assert lost


@pytest.mark.promise("power fails", "sqlite")
async def test_what_survives_a_power_cut_goes_on_to_the_end_and_handles_each_event_once(recorded, tmp_path):
    for number, cut in enumerate(cuts.cuts(recorded, begun(recorded), max(1, len(recorded) // 12), SEED)):
        path = cuts.put_down(cut, tmp_path / str(number))
        await finish(path)
        stored, effects = found_on(path)
        assert sorted(effects) == sorted(stored)
        assert cut.promised <= stored


async def finish(path: Path) -> None:
    async with Spine(f"sqlite:///{path}", service=child.counter, lease_s=1.5) as spine, spine.running(child.desk):
        async with asyncio.timeout(60):
            while await left(spine):
                await asyncio.sleep(0.02)


async def left(spine: Spine) -> int:
    page = await spine.journal.feed(0, limit=10 * EVENTS)
    (row,) = await spine.journal.query("select count(*) as handled from desk_counted", {})
    return len(page.records) - int(row["handled"])
