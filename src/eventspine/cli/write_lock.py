"""Who keeps the write lock, and for how long, as a command sees it that only looks.

A process whose turn it is has written down since when. A connection that takes no turns has not (another program's, or one
that a handler has opened itself), and whoever waits for it begins to wait again and again: so it is watched.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ..journal.port import Journal
from .times import now_us

LOOK_EVERY_S = 0.05


async def facts_with_lock(journal: Journal, long_us: int) -> dict[str, Any]:
    """What the journal tells of itself. Where somebody holds the write lock and has not written down for how long, they are
    watched until it is longer than `long_us`, or they let it go, or anything is committed."""
    facts = await journal.describe()
    began, first = now_us(), _holds(facts)
    while first is not None and now_us() - _since(facts, began) <= long_us:
        await asyncio.sleep(LOOK_EVERY_S)
        later = await journal.describe()
        if _holds(later) != first:
            return later
    return facts if first is None else facts | {"lock_since_us": _since(facts, began)}


def _since(facts: dict[str, Any], began: int) -> int:
    told = facts.get("lock_since_us")
    return min(began, told) if isinstance(told, int) else began


def _holds(facts: dict[str, Any]) -> tuple[int, int] | None:
    """Who, and when the log was written last: one transaction writes nothing there before it is committed, or is large."""
    pid = facts.get("lock_pid")
    if pid is None:
        return None
    try:
        return pid, os.stat(f"{os.path.realpath(facts['file'])}-wal").st_mtime_ns
    except OSError:
        return pid, 0
