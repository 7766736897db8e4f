"""State in memory and in a file: what holds on one holds on the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Journal
from eventspine.journal.sqlite import SQLiteJournal


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Journal]:
    """A way to one journal; every call is as another process would open it."""
    if request.param == "memory":
        shared = MemoryJournal()
        return lambda: shared
    return lambda: SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[], Journal]:
    return lambda: SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}")
