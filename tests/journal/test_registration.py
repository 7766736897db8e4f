"""What registering does is decided by one function for all journals; without a part of it, work is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from eventspine.journal import registry
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Journal
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.testing.conformance.journals.registration import A, wider

from .material import commit, event, finished, publish, start


@pytest.fixture(params=["memory", "sqlite"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    opened: Journal = MemoryJournal() if request.param == "memory" else SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    yield opened
    await opened.close()


async def test_r8_without_that_it_passes_what_it_does_not_know(journal: Journal, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "_widened", lambda *_: False)
    [before] = (await start(journal, A)).subscriptions
    await start(journal, wider(A))
    await publish(journal, event(type="orders.OrderShipped"), event())
    assert "done" == (await commit(journal, done=[finished(before, (0, 2))])).kind
