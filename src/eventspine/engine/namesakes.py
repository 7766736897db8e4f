"""Events of others that have an id which another source has given, too: CloudEvents makes it unique within its source alone.

A UUID is taken as it is, and a journal has an event of an id once. So of what was to be appended and was there already,
the stored one is looked at: of the same source it is the same event, which came again; else the new one has a
namesake, and is appended under an id made of both, as one whose id is no UUID.

What journals of ours have numbered is not looked at: there an id is what tells a repetition, whoever sends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..brokers.binding import renamed
from ..journal.port import Journal, Record
from .landing import Landing


class Namesakes:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._head = 0  # what is appended from here on stands behind it

    async def look(self, landings: Sequence[Landing]) -> None:
        """Before they are stored."""
        if any(landing.foreign for landing in landings):
            self._head = await self._journal.head()

    async def among(self, landing: Landing, positions: Sequence[int]) -> list[Record]:
        """What of it is not stored, under ids of their own; `positions` is what the journal answered."""
        found: list[Record] = []
        head = self._head
        self._head = max(head, *positions, 0)  # those of the next one, of the same commit, stand behind these
        if not landing.foreign or (min(positions) > head and len({*positions}) == len(positions)):
            return found  # nearly always
        times = Counter(positions)  # which of several of one id a unit stores is the journal's affair
        for at in landing.foreign:
            if positions[at] <= head or times[positions[at]] > 1:
                stored = await self._journal.event(landing.records[at].id)
                if stored is not None and stored.source != landing.records[at].source:
                    found.append(renamed(landing.records[at]))
        return found
