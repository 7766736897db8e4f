"""What `.ci/run` makes of what it runs: real shell, and programs in its place that only end as they are told to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / ".ci" / "run"
MAKE = """#!/bin/sh
case "$*" in
  "sim MINUTES=1") echo "a history"; exit {sim} ;;
  "test") echo "= closing line ="; exit {test} ;;
  "test WORKERS=0 PYTEST_ARGS=--last-failed") echo "= last closing line ="; exit {again} ;;
esac
"""


def run(folder: Path, **ends: int) -> tuple[int, list[str]]:
    for name in ("java", "mvn", "openssl", "pgbouncer", "make"):
        program = folder / name
        program.write_text(MAKE.format(**ends) if name == "make" else "#!/bin/sh\n")
        program.chmod(0o755)
    ended = subprocess.run(
        [RUN], env={"PATH": f"{folder}:{os.environ['PATH']}"}, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("ends", "code", "last"),
    [
        ({"sim": 0, "test": 0, "again": 0}, 0, "= closing line ="),
        ({"sim": 2, "test": 0, "again": 0}, 2, "= closing line ="),
        ({"sim": 0, "test": 1, "again": 0}, 0, "= last closing line ="),
        ({"sim": 2, "test": 1, "again": 0}, 2, "= last closing line ="),
        ({"sim": 0, "test": 1, "again": 1}, 1, "= last closing line ="),
    ],
)
def test_a_promise_that_a_new_history_broke_fails_it_and_the_last_line_is_the_tests_own(tmp_path, ends, code, last):
    ended, lines = run(tmp_path, **ends)
    assert (code, last) == (ended, lines[-1])
    assert (ends["sim"] != 0) == any("a history of a new seed broke a promise" in line for line in lines)
