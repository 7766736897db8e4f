"""State in memory and in databases: what holds on one holds on the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eventspine.journal import open_journal
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Journal
from eventspine.journal.sqlite import SQLiteJournal

Make = Callable[[], Journal]  # a way to one journal; every call is as another process would open it


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return _way_to(request.param, request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Where there are tables."""
    return _way_to(request.param, request, tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Make:
    return lambda: SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}")


def _way_to(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if name == "memory":
        shared = MemoryJournal()
        return lambda: shared
    url = f"sqlite:///{tmp_path / 'spine.db'}" if name == "sqlite" else request.getfixturevalue("postgres_url")
    return lambda: open_journal(url)
