"""Where settings come from, most specific first: what was said on the command line or in code, the environment, then
the default. A settings file takes its place between the last two when there is one.

Nothing here opens, creates or looks at a journal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

JOURNAL_VARIABLE = "SPINE_JOURNAL"
JOURNAL_DEFAULT = "sqlite:///spine.db"  # in the folder where the process runs


def journal_url(said: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """The journal to use. An empty value counts as not said."""
    return said or environment.get(JOURNAL_VARIABLE) or JOURNAL_DEFAULT
