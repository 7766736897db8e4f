"""Gaps that were given up, kept as notes in the journal: who looks at it after a restart is told of them, too.

A number that comes late all the same is in a mark, and missed no more. An event that its relay was rewound to send again
comes under a new number, so the old one stays missed until somebody says that it is known, or for thirty days."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ..journal.cursors import Range
from ..journal.port import Journal, Note, Subscription, Unit
from .arrivals import Gap

KIND = "gap"
KEPT_US = 30 * 86_400_000_000
PAGE = 1000


class Missed(NamedTuple):
    """What never came to an intake."""

    numbers: int
    since_us: int  # when the first of the gaps was given up


def note_of(service: str, gap: Gap, now_us: int) -> Note:
    """Of an intake, which is stored under the name `service`."""
    value = msgspec.msgpack.encode((gap, now_us))
    return Note(service, KIND, f"{gap.slot}/{gap.first}/{gap.origin}", value, until_us=now_us + KEPT_US)


async def missed(journal: Journal, intake: Subscription) -> Missed | None:
    """What of its gaps has not come since, either."""
    marks: dict[str, dict[int, tuple[int, list[Range]]]] = {}
    numbers, since_us = 0, 0
    for gap, noticed_us in await _given_up(journal, intake):
        if gap.origin not in marks:
            found = await journal.marks(intake.number, gap.origin, intake.service.partition(":")[2])
            marks[gap.origin] = {slot: (upto, [*beyond]) for slot, (upto, beyond) in found.items()}
        upto, beyond = marks[gap.origin].get(gap.slot, (0, []))
        if left := _left(gap, [(0, upto), *beyond]):
            numbers += left
            since_us = min(since_us or noticed_us, noticed_us)
    return Missed(numbers, since_us) if numbers else None


async def forget(journal: Journal, intake: Subscription) -> int:
    """How many gaps are told of no more."""
    notes = [note_of(intake.service, gap, 0)._replace(value=None) for gap, _ in await _given_up(journal, intake)]
    for start in range(0, len(notes), PAGE):
        [verdict] = await journal.commit([Unit(notes=notes[start : start + PAGE])])
        if verdict.error is not None:
            raise verdict.error
    return len(notes)


async def _given_up(journal: Journal, intake: Subscription) -> list[tuple[Gap, int]]:
    found: list[tuple[Gap, int]] = []
    after = ""
    while page := await journal.notes(intake.service, KIND, after=after, limit=PAGE):
        found += [msgspec.msgpack.decode(note.value, type=tuple[Gap, int]) for note in page]
        after = page[-1].key
    return found


def _left(gap: Gap, finished: list[Range]) -> int:
    """Of ranges that do not overlap."""
    came = sum(max(0, min(gap.last, upto) - max(gap.first - 1, after)) for after, upto in finished)
    return gap.last - gap.first + 1 - came
