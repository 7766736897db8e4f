"""Journals: `open_journal(url)` gives the one that a URL names, not yet opened."""

from __future__ import annotations

import re

from ..errors import SettingsError
from .port import Journal


def open_journal(url: str) -> Journal:
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, `memory://`."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        from .memory import MemoryJournal

        return MemoryJournal()
    if scheme == "sqlite":
        from .sqlite import SQLiteJournal

        return SQLiteJournal(url)
    raise SettingsError(
        f"{without_password(url)!r} names no journal. Use sqlite:///spine.db, sqlite:////absolute/spine.db or memory://."
    )


def without_password(url: str) -> str:
    return re.sub("//[^/@]*@", "//…@", url)
