"""Who is at work on a journal: nothing is taken from under a living process."""

from __future__ import annotations

from ..journal.port import Journal, Process
from ..journal.processes import is_gone, this_host
from ..observe.printable import printable
from .exits import Refused
from .times import now_us


def lives(process: Process, now: int) -> bool:
    """Of this host the system tells; its lease may have run out because it can't renew it now."""
    return not is_gone(process) and (process.host == this_host() or process.until_us > now)


async def at_work(journal: Journal) -> list[Process]:
    now = now_us()
    return [process for process in await journal.processes() if lives(process, now)]


async def refuse_beside_others(journal: Journal) -> None:
    if alive := await at_work(journal):
        told = ", ".join(sorted({f"{process.service} (pid {process.pid})" for process in alive}))
        raise Refused(f"At work on this journal: {printable(told)}. Stop it first; nothing was changed.")
