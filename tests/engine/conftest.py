"""A store in memory, and one in a file: what holds on one holds on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventspine import Spine
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.sqlite import SQLiteJournal

from .material import HandClock, Store


def in_memory() -> Store:
    journal = MemoryJournal()
    return Store(lambda: journal, sql=False)


def in_file(path: Path) -> Store:
    return Store(lambda: SQLiteJournal(f"sqlite:///{path / 'spine.db'}"), sql=True)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.setup(name)) for name in ("memory", "sqlite")])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return in_memory() if request.param == "memory" else in_file(tmp_path)


@pytest.fixture
async def spine(store: Store) -> AsyncIterator[Spine]:
    async with store.spine() as spine:
        yield spine


@pytest.fixture(params=["memory", "sqlite"])
def timed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, HandClock]:
    """A store whose wall clock stands still until it is moved."""
    clock = HandClock()
    if request.param == "memory":
        journal = MemoryJournal(clock)
        return Store(lambda: journal, sql=False), clock
    return Store(lambda: SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}", clock), sql=True), clock


@pytest.fixture
async def memory() -> AsyncIterator[Spine]:
    """For what no journal has a part in."""
    async with in_memory().spine() as spine:
        yield spine


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    return in_file(tmp_path)


@pytest.fixture
async def file(file_store: Store) -> AsyncIterator[Spine]:
    """For handlers with SQL."""
    async with file_store.spine() as spine:
        yield spine
