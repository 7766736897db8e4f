"""The disk is full at the nth write of a commit, for every n, checkpoints included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.power import cuts, full_disk
from tests.faults.test_power_cuts import found_on, pytestmark  # noqa: F401  -- pytest reads it here too

TIMES = 80


@pytest.mark.promise("disk full", "sqlite")
def test_a_disk_that_is_full_at_any_write_refuses_or_stores_and_nothing_between(tmp_path: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(cuts.build(tmp_path)), "RECORD_PREFIX": str(tmp_path / "spine.db")}
    command = [sys.executable, "-m", "tests.faults.power.full_disk", str(tmp_path), str(TIMES)]
    done = subprocess.run(
        command, cwd=cuts.ROOT, env={**environment, "RECORD_LOG": os.devnull}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    stored, effects = found_on(tmp_path / "spine.db")

    assert told["writes_refused"] > TIMES / 4  # else nothing was tried
    assert set(told["refused"].values()) == {"JournalFull"}
    assert set(told["accepted"]) == stored
    assert {number for number in told["accepted"] if number >= full_disk.PLENTY} == {
        full_disk.PLENTY + number for number in range(TIMES)
    }
    assert sorted(effects) == sorted(stored)
