"""Who holds the write lock that this process waits for, in words: of health, and of a command that waits."""

from __future__ import annotations

import time

from .port import Journal


def waits_for_lock(journal: Journal, least_s: float) -> str | None:
    """None: it does not wait, or not that long yet. A process that was stopped inside a commit holds the file; who waits for
    it knows whom (R6)."""
    since = journal.waiting_since()
    if since is None or (waited_s := time.monotonic() - since) < least_s:
        return None
    holder = journal.lock_holder()
    who = f"process {holder[0]}" if holder else "another program"
    return (
        f"waiting for the write lock of {journal.url} for {waited_s:.0f} s; {who} holds it. If it is "
        f"stopped, continue or kill it: the lock goes with the process."
    )
