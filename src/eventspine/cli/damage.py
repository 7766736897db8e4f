"""What `spine doctor` finds damaged: `--deep` by reading all of the file, `--against` by comparing it with a backup."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ..errors import SettingsError
from ..journal._sqlite_compare import compare
from ..journal._sqlite_restore import Verified, verify
from ..journal.port import Journal
from ..observe.printable import printable
from ..wording import plural
from .journals import existing_file, file_of

NAMED_MAX = 10
RECOVERY = "how-to/recovery.md says how to put a backup in place, or to recover what can be read"


async def damage(journal: Journal, *, deep: bool, against: Path | None) -> list[str]:
    """Each with the way on. A journal in memory has nothing that could be damaged."""
    check = getattr(journal, "check", None)
    found = list(await check()) if check and deep else []
    found += await _altered(journal, against) if against else []
    return [f"Damaged: {printable(one).rstrip('.')}. Stop what runs on this file; {RECOVERY}." for one in found]


async def _altered(journal: Journal, backup: Path) -> list[str]:
    """In words; raises where that backup can't tell."""
    place = file_of(journal, "--against compares it with a backup of a file.").path
    kept = await asyncio.to_thread(verify, existing_file(backup))
    if kept.damaged or kept.seal == "broken":
        raise SettingsError(
            f"{backup} is damaged itself, and can't tell: name another backup. `spine restore --verify {backup}`."
        )
    found = await asyncio.to_thread(compare, backup, place)
    if not found.same_journal:
        raise SettingsError(f"{backup} is no backup of {place}: it is another journal's.")
    if not found.differ:
        return []
    are = plural(len(found.differ), "event is", "events are")
    return [f"{are} not what {printable(str(backup))} has, at {_positions(found.differ)}{_doubt(kept)}"]


def _positions(differ: Sequence[int]) -> str:
    named = ", ".join(f"{one:,}" for one in differ[:NAMED_MAX])
    more = len(differ) - NAMED_MAX
    return f"position{'s' * (len(differ) > 1)} {named}" + (f" and {more:,} more" if more > 0 else "")


def _doubt(kept: Verified) -> str:
    return "" if kept.seal == "holds" else ", unless it is the backup that was changed: it has no seal that holds"
