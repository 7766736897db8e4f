"""Which streams were deleted or truncated, for messages of what can't be made of all events any more."""

from __future__ import annotations

from ..errors import VersionsDeleted
from ..journal.port import Deleted, Journal, StreamHead

NAMED_MAX = 3
LOOKED_MAX = 1_000  # each of which is asked for its first event


async def told(journal: Journal, gone: Deleted) -> str:
    """Some of those whose events these were, in words. None of another service than the one that its channel is named for, since
    what was deleted does not say which it was; nor where it was retention that deleted them."""
    if gone not in await journal.cut_off():
        return ""
    found = await _some(journal, gone.channel)
    if not found:
        return ""
    named = ", ".join(found[:NAMED_MAX])
    return f" (of {named}{' and others' if len(found) > NAMED_MAX else ''})"


async def _some(journal: Journal, service: str) -> list[str]:
    found: list[str] = []
    for one in await journal.streams(service, ("", ""), LOOKED_MAX):
        if await _begins_later(journal, one):
            found.append(one.stream)
        if len(found) > NAMED_MAX:
            break
    return found


async def _begins_later(journal: Journal, one: StreamHead) -> bool:
    try:
        await journal.stream(one.service, one.stream, limit=1)
    except VersionsDeleted:
        return True
    return False
