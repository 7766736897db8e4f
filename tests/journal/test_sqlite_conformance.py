"""The SQLite journal keeps the port's promises: the shared file, on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventspine.journal.port import Journal
from eventspine.journal.sqlite import SQLiteJournal

from .conformance import *  # noqa: F403
from .material import HandClock, Store


class SQLiteStore:
    persistent = True

    def __init__(self, folder: Path) -> None:
        self.clock = HandClock()
        self._url = f"sqlite:///{folder}/spine.db"

    async def open(self) -> Journal:
        journal = SQLiteJournal(self._url, self.clock)
        await journal.open()
        return journal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return SQLiteStore(tmp_path)
