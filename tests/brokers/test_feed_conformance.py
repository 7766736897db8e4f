"""The broker that a journal is: the public suite, in memory and on SQLite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eventspine.brokers.feed import FeedBroker
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, EmbeddedSite


@pytest.mark.setup("memory")
class TestMemoryFeed(BrokerConformance):
    features = FeedBroker(MemoryJournal()).features

    async def make(self) -> EmbeddedSite:
        return EmbeddedSite(MemoryJournal, shared=False)


@pytest.mark.setup("sqlite", processes="sqlite processes")
class TestSQLiteFeed(BrokerConformance):
    capabilities = BrokerCapabilities(processes=True)
    features = replace(TestMemoryFeed.features, persistent=True)

    async def make(self, tmp_path: Path) -> EmbeddedSite:
        return EmbeddedSite(lambda: SQLiteJournal(f"sqlite:///{tmp_path}/spine.db"), shared=True)
