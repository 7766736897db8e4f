"""The harness itself: it finds what its processes have left behind, ends it, and ends nobody else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .harness import Place, until


@pytest.mark.skipif(sys.platform != "linux", reason="found in /proc")
def test_what_outlives_who_has_started_it_is_found_and_ended_and_nobody_else_is(place: Place) -> None:
    anothers = subprocess.Popen(["sleep", "1000"])
    try:
        first = place.begin("first", ["sh", "-c", "sleep 1000 & exit 0"], "")
        assert first.end() == 0
        (left,) = until(place.outlived, "it to be found")
        assert left not in (first.pid, anothers.pid)
        place.end()
        until(lambda: not place.outlived(), "it to be ended")
        assert anothers.poll() is None
    finally:
        anothers.kill()
        anothers.wait()
