"""Times and durations as people type and read them. Times are shown in UTC; one typed needs a zone or is relative."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click

from ..durations import parse_duration


def now_us() -> int:
    return time.time_ns() // 1000


def parse_time(text: str) -> datetime | None:
    """ISO 8601 with a zone; None when it is no time. One without a zone is refused, never guessed."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    if parsed.tzinfo is None:
        whole = text if _is_time(f"{text}Z") else f"{text}T00:00"  # a day alone takes no zone
        raise click.BadParameter(
            f"{text!r} has no time zone. Add one: {whole}Z is UTC, {whole}+02:00 two hours east of it."
        )
    return parsed


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


# Those below are click types: they take what was typed, and refuse it with what to type instead.


def duration(text: str) -> timedelta:
    parsed = parse_duration(text)
    if parsed is None:
        raise click.BadParameter(f"{text!r} is no duration. Write 90s, 15m, 1h30m or 2d.")
    return parsed


def moment(text: str) -> datetime:
    return _moment(text)


def _moment(text: str, or_else: str = "") -> datetime:
    parsed = parse_time(text)
    if parsed is None:
        raise click.BadParameter(f"{text!r} is no time. Write it as 2026-03-01T12:00:00Z{or_else}.")
    return parsed


def past(text: str) -> datetime:
    """A time, or how long ago."""
    if (ago := parse_duration(text)) is None:
        return _moment(text, ", or how long ago: 2h")
    try:
        return datetime.now(UTC) - ago
    except OverflowError:
        raise click.BadParameter(f"{text!r} ago is before the calendar begins.") from None


def place(text: str) -> str | int | datetime:
    """A place in the feed; `journals.position_of` resolves it."""
    if text in ("earliest", "now"):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    if (ago := parse_duration(text)) is not None:
        with suppress(OverflowError):
            return datetime.now(UTC) - ago
    if (when := parse_time(text)) is not None:
        return when
    raise click.BadParameter(
        f"{text!r} is no place in the feed. Say earliest, now, a position, a time, or how long ago (10m)."
    )


def iso(us: int) -> str:
    """The whole time, to the microsecond where it has any, as JSON shows it."""
    try:
        seconds, rest = divmod(us, 1_000_000)
        whole = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError, OSError):
        return f"{us}us"  # beyond the years that a calendar has; stored all the same
    return whole.isoformat().replace("+00:00", "Z")


def clock_time(us: int) -> str:
    """To the millisecond: what a line has room for."""
    whole = iso(us)
    return whole[:19] + f".{us // 1000 % 1000:03d}Z" if whole.endswith("Z") else whole


def span(us: int) -> str:
    """How long, in at most two units: `12ms`, `3.5s`, `4m05s`, `2h10m`, `3d4h`."""
    sign, us = ("-", -us) if us < 0 else ("", us)
    seconds = us / 1_000_000
    if us < 10_000:
        return f"{sign}{us / 1000:.1f}ms".replace(".0ms", "ms")
    if seconds < 1:
        return f"{sign}{round(us / 1000)}ms"
    if seconds < 60:
        return f"{sign}{seconds:.1f}s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{sign}{days}d{hour}h"
    return f"{sign}{hours}h{minute:02d}m" if hours else f"{sign}{minutes}m{second:02d}s"


def due_in(due_us: int, now: int) -> str:
    return "now" if due_us <= now else f"in {span(due_us - now)}"
