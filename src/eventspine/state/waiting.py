"""Read your writes: wait until a view has come to an event.

The event is looked for in this journal's own feed, by its id, since a receipt may be of another journal, from which the
event comes over a broker; one that is not here yet is waited for like one that is not handled yet. Then the projection's
cursor has to pass it, and nothing of it may be parked. A projection that reads none of the event's types is past it as
soon as it has read on: its cursor moves over what it does not want as well."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import SettingsError, ViewBehind, ViewRefused
from ..ids import id_bytes, id_text
from ..journal.port import Delivery, Journal, Record
from . import versions
from .progress import Progress, held_up_by, progress_of
from .views import ViewType

if TYPE_CHECKING:
    from ..publishing import Receipt

FIRST_S, MOST_S = 0.002, 0.05  # between two looks


class Wanting(NamedTuple):
    """What is still missing."""

    id: bytes
    record: Record | None  # None: it is not in the feed yet
    progress: Progress | None
    held: Delivery | None  # it was handled, and failed


async def wait(journal: Journal, view: ViewType, events: Sequence[Receipt | str], timeout_s: float) -> None:
    if not events:
        raise SettingsError("wait() takes receipts, or ids of events: view.wait(await spine.publish(...)).")
    missing: dict[bytes, Record | None] = {_id_of(event): None for event in events}
    until = asyncio.get_running_loop().time() + timeout_s
    pause_s = FIRST_S
    while missing:
        stored = await versions.known(journal, view.name)
        wanting = await _wanting(journal, stored, missing)
        if not wanting:
            return
        missing = {one.id: one.record for one in wanting}
        left_s = until - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise await _behind(journal, view, stored, wanting[0], timeout_s)
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, MOST_S)


def _id_of(event: Receipt | str) -> bytes:
    if isinstance(event, str):
        return id_bytes(event)
    if not hasattr(event, "event_id"):
        raise SettingsError(f"wait() takes receipts, or ids of events, and {event!r:.100} is neither.")
    if event.due is not None:
        raise ViewRefused(f"The event {event.id} is scheduled for {event.due.isoformat()}, and not published before.")
    return event.event_id


async def _wanting(
    journal: Journal, stored: versions.Known | None, missing: Mapping[bytes, Record | None]
) -> list[Wanting]:
    """Of those that were missing at the last look, with their records where these were found already."""
    progress = None
    if stored is not None:
        progress = await progress_of(journal, stored.service, stored.versions[stored.active].subscription)
    wanting = []
    for id, found in missing.items():
        record = await journal.event(id) if found is None else found
        if record is None or progress is None or not progress.is_past(record):
            wanting.append(Wanting(id, record, progress, None))
        elif (held := await _held(journal, progress, id)) is not None:
            wanting.append(Wanting(id, record, progress, held))
    return wanting


async def _held(journal: Journal, progress: Progress, id: bytes) -> Delivery | None:
    """Of a projection that goes on beside an event that failed."""
    rows = await journal.deliveries(
        subscriptions=[progress.subscription.number], states=["parked", "dead", "held"], events=[id], records=False
    )
    return rows[0] if rows else None


async def _behind(
    journal: Journal, view: ViewType, stored: versions.Known | None, one: Wanting, timeout_s: float
) -> ViewBehind:
    name, id = view.name, id_text(one.id)
    if stored is None or one.progress is None:
        why = "nobody has kept it on this journal yet. Run the service whose projection does"
    elif one.record is None:
        why = "the event is not in this journal's feed. Was it committed, and does it come here?"
    elif one.held is not None:
        why = f"the event was handled and failed ({one.held.reason}); it is {one.held.state}. See `spine {one.held.state} list`"
    elif (standing := await held_up_by(journal, one.progress.subscription)) is not None:
        why = (
            f"{one.progress.subscription.name} stands at the event {standing.position:,}, which failed ({standing.reason}) and is "
            f"{standing.state}. See `spine {standing.state} show {standing.number}`"
        )
    else:
        why = _what_is_in_its_way(one.progress, one.record)
    events = (
        None if one.record is None else max(0, one.record.position - (one.progress.position if one.progress else 0))
    )
    return ViewBehind(
        f"The view {name} has not come to event {id} within {timeout_s:g} s: {why}.",
        view=name,
        event=id,
        events=events,
        position=None if one.record is None else one.record.position,
        reached=None if one.progress is None else one.progress.position,
    )


def _what_is_in_its_way(progress: Progress, record: Record) -> str:
    row = progress.subscription
    if row.state != "active":
        return f"{row.name} is {row.state}. See `spine subscriptions`"
    behind = record.position - progress.position
    return (
        f"{row.name} is at position {progress.position:,}, and the event at {record.position:,} ({behind:,} to go). Give it longer "
        "with timeout_s=, or see with `spine views list` whether it moves"
    )
