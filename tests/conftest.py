"""What every test can count on: asserts that tell what they saw, the same examples each time in CI, and no time limit
by Hypothesis on a busy machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Also in modules that only other tests import, such as the conformance of journals.
pytest.register_assert_rewrite(
    "eventspine.testing.conformance",
    *{f"tests.{folder.name}" for folder in Path(__file__).parent.iterdir() if folder.is_dir()} - sys.modules.keys(),
)

COLLECTED = pytest.StashKey[list[pytest.Item]]()  # all of them, for the test of the promise table

settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COLLECTED] = []
    config.addinivalue_line("markers", "promise(fault, *setups, lost=''): what it shows, for the table in docs/why/promises.md")
    config.addinivalue_line("markers", "setup(*setups, processes=''): which of the table's columns a test speaks for")


@pytest.hookimpl(tryfirst=True)  # before some of them are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = list(items)
