"""Cutting streams off: who still needs what would be deleted. Pure; every journal asks it inside its transaction.

Versions below one are deleted, and the last event of a stream always stays: so its version is known, none is given out
twice, and whoever decided on an older one gets a conflict. A stream that is over ends with an event that says so (see
state/ended.py), and is cut off before that.

An event is needed while a subscription that reads its channel has not come past it, be it active, paused or suspended, and
while a delivery of such a one is parked, dead or held. A view, and one that is being built anew, is such a subscription.
What a retired one has left unfinished was given up with it, and goes with the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import Conflict, StreamNeeded, TruncationRefused, VersionsDeleted
from ..wording import plural
from .port import OWN_FEED, PARTITIONS, WHOLE_FEED, Cursor, Deleted, Subscription

PRIVATE = ""  # in place of a channel, of events that have none
NAMED_MAX = 5  # a message names so many, and says how many more there are


class Old(NamedTuple):
    """An event that would be deleted."""

    position: int
    channel: str | None
    slot: int
    recorded_us: int


class Open(NamedTuple):
    """A delivery of one that is not settled."""

    number: int
    subscription: int
    state: str


def check_version(service: str, stream: str, version: int, before: int, expected: int | None) -> None:
    if expected not in (None, version):
        raise Conflict(
            f"The stream {stream!r} is at version {version}, not {expected}. Look at it again before you delete of it.",
            stream=stream,
            expected=expected,
            version=version,
        )
    if before > version:
        raise TruncationRefused(
            f"{stream} of {service} has {plural(version, 'version')}; its last event stays. Name one up to {version:,}, whose "
            "event restates what came before it."
        )


def refuse_needed(
    service: str,
    stream: str,
    old: Sequence[Old],
    subscriptions: Sequence[Subscription],
    cursors: Iterable[Cursor],
    deliveries: Sequence[Open],
) -> None:
    behind = _behind(old, {row.number: row for row in subscriptions if row.state != "retired"}, cursors)
    retired = {row.number for row in subscriptions if row.state == "retired"}
    deliveries = [row for row in deliveries if row.subscription not in retired]
    if not behind and not deliveries:
        return
    names = {row.number: row.name for row in subscriptions}
    told = [_named(*one) for one in behind.values()]
    told += [
        f"delivery {row.number} of {names.get(row.subscription, row.subscription)} is {row.state}" for row in deliveries
    ]
    more = f", and {len(told) - NAMED_MAX:,} more" if len(told) > NAMED_MAX else ""
    raise StreamNeeded(
        f"Nothing of {stream} of {service} was deleted, for it is still needed: {'; '.join(told[:NAMED_MAX])}{more}. "
        f"{_ways_on(bool(behind), {row.state for row in deliveries})} Then ask again.",
        service=service,
        stream=stream,
        subscriptions=[row.name for row, *_ in behind.values()],
        deliveries=[row.number for row in deliveries],
    )


def _ways_on(behind: bool, states: set[str]) -> str:
    """What may be done about them, each with its command."""
    ways = []
    if behind:
        ways.append("run or resume what has not read it (`spine subscriptions`)")
    if states & {"parked", "held"}:
        ways.append("wait for what is parked, or retry or skip it (`spine parked list|retry|skip`)")
    if states & {"dead", "held"}:
        ways.append("replay or drop what is dead (`spine dead list|replay|drop`)")
    held = " What is held goes on once the one before it, of its key, is settled." if "held" in states else ""
    return (
        f"Have them go on: {'; '.join(ways)}.{held} Or give up who is not to have it any more: `spine subscriptions retire`, "
        "or for a view `spine views drop`."
    )


def _behind(
    old: Sequence[Old], reading: dict[int, Subscription], cursors: Iterable[Cursor]
) -> dict[int, tuple[Subscription, int, int]]:
    """By number: those that have not come past one of these, the hindmost place where they stand, and where they have to be."""
    found: dict[int, tuple[Subscription, int, int]] = {}
    last = _last(old)
    for cursor in cursors:
        row = reading.get(cursor.subscription)
        if row is None or cursor.feed != OWN_FEED:
            continue
        needed = max(
            (
                position
                for (channel, partition), position in last.items()
                if channel in row.channels and cursor.partition in (WHOLE_FEED, partition)
            ),
            default=0,
        )
        if needed > cursor.position:
            _, position, upto = found.get(row.number, (row, cursor.position, needed))
            found[row.number] = (row, min(cursor.position, position), max(needed, upto))
    return dict(sorted(found.items()))


def _last(old: Sequence[Old]) -> dict[tuple[str, int], int]:
    """The last position of each channel and partition."""
    found: dict[tuple[str, int], int] = {}
    for event in old:
        if event.channel is not None:
            place = (event.channel, event.slot % PARTITIONS)
            found[place] = max(event.position, found.get(place, 0))
    return found


def _named(row: Subscription, position: int, needed: int) -> str:
    state = "" if row.state == "active" else f" ({row.state})"
    return f"{row.name}{state} has come to position {position:,}, and has to come to {needed:,}"


def summed(before: Iterable[Deleted], old: Sequence[Old]) -> list[Deleted]:
    """What is stored of what was cut, once these are."""
    rows = {row.channel: row for row in before}
    for event in old:
        channel = event.channel or PRIVATE
        known = rows.get(channel, Deleted(channel, 0, 0, 0))
        last = max((known.position, known.recorded_us), (event.position, event.recorded_us))
        rows[channel] = Deleted(channel, *last, known.events + 1)
    return [row for _, row in sorted(rows.items())]


def begins_later(service: str, stream: str, first: int) -> VersionsDeleted:
    return VersionsDeleted(
        f"{stream} of {service} begins with version {first:,}: those before were deleted. Read it from there.",
        service=service,
        stream=stream,
        first=first,
    )
