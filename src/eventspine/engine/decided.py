"""What is decided once, and for all processes: the note that was stored first."""

from __future__ import annotations

from ..errors import JournalError
from ..journal.port import Journal, Note, Unit


async def decided(journal: Journal, service: str, key: str, wished: str) -> str:
    """What was decided before, or else `wished` from now on."""
    while not (found := await journal.notes(service, "start", [key])):
        note = Note(service, "start", key, wished.encode(), expected=0)
        (verdict,) = await journal.commit([Unit(notes=[note])])
        if verdict.kind in ("failed", "fenced"):
            raise verdict.error or JournalError(f"The journal answered {verdict.kind}.")
    return found[0].value.decode()
