"""From an event to a record: who may publish it, under which id, caused by what.

An event published inside a handler has an id that derives from the delivery, so that a second run of the handler
publishes nothing twice (R19). Correlation, causation, hops and trace flow from the delivery being handled, or from
`correlate(...)` around a web request, without anybody passing them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from .clock import Clock
from .envelope import make_record
from .errors import EventRefused, UnknownPublisher
from .events import EventType, describe
from .ids import IdSource, id_text
from .journal.port import Append, Record, Timer, Unit, Verdict
from .observe.correlation import Cause

if TYPE_CHECKING:
    from .service import Middleware

HOPS_MAX = 100  # an event this far down a chain of causes is taken for a loop


@dataclass(frozen=True, slots=True)
class Receipt:
    """What publishing gives back. `durable` is False inside a handler (it commits with the handler) and with
    `within=` (it commits with the caller's transaction); `position` is then 0, as for an event not yet due."""

    id: str
    position: int
    durable: bool
    due: datetime | None = None


class Publisher:
    """Makes records for one service."""

    def __init__(self, service: str, contexts: Sequence[str], clock: Clock, ids: IdSource) -> None:
        self.service = service
        self.contexts = frozenset(contexts)
        self.clock = clock
        self.ids = ids

    def check(self, event_type: EventType) -> None:
        if event_type.context not in self.contexts:
            allowed = ", ".join(sorted(self.contexts)) or "nothing"
            raise UnknownPublisher(
                f"{event_type.name} belongs to the context {event_type.context!r}; the service {self.service!r} "
                f"publishes {allowed}. Publish it from the service that owns it, or declare "
                f"Service({self.service!r}, publishes=[..., {event_type.context!r}]).",
                type=event_type.name,
                service=self.service,
            )

    def records(
        self, events: Sequence[Any], *, time: datetime | None = None, cause: Cause | None = None
    ) -> list[Record]:
        """Records of several events: ids in one block, one look at the clock."""
        now_us = self.clock.now_us()
        time_us = now_us if time is None else _time_us(time, "publish()")
        source, contexts = self.service, self.contexts
        records = []
        for event, id in zip(events, self.ids.new(len(events)), strict=True):
            event_type = describe(type(event))
            if event_type.context not in contexts:
                self.check(event_type)
            if cause is None:
                records.append(make_record(event_type, event, id, source, now_us, time_us))
            else:
                records.append(self.record(event, id=id, time=time, cause=cause))
        return records

    def record(
        self,
        event: Any,
        *,
        id: bytes | None = None,
        time: datetime | None = None,
        cause: Cause | None = None,
    ) -> Record:
        event_type = describe(type(event))
        if event_type.context not in self.contexts:
            self.check(event_type)
        correlation = causation = meta = None
        hops = 0
        if cause is not None:
            correlation, causation, hops, meta = self._caused(event_type, cause)
        record_id = id if id is not None else self.ids.one()
        if meta is not None:
            meta = _trace_onwards(meta, record_id)
        time_us = None if time is None else _time_us(time, event_type.name)
        now_us = self.clock.now_us()
        return make_record(
            event_type, event, record_id, self.service, now_us, time_us, correlation, causation, hops, meta
        )

    def _caused(self, event_type: EventType, cause: Cause) -> tuple[str, str | None, int, bytes | None]:
        hops = cause.hops + 1 if cause.event_id else 0
        if hops > HOPS_MAX:
            raise EventRefused(
                f"{event_type.name} would be event {hops} of a chain in which each caused the next: these services "
                f"answer one another in a circle. `spine trace {cause.correlation}` shows it.",
                hops=hops,
            )
        meta = msgspec.json.encode({"traceparent": cause.traceparent}) if cause.traceparent else None
        return cause.correlation, cause.event_id or None, hops, meta


def through(
    middleware: Sequence[Middleware],
    publisher: Publisher,
    event: Any,
    *,
    id: bytes | None = None,
    time: datetime | None = None,
    cause: Cause | None = None,
) -> Record:
    """Make the record inside the middleware, whose attributes travel with it."""
    if not middleware:
        return publisher.record(event, id=id, time=time, cause=cause)
    attributes: dict[str, str] = {}
    proceed: Callable[[], Any] = partial(publisher.record, event, id=id, time=time, cause=cause)
    for one in reversed(middleware):
        proceed = partial(one.publish, event, attributes, proceed)
    record: Record = proceed()
    if attributes:
        record = record._replace(meta=msgspec.json.encode({**msgspec.json.decode(record.meta or b"{}"), **attributes}))
    return record


def _trace_onwards(meta: bytes, id: bytes) -> bytes:
    """The same trace, with this event as the parent of what follows (W3C Trace Context)."""
    attributes = msgspec.json.decode(meta)
    version, trace, _, flags = attributes["traceparent"].split("-", 3)
    attributes["traceparent"] = f"{version}-{trace}-{id[-8:].hex()}-{flags}"
    return msgspec.json.encode(attributes)


def _time_us(time: datetime, name: str) -> int:
    if time.tzinfo is None:
        raise EventRefused(
            f"{name}: time={time.isoformat()} has no time zone; pass an aware datetime, e.g. with tzinfo=UTC."
        )
    return round(time.timestamp() * 1_000_000)


def due_us(clock: Clock, at: datetime | None, after: timedelta | None) -> int | None:
    """When a scheduled event is due, or None for now."""
    if at is not None and after is not None:
        raise EventRefused("Give at= or after=, not both.")
    if after is not None:
        return clock.now_us() + round(after.total_seconds() * 1_000_000)
    return None if at is None else _time_us(at, "at=")


def unit_of(records: Sequence[Record], due: int | None) -> Unit:
    if due is None:
        return Unit(appends=[Append(records)])
    return Unit(timers=[Timer(due, record) for record in records])


def receipts(records: Iterable[Record], verdict: Verdict | None, due: int | None) -> list[Receipt]:
    """`verdict` None: it commits later, with something else."""
    when = None if due is None else datetime.fromtimestamp(due / 1e6, UTC)
    positions = iter(verdict.positions if verdict is not None else ())
    return [Receipt(id_text(record.id), next(positions, 0), verdict is not None, when) for record in records]
