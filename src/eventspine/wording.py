"""Counts in messages: one event, two events."""

from __future__ import annotations


def plural(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"
