"""What the parent of `--processes` decides, and nothing else: whether a child that ended is started again, and whether one
holds the write lock for too long. Pure: no process, no clock.

A child that died is started again after a pause, which grows while it keeps dying. One that could not even start is tried
again, too; but if none is at work meanwhile, the parent gives up after STARTS_MAX times, or at once if no other attempt can
change it. In development the next change of a file is awaited instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

STARTS_MAX = 3  # in a row that fail, before the parent gives up
PAUSE_S = 0.5  # before another start; doubles each time
PAUSE_MOST_S = 30.0
CALM_S = 60.0  # at work for so long, a death is the first one again
USAGE = 2  # the exit code of what no other attempt can change


class Ended(NamedTuple):
    """A child that was not told to end."""

    code: int
    started: bool  # it had come so far as to handle events
    lived_s: float


@dataclass(frozen=True, slots=True)
class Again:
    after_s: float
    troubles: int  # deaths or failed starts in a row, this one included


@dataclass(frozen=True, slots=True)
class GiveUp:
    code: int


@dataclass(frozen=True, slots=True)
class AwaitChange:
    """Its code can't be started; the next change of a file may mend that."""


def after_end(ended: Ended, troubles: int, *, others_at_work: bool, reloads: bool) -> Again | GiveUp | AwaitChange:
    """`troubles` counts those in a row before this one."""
    if ended.started:
        troubles = 0 if ended.lived_s >= CALM_S else troubles
        if ended.code == 0 and not troubles:  # somebody told it to end, by a signal of its own
            return Again(0.0, 0)
        return Again(_pause_s(troubles), troubles + 1)
    if reloads:
        return AwaitChange()
    hopeless = ended.code == USAGE or troubles + 1 >= STARTS_MAX
    if hopeless and not others_at_work:
        return GiveUp(ended.code if ended.code > 0 else 1)
    return Again(_pause_s(troubles), troubles + 1)


def _pause_s(troubles: int) -> float:
    return min(PAUSE_S * 2.0 ** min(troubles, 16), PAUSE_MOST_S)


class LockWatch:
    """For how long one process has held the write lock without any progress. Busy writers take turns, or write."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._since = 0.0

    def held_s(self, now: float, *seen: object) -> float:
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since
