"""What every test can count on: asserts that tell what they saw, the same examples each time in CI, and no time limit
by Hypothesis on a busy machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Also in modules that only other tests import, such as the conformance of journals.
pytest.register_assert_rewrite(
    "eventspine.testing.conformance",
    *(f"tests.{folder.name}" for folder in Path(__file__).parent.iterdir() if folder.is_dir()),
)

settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")
