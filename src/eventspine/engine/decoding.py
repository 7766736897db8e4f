"""The events of a run, read; and what becomes of those that can't be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..journal.port import Record
from .lanes import Item, Lane

if TYPE_CHECKING:
    from .subscription import Subscription


class Decoded(NamedTuple):
    events: list[Any]
    items: list[Item]  # theirs
    broken: list[tuple[Item, BaseException]]
    followers: list[Item]  # to be handled again, behind what can't be read


def decoded(subscription: Subscription, items: list[Item]) -> Decoded:
    """One that can't be read and has others of its key before it in this run is left to a later one, which it begins."""
    events: list[Any] = []
    kept: list[Item] = []
    broken: list[tuple[Item, BaseException]] = []
    followers: list[Item] = []
    stopped: set[Lane] = set()
    decoders, decode_any = subscription.decoders, subscription.decode
    for item in items:
        if stopped and item.lane in stopped:
            followers.append(item)
            continue
        record: Record = item.record  # type: ignore[assignment]  # loaded when the run was gathered
        try:
            decode, _, version = decoders[record[5]]
            events.append(decode(record[14]) if record[6] == version else decode_any(record))
            kept.append(item)
        except Exception as error:
            stopped.add(item.lane)
            if all(one.lane is not item.lane for one in kept):
                broken.append((item, error))
            else:  # it may not be finished before those, nor its lane held meanwhile
                followers.append(item)
    return Decoded(events, kept, broken, followers)
