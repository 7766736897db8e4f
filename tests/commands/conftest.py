"""Commands in memory, in a file and in PostgreSQL: what holds on one holds on the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eventspine.journal import open_journal
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Journal
from tests.state.conftest import database, file

__all__ = ["database", "file", "journal"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Journal]:
    """A way to one journal; every call is as another process would open it."""
    if request.param == "memory":
        shared = MemoryJournal()
        return lambda: shared
    url = f"sqlite:///{tmp_path / 'spine.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return lambda: open_journal(url)
