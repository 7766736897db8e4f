"""What every test can count on: the same examples twice in CI, and no time limit by Hypothesis on a busy machine."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")
