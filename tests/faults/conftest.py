from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Place

collect_ignore_glob = [] if os.name == "posix" else ["test_*.py"]  # there are no such signals


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever happens in the test, nothing is left running after it."""
    place = Place(tmp_path)
    try:
        yield place
    finally:
        place.end()
