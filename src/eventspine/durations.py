"""Durations as people write them, and as they are told again: exactly. How long something took is cut to two units in cli/times.py."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_duration(text: str) -> timedelta | None:
    """`90s`, `1h30m`, `250ms`, `2d`; None when it is no duration, or one that leaves the calendar."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        return None


def in_words(duration: timedelta) -> str:
    """`90d`, `1h30m`: what `parse_duration` reads back, to the millisecond."""
    rest = round(duration.total_seconds() * 1000)
    said = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        many, rest = divmod(rest, size)
        said += f"{many}{unit}" if many else ""
    return said or "0s"


def in_seconds(duration: timedelta) -> str:
    """`0.5 s`, `2,592,000 s`: as messages have what is given in seconds."""
    return f"{duration.total_seconds():,.12g} s"
