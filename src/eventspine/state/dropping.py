"""Giving up a version of a view: its rows, and the subscription that kept it."""

from __future__ import annotations

from ..errors import SettingsError
from ..journal.port import Journal, SetState
from . import store, versions
from .progress import progress_of


async def drop(journal: Journal, name: str, number: int) -> None:
    """For good, and again where it was broken off: first it is nobody's to read or to keep, then it is removed."""

    def decide(stored: versions.Known | None) -> versions.Known | None:
        if stored is None:
            raise SettingsError(f"There is no view {name}.")
        before = stored.versions.get(number)
        return None if before is not None and before.dropped else versions.dropped(stored, number)

    await versions.change(journal, name, decide)
    stored = await versions.known(journal, name)
    assert stored is not None  # a view is never removed, its versions are
    keeping = await progress_of(journal, stored.service, stored.versions[number].subscription)
    if keeping is not None:
        await journal.control([SetState(keeping.subscription.number, "retired")])
    await store.drop(journal, stored.service, name, number)
