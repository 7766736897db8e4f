"""From an event to a record: who may publish it, under which id, caused by what.

An event published inside a handler has an id that derives from the delivery, so that a second run of the handler
publishes nothing twice (R19). Correlation, causation, hops and trace flow from the delivery being handled, or from
`correlate(...)` around a web request, without anybody passing them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from .attributes import TRACEPARENT, with_attributes
from .clock import Clock, us_of
from .envelope import make_record
from .errors import EventRefused, EventsInCircle, UnknownPublisher
from .events import EventType, describe, describe_event
from .ids import IdSource, id_text
from .journal.port import Append, Record, Timer, Unit, Verdict
from .observe.acting import member
from .observe.correlation import NOBODY, Cause, Who, who

if TYPE_CHECKING:
    from .service import Middleware

_EPOCH, _US = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_FIRST_US = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _US  # of the times that a datetime in UTC can say
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _US
HOPS_MAX = 100  # an event this far down a chain of causes is taken for a loop


class Receipt:
    """What publishing gives back. `durable` is False inside a handler (it commits with the handler) and with
    `within=` (it commits with the caller's transaction); `position` is then 0, as for an event not yet due."""

    __slots__ = ("due", "durable", "event_id", "position")

    def __init__(self, event_id: bytes, position: int, durable: bool, due: datetime | None) -> None:
        self.event_id = event_id
        self.position = position
        self.durable = durable
        self.due = due

    @property
    def id(self) -> str:
        """The event's id, as the envelope has it."""
        return id_text(self.event_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Receipt) and other.event_id == self.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __repr__(self) -> str:
        return f"Receipt(id={self.id!r}, position={self.position}, durable={self.durable}, due={self.due})"


class Publisher:
    """Makes records for one service."""

    _makes_private = False

    def __init__(
        self,
        service: str,
        contexts: Sequence[str],
        clock: Clock,
        ids: IdSource,
        published: dict[str, str] | None = None,
        fits: Callable[[Record], None] | None = None,
    ) -> None:
        self.service = service
        self.contexts = frozenset(contexts)
        self.clock = clock
        self.ids = ids
        self.fits = fits  # raises for what the broker would not take
        self.published = {} if published is None else published  # with its context, by type; see observe.unheard

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
        self,
        events: Sequence[Any],
        *,
        time: datetime | None = None,
        cause: Cause | None = None,
        encoded: Iterable[bytes | None] = repeat(None),
    ) -> list[Record]:
        """Records of several events: ids in one block, one look at the clock and at the cause. `encoded`: their bytes,
        where they were made, and read again, already."""
        now_us = self.clock.now_us()
        time_us = now_us if time is None else _time_us(time, "publish()")
        ids = self.ids.new(len(events))
        said = who(cause)
        correlation, causation, hops, onwards = _FIRST if cause is None and said is NOBODY else _caused(cause, said)
        mine: dict[type[Any], EventType] = {}
        made = [
            make_record(
                mine.get(type(event)) or mine.setdefault(type(event), self.mine(event)),
                event,
                id,
                self.service,
                now_us,
                time_us,
                correlation,
                causation,
                hops,
                onwards and onwards.meta(id),
                data=data,
                private=self._makes_private,
            )
            for event, id, data in zip(events, ids, encoded, strict=False)
        ]
        if self.fits is not None:
            for record in made:
                self.fits(record)
        for kind in mine.values():
            self._made_one(kind)
        return made

    def fit(self, record: Record) -> None:
        """Raises what publishing it would have to, because of its size."""
        if self.fits is not None:
            self.fits(record)

    def record(
        self,
        event: Any,
        *,
        id: bytes | None = None,
        time: datetime | None = None,
        cause: Cause | None = None,
    ) -> Record:
        event_type = self.mine(event)
        now_us = self.clock.now_us()
        time_us = None if time is None else _time_us(time, event_type.name)
        given = id if id is not None else self.ids.one()
        correlation, causation, hops, onwards = _caused(cause, who(cause))
        meta = onwards and onwards.meta(given)
        made = make_record(
            event_type, event, given, self.service, now_us, time_us, correlation, causation, hops, meta,
            private=self._makes_private,
        )  # fmt: skip
        self.fit(made)
        self._made_one(event_type)
        return made

    def _made_one(self, kind: EventType) -> None:
        """Said last: of what was refused nothing is stored, so it is nobody's business that nobody subscribes."""
        if kind.name not in self.published:
            self.published[kind.name] = kind.context

    @cached_property
    def private(self) -> Publisher:
        """Of events that stay in the journal, for this service alone."""
        return _Private(self.service, (), self.clock, self.ids)

    def owns(self, context: str) -> bool:
        """Whether this service publishes events of the context."""
        return context in self.contexts

    def mine(self, event: Any) -> EventType:
        """Its type, if this service may publish it."""
        event_type = describe_event(event)
        if event_type.context not in self.contexts:
            self.check(event_type)
        return event_type


class _Private(Publisher):
    _makes_private = True

    def mine(self, event: Any) -> EventType:
        return describe_event(event)


class Recorded(NamedTuple):
    """An event of an aggregate that is not saved yet. `time`: when it happened, if not when it is saved."""

    event: Any
    time: datetime | None
    data: bytes  # as it was read again


class Speaker(NamedTuple):
    """Whom a stream belongs to, and how its events become records: in private, unless the service publishes them."""

    publisher: Publisher
    middleware: Sequence[Middleware] = ()

    @property
    def service(self) -> str:
        return self.publisher.service

    def records(
        self,
        events: Sequence[Recorded],
        *,
        next_id: Callable[[], bytes] | None,
        cause: Cause | None,
        private: bool = False,
    ) -> list[Record]:
        """`next_id`: where ids are derived; else they are new."""
        speaking = {kind: self._publisher_of(kind, private=private) for kind in {type(one[0]) for one in events}}
        happened = [event for event, time, _ in events if time is None]
        if next_id is None and not self.middleware and len(happened) == len(events) and len({*speaking.values()}) == 1:
            (only,) = {*speaking.values()}
            return only.records(happened, cause=cause, encoded=[one[2] for one in events])
        return [
            through(
                self.middleware,
                speaking[type(one.event)],
                one.event,
                id=None if next_id is None else next_id(),
                time=one.time,
                cause=cause,
            )
            for one in events
        ]

    def _publisher_of(self, kind: type[Any], *, private: bool) -> Publisher:
        publisher = self.publisher
        return publisher.private if private or not publisher.owns(describe(kind).context) else publisher


class _Onwards(NamedTuple):
    """The attributes that an event hands on to what it causes, as JSON."""

    before: bytes
    after: bytes | None = None  # in between stands the new event's own span; None: there is no trace

    def meta(self, id: bytes) -> bytes:
        return self.before if self.after is None else self.before + id[-8:].hex().encode() + self.after


_FIRST: tuple[None, None, int, None] = (None, None, 0, None)  # of what nothing caused, and nobody said anything about


def _caused(cause: Cause | None, said: Who) -> tuple[str | None, str | None, int, _Onwards | None]:
    if cause is None:
        return None, None, 0, _onwards(None, said)
    event_id = cause.event_id
    hops = cause.hops + 1 if event_id else 0
    if hops > HOPS_MAX:
        raise EventsInCircle(
            f"This would be event {hops} of a chain in which each caused the next: these services answer one another "
            f"in a circle. `spine trace {cause.correlation}` shows it; let one of its handlers stop answering, then drop or "
            "replay this one.",
            hops=hops,
        )
    return cause.correlation, event_id or None, hops, _onwards(cause.traceparent, said)


def _onwards(traceparent: str | None, said: Who) -> _Onwards | None:
    """The same trace, with the new event as the parent of what follows (W3C Trace Context), and the same actor."""
    acting = member(said)
    if traceparent is None or not TRACEPARENT.match(traceparent):
        return _Onwards(f"{{{acting}}}".encode()) if acting else None
    version, trace, _, flags = traceparent.split("-")
    end = f",{acting}}}" if acting else "}"
    return _Onwards(f'{{"traceparent":"{version}-{trace}-'.encode(), f'-{flags}"{end}'.encode())


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
        record = with_attributes(record, attributes)
        publisher.fit(record)
    return record


def _time_us(time: datetime, name: str) -> int:
    if not isinstance(time, datetime):
        raise EventRefused(f"{name}: {time!r} is not a time; pass an aware datetime, e.g. datetime.now(UTC).")
    if time.tzinfo is None:
        told = f"{time.isoformat()} has no time zone; pass an aware datetime, e.g. with tzinfo=UTC."
        raise EventRefused(f"{name}{told}" if name.endswith("=") else f"{name}: time={told}")
    return _in_calendar(us_of(time), name)


def _in_calendar(us: int, name: str) -> int:
    if not _FIRST_US <= us <= _LAST_US:
        raise EventRefused(f"{name}: this time, in UTC, is not in the years 1 to 9999.")
    return us


def due_us(clock: Clock, at: datetime | None, after: timedelta | None) -> int | None:
    """When a scheduled event is due, or None for now."""
    if at is not None and after is not None:
        raise EventRefused("Give at= or after=, not both.")
    if after is not None:
        if not isinstance(after, timedelta):
            raise EventRefused(f"after={after!r} is not a timedelta; pass one, such as after=timedelta(seconds=30).")
        return _in_calendar(clock.now_us() + after // _US, "after=")
    return None if at is None else _time_us(at, "at=")


def unit_of(records: Sequence[Record], due: int | None) -> Unit:
    if due is None:
        return Unit(appends=[Append(records)])
    return Unit(timers=[Timer(due, record) for record in records])


def receipts(records: Iterable[Record], verdict: Verdict | None, due: int | None) -> list[Receipt]:
    """`verdict` None: it commits later, with something else."""
    when = None if due is None else _EPOCH + timedelta(microseconds=due)
    if verdict is None or due is not None:
        return [Receipt(record.id, 0, verdict is not None, when) for record in records]
    return [
        Receipt(record.id, position, True, None) for record, position in zip(records, verdict.positions, strict=True)
    ]
