"""The journal of tests that are about SQLite's, and of each test anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventspine.journal.sqlite import SQLiteJournal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SQLiteJournal]:
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    yield opened
    await opened.close()
