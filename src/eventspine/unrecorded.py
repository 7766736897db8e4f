"""Sending straight to a broker, without a journal, for programs that can't have one. It is named for what it lacks:

    async with WithoutJournal("nats://localhost:4222", service=storefront) as sender:
        await sender.send(OrderPlaced(...))

Nothing is stored here, so nothing is sent again later, numbered, scheduled, or committed with anything else. When `send`
returns the broker has the events; while it is away, `send` raises. Whoever sends again does so under the same id, by
which subscribers of ours drop the second."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from .brokers import open_broker
from .brokers.binding import message_of
from .brokers.limits import Limit
from .brokers.port import Broker, Needs, Sent
from .clock import SystemClock
from .errors import BrokerError, EventRefused, MessageRefused, OutcomeUnknown
from .ids import IdSource, id_bytes, id_text
from .journal.port import Record
from .observe.correlation import current
from .publishing import Publisher, through
from .service import Middleware, Service, check_services


class WithoutJournal:
    """`broker` is a URL, or a broker; `service` is whom this program sends for: the envelope's `source`, and what it may
    send. Connects at first use, or as `async with`."""

    def __init__(self, broker: str | Broker, *, service: Service[Any], middleware: Sequence[Middleware] = ()) -> None:
        check_services([service])
        clock = SystemClock()
        self.broker = open_broker(broker) if isinstance(broker, str) else broker
        self.service = service
        self._around = (*middleware, *service.middleware)
        fits = Limit(self.broker).check
        self._publisher = Publisher(service.name, service.publishes, clock, IdSource(clock), fits=fits)
        self._opened = False

    async def open(self) -> Self:
        """Connect, and make the channels of the service where they are missing. Raises BrokerError."""
        if not self._opened:
            await self.broker.open()
            await self.broker.apply(Needs(publishes=self.service.publishes))
            self._opened = True
        return self

    async def close(self) -> None:
        self._opened = False
        await self.broker.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, *events: Any, time: datetime | None = None, id: str | UUID | None = None) -> list[str]:
        """Their ids, once the broker has every one. Several are not one: when this raises, some may be there.

        Raises OutcomeUnknown when the broker may have some (`details["unknown"]` has these, by id), MessageRefused when it
        will never take some and all others are there (`details["refused"]` says why, by id), EventRefused before anything
        is sent. `id`: a UUID of your own, for one event; sent again under it, ours drop the second."""
        records = self._records(events, time, id)
        await self.open()  # what fails here was not sent: no unknown outcome
        prefix = self.broker.features.prefix
        messages = [message_of(record, "", 0, prefix) for record in records]
        try:
            answers: Sequence[Sent] = await self.broker.send(messages)
        except BrokerError as error:
            answers = [error] * len(records)
        ids = [id_text(record.id) for record in records]
        self._judge(dict(zip(ids, events, strict=True)), dict(zip(ids, answers, strict=True)))
        return ids

    def _records(self, events: Sequence[Any], time: datetime | None, id: str | UUID | None) -> list[Record]:
        if not events:
            raise EventRefused("send() was given no event.")
        if id is not None and len(events) != 1:
            raise EventRefused("id= names one event; send the others without it, or one by one.")
        given = None if id is None else id_bytes(id)
        cause = current.get()
        if not self._around and given is None:
            return self._publisher.records(events, time=time, cause=cause)
        return [through(self._around, self._publisher, event, id=given, time=time, cause=cause) for event in events]

    def _judge(self, events: dict[str, Any], answers: dict[str, Sent]) -> None:
        refused = {id: str(answer) for id, answer in answers.items() if isinstance(answer, MessageRefused)}
        failed = {id: answer for id, answer in answers.items() if answer is not None and id not in refused}
        if failed and all(_not_left(answer) for answer in failed.values()):
            why, were = next(iter(failed.values())), "was" if len(failed) == 1 else "were"
            raise BrokerError(
                f"{len(failed):,} of {len(events):,} {were} not sent to {self.broker.url}: {why}",
                unsent={id: events[id] for id in failed},
                refused=refused,
            ) from why
        if failed:
            why = next(iter(failed.values()))
            raise OutcomeUnknown(
                f"{len(failed):,} of {len(events):,} may be at {self.broker.url} or not: {why} Send them again, each under its "
                'id: for id, event in error.details["unknown"].items(): await sender.send(event, id=id).',
                unknown={id: events[id] for id in failed},
                refused=refused,
            ) from why
        if refused:
            id, said = next(iter(refused.items()))
            raise MessageRefused(
                f"{self.broker.url} will never take {len(refused):,} of {len(events):,}, the first of them {id}: {said}",
                refused=refused,
            )


def _not_left(answer: Exception) -> bool:
    return isinstance(answer, BrokerError) and answer.details.get("sent") is False
