"""Another program that has `spine` inside it, such as `manage.py spine`: what things are called there."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple


class Inside(NamedTuple):
    journal_from: str  # where the journal was named
    no_journal: str  # how to get one
    module: str  # in which it has gathered what is declared
    declares: str  # what that module is called, at the beginning of a sentence


inside: ContextVar[Inside | None] = ContextVar("eventspine_inside", default=None)


def called(module: str) -> str:
    """A module, as the user knows it."""
    host = inside.get()
    return host.declares if host is not None and module == host.module else module
