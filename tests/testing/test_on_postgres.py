"""The page's recipe for tests on PostgreSQL: the two files that it shows, run by pytest as their reader would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.run_page import blocks
from tests.servers import needed

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"


def test_the_recipe_of_the_page_runs(tmp_path: Path) -> None:
    needed("postgres")
    for block in blocks(PAGE.read_text()):
        if block.title in ("conftest.py", "test_on_postgres.py", "pytest.ini"):
            (tmp_path / block.title).write_text(block.text)
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_on_postgres.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
