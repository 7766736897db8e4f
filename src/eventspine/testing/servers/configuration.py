"""Configuration files, in the two notations that servers have: a line for each `key=value`, or `key: value`."""

from __future__ import annotations

from collections.abc import Mapping


def lines(settings: Mapping[str, object], between: str = "=") -> str:
    return "".join(f"{key}{between}{value}\n" for key, value in settings.items())
