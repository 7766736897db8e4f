"""A notice that an event type was published to which nobody subscribes in this journal: once per type and process.

It is no error: facts are published whether anybody listens or not. But it is also what a misspelt context looks like, or
a service that was never started. Publishers only note the type's name in `published`, of what they did not refuse; the stored
subscriptions are looked at in the background, when there is a name that was not there before.
"""

from __future__ import annotations

import logging

from ..errors import JournalError
from ..journal.port import Journal, Subscription

log = logging.getLogger("eventspine.publishing")


class Unheard:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.published: dict[str, str] = {}  # by type, its context
        self._looked_at: set[str] = set()
        self.asked = False  # somebody is about to look

    @property
    def to_look_at(self) -> bool:
        return len(self.published) > len(self._looked_at) and not self.asked

    async def look(self) -> None:
        self.asked = False
        new = self.published.keys() - self._looked_at
        if not new:
            return
        self._looked_at |= new
        try:
            stored = await self._journal.subscriptions()
        except JournalError:
            self._looked_at -= new  # whoever needs the journal hears of that; this can wait
            return
        for name in sorted(new):
            if not any(hears(row, self.published[name], name) for row in stored):
                log.warning(
                    "%s has no subscriber yet in this journal; what is published is stored all the same. A new service "
                    'begins with the earliest event, and so does a handler added to a known service if it says start="earliest".',
                    name,
                )


def hears(subscription: Subscription, channel: str, name: str) -> bool:
    types = subscription.types  # none: all of its channels
    wanted = not types or any(name == type for type, _ in types)
    return subscription.state != "retired" and channel in subscription.channels and wanted
