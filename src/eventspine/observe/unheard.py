"""A notice that an event type was published to which nobody subscribes in this journal: once per type and process.

It is no error: facts are published whether anybody listens or not. But it is also what a misspelt context looks like, or
a service that was never started: then somebody waits in vain for what is to come of it, and is warned. What a handler publishes
is the end of its own work, and that nobody goes on from there is mostly how it is meant: a line for who wants to know.

Publishers only note the type's name, of what they did not refuse, in `published` or, as a handler's, in `answered`; the stored
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
        self.answered: dict[str, str] = {}  # the same, by handlers
        self._looked_at: set[str] = set()
        self._seen = 0  # how many there were in both
        self.asked = False  # somebody is about to look

    @property
    def to_look_at(self) -> bool:
        return len(self.published) + len(self.answered) > self._seen and not self.asked

    async def look(self) -> None:
        self.asked = False
        seen, self._seen = self._seen, len(self.published) + len(self.answered)
        contexts = self.answered | self.published
        new = contexts.keys() - self._looked_at
        if not new:
            return
        self._looked_at |= new
        try:
            stored = await self._journal.subscriptions()
        except JournalError:
            self._looked_at -= new  # whoever needs the journal hears of that; this can wait
            self._seen = seen
            return
        for name in sorted(new):
            if not any(hears(row, contexts[name], name) for row in stored):
                log.log(
                    logging.WARNING if name in self.published else logging.INFO,
                    "%s has no subscriber yet in this journal; what is published is stored all the same. A new service "
                    'begins with the earliest event, and so does a handler added to a known service if it says start="earliest".',
                    name,
                )


def hears(subscription: Subscription, channel: str, name: str) -> bool:
    types = subscription.types  # none: all of its channels
    wanted = not types or any(name == type for type, _ in types)
    return subscription.state != "retired" and channel in subscription.channels and wanted
