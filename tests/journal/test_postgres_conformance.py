"""The PostgreSQL journal keeps the port's promises: the public suite, on a real server."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing

import psycopg
import pytest

from eventspine.journal.port import Journal
from eventspine.testing.conformance import JournalCapabilities, JournalConformance

from .material import HandClock


@pytest.mark.setup("postgres", processes="postgres processes")
class TestPostgresJournal(JournalConformance):
    capabilities = JournalCapabilities(sql=True, within=True, backups=False, persistent=True, processes=True)

    async def make(self, clock: HandClock, postgres_url: str) -> Journal:
        from eventspine.journal.postgres import PostgresJournal

        return PostgresJournal(postgres_url, clock)

    def connect(self, journal: Journal) -> AbstractContextManager[psycopg.Connection]:
        connection = psycopg.connect(journal.target.conninfo, options=f"-c search_path={journal.target.schema}")
        return closing(connection)
