"""How far a projection has come: where its cursors stand, and what holds it up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..journal.cursors import is_finished
from ..journal.port import OWN_FEED, Cursor, Delivery, Journal, Record, State, Subscription


class Progress(NamedTuple):
    subscription: Subscription
    cursors: Mapping[int, Cursor]

    @property
    def position(self) -> int:
        """Everything up to here is finished."""
        return min((cursor.position for cursor in self.cursors.values()), default=0)

    def is_past(self, record: Record) -> bool:
        """Whether the cursor is past this event. One that failed may be parked even so."""
        cursor = self.cursors.get(self.subscription.partition_of(record))
        return cursor is not None and is_finished(cursor.position, cursor.beyond, record.position)


async def progress_of(journal: Journal, service: str, name: str) -> Progress | None:
    """None: it has not registered yet, or is retired."""
    stored = [row for row in await journal.subscriptions(service) if row.name == name and row.state != "retired"]
    if not stored:
        return None
    cursors = await journal.cursors([stored[0].number])
    return Progress(stored[0], {cursor.partition: cursor for cursor in cursors if cursor.feed == OWN_FEED})


async def held_up_by(journal: Journal, subscription: Subscription) -> Delivery | None:
    """The first event that it has not got past; None: nothing but time is in its way."""
    states: list[State] = ["parked", "dead"] if subscription.on_dead == "waits" else ["parked"]
    rows = await journal.deliveries(subscriptions=[subscription.number], states=states, limit=1, records=False)
    return rows[0] if rows else None
