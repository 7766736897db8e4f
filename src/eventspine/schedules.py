"""Schedules: the times of periodic work, and what of them was missed.

A schedule is a rule that gives times, and all processes agree on them, since they depend on nothing but the rule. What
was brought in of a schedule is a cursor on it, as if it were a feed whose positions are times; the engine moves that
cursor in the unit that appends the tick (see `engine/periodic.py`). So here nothing has a state and nothing looks at a
clock: times are arguments and results, in microseconds since 1970 UTC.

    since                                   now
      │   missed    missed    missed    late │   next
    ──┴─────┴─────────┴─────────┴─────────┴──┴─────┴──▶     once: run for the last; all: for each; skip: only if it is
            └── passed while nobody could run it ──┘        not more than a minute late
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from .errors import DeclarationError, MissingExtra

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

Missed = Literal["once", "all", "skip"]

SECOND_US = 1_000_000
GRACE_US = 60 * SECOND_US  # missed="skip": what is later than this is not run; a deploy takes less
ALL_MAX = 1000  # missed="all": of more than these the newest are run
LONGEST_US = 366 * 86_400 * SECOND_US * 100
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


class Schedule(Protocol):
    @property
    def spec(self) -> str:
        """The rule as it is stored; `schedule_of` reads it."""
        ...

    @property
    def words(self) -> str:
        """The rule as people read it."""
        ...

    def after(self, us: int) -> int:
        """The first of its times that is later."""
        ...

    def back(self, us: int, count: int) -> int:
        """The time that is `count` before the first one that is later: of 1, the last one that has come."""
        ...


# --- every ------------------------------------------------------------------------------------------------------------

UNITS = (("week", 7 * 86_400), ("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


@dataclass(frozen=True, slots=True)
class Every:
    """All multiples of an interval since 1970 UTC: whoever asks, and whenever it was started, they are the same."""

    us: int

    @property
    def spec(self) -> str:
        return f"every {self.us}us"

    @property
    def words(self) -> str:
        left, parts = self.us, []
        for unit, seconds in UNITS[1:]:
            count, left = divmod(left, seconds * SECOND_US)
            if unit == "second" and left:
                parts.append(f"{count + left / SECOND_US:.6f}".rstrip("0") + " seconds")
            elif count:
                parts.append(f"{count} {unit}s" if count > 1 else f"1 {unit}")
        text = "every " + " ".join(parts)
        return text.replace("every 1 ", "every ") if len(parts) == 1 else text

    def after(self, us: int) -> int:
        return us - us % self.us + self.us

    def back(self, us: int, count: int) -> int:
        return self.after(us) - count * self.us


def every(where: str, interval: Any, units: dict[str, Any]) -> Every:
    """Refused where it is written, with a word on what to write instead."""
    given = {unit: value for unit, value in units.items() if value != 0}
    if interval is not None and (given or not isinstance(interval, timedelta)):
        raise DeclarationError(
            f"@{where}.every takes an interval, in parentheses: @{where}.every(minutes=5) or every(timedelta(minutes=5))."
        )
    for unit, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # noqa: PLR0124 -- NaN
            raise DeclarationError(f"@{where}.every: {unit}={value!r} is not a number.")
    try:
        us = (interval if interval is not None else timedelta(**given)) // _US
    except OverflowError:
        us = LONGEST_US + 1
    if not SECOND_US <= us <= LONGEST_US:
        told = ", ".join(f"{unit}={value!r}" for unit, value in given.items()) or repr(interval or timedelta(0))
        raise DeclarationError(
            f"@{where}.every({told}): an interval is a second at least and a hundred years at most, such as minutes=5. "
            f"What must happen more often belongs into a loop of its own."
        )
    return Every(us)


# --- cron -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cron:
    """The times of a cron line in a time zone. Where clocks are put forward or back it does as Debian's cron does."""

    line: str
    zone: str = "UTC"

    @property
    def spec(self) -> str:
        return f"cron {self.zone} {self.line}"

    @property
    def words(self) -> str:
        return f"cron {self.line}" + (f" ({self.zone})" if self.zone != "UTC" else "")

    @cached_property
    def _zone(self) -> ZoneInfo:
        from zoneinfo import ZoneInfo

        return ZoneInfo(self.zone)

    def _from(self, us: int, *, reverse: bool = False) -> CronSim:
        try:
            from cronsim import CronSim
        except ImportError:
            raise MissingExtra(
                f'The cron line {self.line!r} needs cronsim: pip install "eventspine[cron]"', extra="cron"
            ) from None
        return CronSim(self.line, (_EPOCH + us * _US).astimezone(self._zone), reverse)

    def after(self, us: int) -> int:
        for time in self._from(us):
            # In an hour that comes twice, a line for fixed times gives those of the first only, which may be over.
            if (found := (time - _EPOCH) // _US) > us:
                return found
        raise OverflowError(f"{self.line!r} has no more times")

    def back(self, us: int, count: int) -> int:
        """Backwards as far as is needed, and then forwards: only `after` says which times there are."""
        past = self._from(us, reverse=True)
        for _ in range(count):
            earliest = next(past)
        found = list(self._upto((earliest - _EPOCH) // _US - 7200 * SECOND_US, us))
        return found[-count:][0] if found else (earliest - _EPOCH) // _US

    def _upto(self, since: int, us: int) -> Iterator[int]:
        while (since := self.after(since)) <= us:
            yield since


def cron(where: str, line: Any, zone: Any) -> Cron:
    """Refused where it is written, with what is wrong."""
    try:
        from cronsim import CronSimError
    except ImportError:
        raise MissingExtra(f'@{where}.cron needs cronsim: pip install "eventspine[cron]"', extra="cron") from None
    if not isinstance(line, str):
        raise DeclarationError(f'@{where}.cron takes a cron line, in parentheses: @{where}.cron("0 3 * * *").')
    told = f"@{where}.cron({line!r})"
    if line.strip().lower() in NICKNAMES:
        raise DeclarationError(f"{told} is a nickname; write {NICKNAMES[line.strip().lower()]!r}.")
    made = Cron(" ".join(line.split()), _known_zone(told, zone))
    try:
        made.after(0)
    except CronSimError as error:
        raise DeclarationError(f"{told}: {_wrong(str(error), line)}") from error
    except OverflowError:
        raise DeclarationError(f"{told}: no date is like this.") from None
    return made


def _wrong(said: str, line: str) -> str:
    if said.startswith("Wrong number"):
        return (
            f"a cron line has five fields (minute, hour, day of the month, month, day of the week), or six with the "
            f"second in front; this one has {len(line.split())}."
        )
    field = said.removeprefix("Bad ")
    if field == "day-of-month" and line.split()[-3].isdigit() and 1 <= int(line.split()[-3]) <= 31:
        return "no month of these has such a day."
    return f"its {field} field is wrong. A line is like '*/15 8-17 * * MON-FRI', or '0 3 1,15 * *'."


def _known_zone(told: str, zone: Any) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if not isinstance(zone, str):
        raise DeclarationError(f"{told}: zone={zone!r} is not the name of a time zone, such as 'Europe/Berlin'.")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DeclarationError(
            f"{told}: this system knows no time zone {zone!r}. Names are like 'Europe/Berlin' or 'UTC'; a system that "
            f"has none at all gets them with pip install tzdata."
        ) from error
    return zone


def schedule_of(spec: str) -> Schedule:
    """Of a stored rule."""
    kind, _, rest = spec.partition(" ")
    if kind == "every":
        return Every(int(rest.removesuffix("us")))
    zone, _, line = rest.partition(" ")
    return Cron(line, zone)


# --- what of it to run ------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What is done at once: the tick to bring in, if any, and the time up to which the schedule is dealt with."""

    tick: int | None
    upto: int


def next_step(schedule: Schedule, missed: Missed, since: int, now: int) -> Step | None:
    """What follows `since`, up to which the schedule was dealt with. None: nothing is due."""
    due = schedule.after(since)
    if due > now:
        return None
    last = due if schedule.after(due) > now else schedule.back(now, 1)
    if missed == "all":
        first = _oldest(schedule, due, last, now)
        return Step(first, first)
    if missed == "skip" and now - last > GRACE_US:
        return Step(None, last)
    return Step(last, last)


def _oldest(schedule: Schedule, due: int, last: int, now: int) -> int:
    """The first to be run of all that were missed."""
    if last - due < (ALL_MAX - 1) * SECOND_US:  # a look at the times is not needed to see that they are few
        return due
    return max(due, schedule.back(now, ALL_MAX)) if _are_many(schedule, due, now) else due


def _are_many(schedule: Schedule, due: int, now: int) -> bool:
    if isinstance(schedule, Every):
        return True
    for _ in range(ALL_MAX):
        due = schedule.after(due)
        if due > now:
            return False
    return True


def check_missed(where: str, missed: Any) -> None:
    if missed not in get_args(Missed):
        raise DeclarationError(f"{where}: missed={missed!r} is none of 'once', 'all' and 'skip'.")
