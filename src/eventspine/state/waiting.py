"""Read your writes: wait until a view has come to an event.

The event is looked for in this journal's own feed, by its id, since a receipt may be of another journal, from which the
event comes over a broker; one that is not here yet is waited for like one that is not handled yet. Then the projection's
cursor has to pass it, and nothing of it may be parked. A projection that reads none of the event's types is past it as
soon as it has read on: its cursor moves over what it does not want as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import SettingsError, ViewBehind, ViewRefused
from ..ids import id_bytes, id_text
from ..journal.port import Delivery, Journal, Record
from . import versions
from .progress import Progress, held_up_by, progress_of
from .token import Token
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


async def wait(journal: Journal, view: ViewType, events: Sequence[Receipt | str | Token], timeout_s: float) -> None:
    waiting = Waiting(journal, view, events, timeout_s, asyncio.get_running_loop().time)
    while (pause_s := await waiting.look()) is not None:  # noqa: ASYNC110 -- what is waited for is in a database
        await asyncio.sleep(pause_s)


class Waiting:
    """`look` until it says that there is nothing left to wait for."""

    def __init__(
        self,
        journal: Journal,
        view: ViewType,
        events: Sequence[Receipt | str | Token],
        timeout_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not events:
            raise SettingsError("wait() takes receipts, or ids of events: view.wait(await spine.publish(...)).")
        self._journal, self._view, self._timeout_s = journal, view, timeout_s
        self._missing: dict[bytes, Record | None] = dict.fromkeys(id for event in events for id in _ids_of(event))
        self._now = now
        self._until = now() + timeout_s
        self._pause_s = FIRST_S

    async def look(self) -> float | None:
        """How long to wait before the next look; None: the view has come to all of them. Raises ViewBehind."""
        if not self._missing:
            return None
        stored = await versions.known(self._journal, self._view.name)
        wanting = await _wanting(self._journal, stored, self._missing)
        self._missing = {one.id: one.record for one in wanting}
        if not wanting:
            return None
        left_s = self._until - self._now()
        if left_s <= 0:
            raise await _behind(self._journal, self._view, stored, wanting[0], self._timeout_s)
        pause_s, self._pause_s = min(self._pause_s, left_s), min(self._pause_s * 1.5, MOST_S)
        return pause_s


def _ids_of(event: Receipt | str | Token) -> Sequence[bytes]:
    return event.ids if isinstance(event, Token) else [_id_of(event)]


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
