"""What every journal promises. A test file names its store and takes all of it:

from .conformance import *

@pytest.fixture
def store() -> Store: ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventspine.journal.port import Journal

from .conformance_control import TestControl, TestDeliveries, TestStarts
from .conformance_feed import TestFeed, TestLookingUp
from .conformance_living import TestLeases, TestReopening, TestTimers, TestWatching
from .conformance_marks import (
    TestMarks,
    TestMarksAndRepetition,
    TestMarksAndRewind,
    TestMarksOfRefusedUnits,
)
from .conformance_registration import TestOlderGenerations, TestRegistration, TestRenames, TestStarting, TestUndeclared
from .conformance_retention import (
    TestBackingUp,
    TestDeleting,
    TestSayingHowLong,
    TestWhatHoldsThemBack,
    TestWhatReadersSee,
)
from .conformance_units import TestAppends, TestClosing, TestCursors, TestFences, TestStatements
from .material import Store

__all__ = [
    "TestAppends",
    "TestBackingUp",
    "TestClosing",
    "TestControl",
    "TestCursors",
    "TestDeleting",
    "TestDeliveries",
    "TestFeed",
    "TestFences",
    "TestLeases",
    "TestLookingUp",
    "TestMarks",
    "TestMarksAndRepetition",
    "TestMarksAndRewind",
    "TestMarksOfRefusedUnits",
    "TestOlderGenerations",
    "TestRegistration",
    "TestRenames",
    "TestReopening",
    "TestSayingHowLong",
    "TestStarting",
    "TestStarts",
    "TestStatements",
    "TestTimers",
    "TestUndeclared",
    "TestWatching",
    "TestWhatHoldsThemBack",
    "TestWhatReadersSee",
    "journal",
    "other",
]


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    opened = await store.open()
    yield opened
    await opened.close()


@pytest.fixture
async def other(store: Store, journal: Journal) -> AsyncIterator[Journal]:
    """The same store, as another process opens it; where it can't be shared between processes, the same journal."""
    opened = await store.open()
    yield opened
    await opened.close()
