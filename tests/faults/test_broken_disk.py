"""The disk answers with an error at the nth read, write or sync of the log, for every n, checkpoints included; and a sync that
failed is no sync: the power fails afterwards, and what was written since the sync before it is gone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.power import broken_disk, cuts
from tests.faults.test_power_cuts import found_on, lost_by, pytestmark  # noqa: F401 -- pytest reads it here too

TIMES = 25


def start(folder: Path, name: str, module: str, *words: object) -> subprocess.Popen[str]:
    """On a recorded disk."""
    environment = {**os.environ, "LD_PRELOAD": str(cuts.build(folder)), "RECORD_PREFIX": str(folder / "spine.db")}
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.faults.power.{module}", str(folder), *map(str, words)],
        cwd=cuts.ROOT,
        env={**environment, "RECORD_LOG": str(folder / name)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told_by(child: subprocess.Popen[str]) -> str:
    said, errors = child.communicate(timeout=150)
    assert child.returncode == 0, errors
    return said


def check(told: Any, times: int, stored: set[int]) -> None:
    """Of one process: everything was tried, and nothing is between stored and refused."""
    assert set(told["met"].values()) == {times * (1 + broken_disk.FOR_A_WHILE)}
    assert set(told["refused"].values()) <= {"JournalError", "JournalCorrupt", "OutcomeUnknown"}
    unknown = {int(number) for number, error in told["refused"].items() if error == "OutcomeUnknown"}
    assert set(told["accepted"]) <= stored <= set(told["accepted"]) | unknown


@pytest.mark.promise("disk errors", "sqlite")
@pytest.mark.parametrize("words", [[], ["IDLE"]], ids=["handling", "publishing alone"])
def test_an_error_of_the_disk_at_any_operation_refuses_or_stores_and_nothing_between(
    words: list[str], tmp_path: Path
) -> None:
    told = json.loads(told_by(start(tmp_path, "steps", "broken_disk", TIMES, 0, *words)))
    stored, effects = found_on(tmp_path / "spine.db")
    check(told, TIMES, stored)
    assert words or sorted(effects) == sorted(stored)

    recorded = list(cuts.steps((tmp_path / "steps").read_bytes()))
    tried, lost = lost_by(recorded, tmp_path, len(recorded) // 150)
    assert tried > 100
    assert lost == set()


@pytest.mark.promise("disk errors", "sqlite processes")
def test_so_it_is_where_two_processes_share_the_disk(tmp_path: Path) -> None:
    times, other = 8, 1_000_000
    children = [start(tmp_path, f"steps{first}", "broken_disk", times, first) for first in (0, other)]
    one, two = (json.loads(told_by(child)) for child in children)
    stored, effects = found_on(tmp_path / "spine.db")
    check(one, times, {number for number in stored if number < other})
    check(two, times, {number for number in stored if number >= other})
    assert sorted(effects) == sorted(stored)


@pytest.mark.promise("disk errors", "sqlite")
def test_who_comes_after_a_process_whose_last_sync_failed_builds_on_nothing_that_is_only_in_memory(
    tmp_path: Path,
) -> None:
    """The log ends with what the system takes for written, and the disk has not: what is behind it in the log would be lost
    with it, though its own sync went well."""
    said = [told_by(start(tmp_path, "steps", "dying_disk", *words)) for words in ([0, "FAILS"], [100])]
    assert said == ["JournalError\n", ""]
    recorded = list(cuts.steps((tmp_path / "steps").read_bytes()))
    for seed in range(10):  # of what was not synced some part is there, or nothing
        _, lost = lost_by(recorded, tmp_path, len(recorded), first=len(recorded) - 1, seed=seed)
        assert lost == set()


@pytest.mark.parametrize("whole", [True, pytest.param(False, marks=pytest.mark.promise(
    "sync lost", "sqlite", "sqlite processes", lost="what SQLite had copied into the file before, if the power fails later"
))])  # fmt: skip
def test_a_sync_of_the_database_that_failed_is_made_good_unless_a_part_was_copied_before_it(
    whole: bool, tmp_path: Path
) -> None:
    """SQLite copies anew what it copied for this sync, but not what it had copied before, in the hope of this sync."""
    told_by(start(tmp_path, "steps", "copying_disk", *(["WHOLE"] if whole else [])))
    recorded = list(cuts.steps((tmp_path / "steps").read_bytes()))
    harmed = [seed for seed in range(10) if _is_harmed(recorded, tmp_path, seed)]
    assert bool(harmed) != whole


def _is_harmed(recorded: list[cuts.Step], folder: Path, seed: int) -> bool:
    """After the power has failed at the end: damaged, or something acknowledged is gone."""
    try:
        _, lost = lost_by(recorded, folder, len(recorded), first=len(recorded) - 1, seed=seed)
    except (sqlite3.DatabaseError, AssertionError):
        shutil.rmtree(folder / "cut")
        return True
    return bool(lost)
