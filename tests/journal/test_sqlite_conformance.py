"""The SQLite journal keeps the port's promises: the public suite, on real files."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from eventspine.journal.port import Journal
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.testing.conformance import JournalCapabilities, JournalConformance

from .material import HandClock


@pytest.mark.setup("sqlite", processes="sqlite processes")
class TestSQLiteJournal(JournalConformance):
    capabilities = JournalCapabilities(sql=True, within=True, backups=True, persistent=True, processes=True)

    async def make(self, clock: HandClock, tmp_path: Path) -> Journal:
        return SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", clock)

    def connect(self, journal: Journal) -> AbstractContextManager[sqlite3.Connection]:
        return closing(sqlite3.connect(journal.path))
