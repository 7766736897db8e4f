"""What the value of a setting may be, wherever it was said: as text (flag, environment) or as TOML has it (file).

A value that can't be meant is refused with what it should look like; never rounded, cut or guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from math import isfinite
from typing import Any, NamedTuple

from .durations import in_words, parse_duration

LOOPBACK = "127.0.0.1"
COUNT_MAX = 1_000  # processes; a zero too many is not to take the host down
KEEP = "keep"  # of a retention: for ever
_SEPARATORS = re.compile(r"[,\s]+")


class Refused(ValueError):
    """What should have been said instead."""


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Reader = Callable[[Any], Any]  # of what TOML or a text has; raises Refused


def url(value: Any) -> str:
    if not isinstance(value, str) or "://" not in value:
        raise Refused("a URL, such as sqlite:///spine.db, sqlite:////var/lib/shop/spine.db or postgresql://host/shop")
    return value


def broker(value: Any) -> str:
    if not isinstance(value, str) or "://" not in value:
        raise Refused("the URL of a broker, such as kafka://localhost:9092 or nats://localhost:4222")
    return value


def modules(value: Any) -> tuple[str, ...]:
    names = _SEPARATORS.split(value.strip(", \t\n")) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise Refused('a list of modules, such as ["shop.inventory", "shop.email:email"]')
    return tuple(name.strip() for name in names)


def seconds(value: Any) -> float:
    number = _number(value, float)
    if number is None or not isfinite(number) or number < 0:
        raise Refused("a number of seconds, such as 30")
    return float(number)


def count(value: Any) -> int:
    number = _number(value, int)
    if number is None or isinstance(number, float) or not 1 <= number <= COUNT_MAX:
        raise Refused(f"a whole number from 1 to {COUNT_MAX:,}, such as 2")
    return int(number)


def _number(value: Any, kind: type[int | float]) -> int | float | None:
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def one_of(*words: str) -> Reader:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value.lower() not in words:
            raise Refused(f"one of {', '.join(words)}")
        return value.lower()

    return read


def address(value: Any) -> Address:
    """A port alone is one on the loopback interface: who wants to be reached from elsewhere says so."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536) or "/" in host:
        raise Refused("a port such as 8099 (on this host alone), or an address and a port such as 0.0.0.0:8099")
    return Address(host, int(port))


def retention(value: Any) -> Mapping[str, timedelta | None]:
    """By channel how long events are kept, None for ever; `*` stands for every channel that has no word of its own."""
    expected = 'channels with how long to keep their events, such as orders = "90d", audit = "keep", "*" = "365d"'
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in _SEPARATORS.split(value.strip(", \t\n")) if pair]
        if not all(equals for _, equals, _ in pairs):
            raise Refused('channels with how long to keep their events, such as "orders=90d, audit=keep, *=365d"')
        value = {channel: kept for channel, _, kept in pairs}
    if not isinstance(value, Mapping):
        raise Refused(expected)
    return {channel: _kept(channel, kept) for channel, kept in value.items()}


def _kept(channel: str, value: Any) -> timedelta | None:
    if value == KEEP:
        return None
    kept = parse_duration(value) if isinstance(value, str) else None
    if kept is None or not kept:
        raise Refused(f'"keep", or a duration such as "90d" or "36h", for the channel {channel!r}')
    return kept


def plain(value: Any) -> Any:
    """A value as JSON and a settings file would have it."""
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, timedelta):
        return in_words(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return {name: KEEP if each is None else plain(each) for name, each in value.items()}
    return value
