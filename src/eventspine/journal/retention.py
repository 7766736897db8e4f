"""How long events are kept, and how far they may be deleted. Pure functions; both journals execute them.

A channel is kept for ever unless a service that publishes it says otherwise. What several say is added up to the safe
side: the longest time counts.

* Of one service, what it says with its newest start counts, and what it said in the day before: while releases with
  different values run side by side, and for a day after, the longer one wins. A longer time counts at once.
* A service that no longer says anything has its channels kept for ever for a day; from then on it has no opinion.
* Of several services, the longest.

However old it is, nothing is deleted beyond a cursor of a subscription that reads the channel, be it active, paused or
suspended; only a retired one is no longer waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .port import OWN_FEED, Cursor, Deleted, Keep, Subscription

SIDE_BY_SIDE_US = 24 * 3_600_000_000
SAY_AGAIN_US = 3_600_000_000  # who runs says it again, so that it is known to run
_NEVER = 0  # no channel is kept for no time


# --- what services say ------------------------------------------------------------------------------------------------


def said(
    stored: Sequence[Keep], service: str, channels: Mapping[str, int | None], now_us: int
) -> Sequence[Keep] | None:
    """What is stored once `service` has said this; None: nothing new."""
    mine = [row for row in stored if row.service == service]
    limited = {row.channel for row in mine if row.keep_us is not None}
    # Whoever keeps for ever says so only where somebody said otherwise.
    words = {name: keep_us for name, keep_us in channels.items() if keep_us is not None or name in limited}
    words |= dict.fromkeys(limited - channels.keys())
    last = {row.channel: row for row in sorted(mine, key=lambda row: row.said_us)}
    lately = {row[1:3] for row in last.values() if now_us - row.said_us < SAY_AGAIN_US}
    if words.items() <= lately:
        return None
    now_us = max([now_us, *(row.said_us + 1 for row in last.values())])  # which word was the last is known by its time
    new = [Keep(service, name, keep_us, now_us) for name, keep_us in words.items()]
    before = [row for row in mine if words.get(row.channel, _NEVER) != row.keep_us and _is_recent(row, now_us)]
    others = [row for row in stored if row.service != service]
    return sorted([*others, *before, *new], key=lambda row: (row.service, row.channel, row.said_us))


def _is_recent(row: Keep, now_us: int) -> bool:
    return now_us - row.said_us < SIDE_BY_SIDE_US


def kept(stored: Sequence[Keep], now_us: int) -> dict[str, int]:
    """For how long (microseconds) the events of each channel are kept; those kept for ever are left out."""
    found: dict[str, int] = {}
    for channel in {row.channel for row in stored}:
        opinions = [
            opinion
            for service in {row.service for row in stored if row.channel == channel}
            for opinion in _opinions([row for row in stored if row[:2] == (service, channel)], now_us)
        ]
        if opinions and None not in opinions:
            found[channel] = max(opinion for opinion in opinions if opinion is not None)
    return found


def _opinions(rows: Sequence[Keep], now_us: int) -> list[int | None]:
    """Of one service on one channel. With the last word, that it says nothing any more, its earlier ones lapse too."""
    newest = max(rows, key=lambda row: row.said_us)
    if newest.keep_us is None and not _is_recent(newest, now_us):
        return []
    side_by_side = [row for row in rows if newest.said_us - row.said_us < SIDE_BY_SIDE_US]
    return [row.keep_us for row in side_by_side if row.keep_us is not None or _is_recent(row, now_us)]


# --- how far --------------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """The hindmost cursor of those that read a channel."""

    position: int
    subscription: Subscription


def held(subscriptions: Iterable[Subscription], cursors: Iterable[Cursor], channel: str) -> Held | None:
    """None: nobody reads it."""
    readers = {row.number: row for row in subscriptions if row.state != "retired" and channel in row.channels}
    places = [
        Held(cursor.position, readers[cursor.subscription])
        for cursor in cursors
        if cursor.subscription in readers and cursor.feed == OWN_FEED
    ]
    return min(places, key=lambda place: place.position, default=None)


# --- for operators ----------------------------------------------------------------------------------------------------


def in_words(keeps: Mapping[str, int]) -> str | None:
    """`audit 365d, orders 90d`"""
    return ", ".join(f"{channel} {duration(keep_us)}" for channel, keep_us in sorted(keeps.items())) or None


class HeldBack(NamedTuple):
    """Somebody has not come as far as would be deleted."""

    channel: str
    upto: int  # would be deleted, as far as time goes
    position: int  # of the cursor
    subscription: Subscription

    def __str__(self) -> str:
        who = self.subscription
        state = "" if who.state == "active" else f" ({who.state})"
        return f"{who.name}{state} holds {self.channel} at {self.position:,} of {self.upto:,}"


def held_back(
    due: Mapping[str, int], subscriptions: Sequence[Subscription], cursors: Sequence[Cursor]
) -> list[HeldBack]:
    """`due`: by channel, the last position that is old enough."""
    places = {channel: held(subscriptions, cursors, channel) for channel in due}
    return [
        HeldBack(channel, due[channel], *place)
        for channel, place in sorted(places.items())
        if place is not None and place.position < due[channel]
    ]


class Facts(NamedTuple):
    """What a store knows of its growth."""

    oldest: tuple[int, int] | None  # position and time of the first event that is there
    keeps: Mapping[str, int]
    deleted: Sequence[Deleted]
    held_back: Sequence[HeldBack]

    def described(self) -> dict[str, str | int | None]:
        """As `describe` shows it."""
        return {
            "oldest_position": self.oldest[0] if self.oldest else None,
            "oldest_us": self.oldest[1] if self.oldest else None,
            "retention": in_words(self.keeps),
            "retention_deleted": sum(row.events for row in self.deleted),
            "retention_held_by": "; ".join(map(str, self.held_back)) or None,
        }


def duration(us: int) -> str:
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000)):
        if us >= size and us % size == 0:
            return f"{us // size}{unit}"
    return f"{us / 1e6:g}s"


def deleted_after(deleted: Iterable[Deleted], channels: Iterable[str], position: int) -> list[Deleted]:
    """What somebody who begins after `position` won't find any more, of these channels."""
    wanted = set(channels)
    return [row for row in deleted if row.channel in wanted and row.position > position]
