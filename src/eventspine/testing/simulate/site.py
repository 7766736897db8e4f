"""A journal of a history, and what runs on it. Without a broker there is one; with one, each service has its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...clock import Clock
from ...journal import _memory_control
from ...journal.port import Delivery as Row, Record, Subscription
from ...periodic import is_ticks
from ...service import Service
from .shared import SharedJournal, Tables


class Dead(NamedTuple):
    """A delivery that was given up."""

    handler: str  # "service.name"
    key: str | None
    attempts: int
    reason: str
    error: str
    number: int  # of its row


class Site:
    def __init__(self, name: str, clock: Clock, services: Sequence[Service[Any]], speaks: Service[Any] | None) -> None:
        self.name = name
        self.services = tuple(services)  # that run here
        self.speaks = speaks  # whom the world outside publishes for here, if it does
        self.tables = Tables()
        self.journal = SharedJournal(clock, self.tables)
        self._registered = False  # once they are, they are for good
        self.dropped: list[Row] = []  # by the operator, as they were
        self.head = 0  # of the feed, when all was finished; what comes later is no longer waited for

    @property
    def records(self) -> list[Record]:
        """The feed."""
        return self.journal._tables.feed

    @property
    def subscriptions(self) -> list[Subscription]:
        return list(self.journal._tables.subscriptions.values())

    @property
    def publishes(self) -> set[str]:
        """Channels whose events begin here."""
        speakers = self.services if self.speaks is None else (*self.services, self.speaks)
        return {channel for service in speakers for channel in service.publishes}

    @property
    def consumes(self) -> set[str]:
        """Channels whose events are brought here by a broker, if there is one."""
        kinds = [kind for service in self.services for handler in service.handlers.values() for kind in handler.types]
        return {kind.context for kind in kinds if not is_ticks(kind.context)} - self.publishes

    def rows(self, *states: str) -> list[Row]:
        return [row for row in self.journal._tables.deliveries.values() if row.state in states]

    def dues(self) -> Iterator[int]:
        """When events are that were scheduled, and attempts that are to come."""
        yield from (timer.due_us for timer in self.journal._tables.timers.values())
        yield from (row.due_us for row in self.rows("parked") if row.due_us is not None)

    def given_up(self, rows: Sequence[Row]) -> list[Dead]:
        """As scenarios and invariants see them."""
        names = {row.number: row.name for row in self.subscriptions}
        return [Dead(names[row.subscription], row.key, row.attempts, row.reason, row.error, row.number) for row in rows]

    @property
    def registered(self) -> bool:
        if not self._registered:
            declared = sum(len(service.handlers) for service in self.services)
            stored = self.journal._tables.subscriptions.values()
            self._registered = sum(":" not in one.service for one in stored) >= declared
        return self._registered

    def unfinished(self) -> list[str]:
        """What subscriptions have still to do."""
        tables = self.journal._tables
        waiting = [f"{len(tables.timers)} scheduled"] * bool(tables.timers)
        for one in tables.subscriptions.values():
            rows = [row for row in self.rows("parked", "held", "dead") if row.subscription == one.number]
            stopped = {row.key for row in rows if row.state == "dead"} if one.on_dead == "waits" else set()
            parked = sum(row.state != "dead" and row.key not in stopped for row in rows)
            left = 0 if stopped and one.order == "feed" else _memory_control._unfinished(tables, one)
            if left or (parked and not (stopped and one.order == "feed")):  # the others wait for an operator
                waiting.append(f"{one.name}: {left} to read, {parked} parked")
        return waiting
