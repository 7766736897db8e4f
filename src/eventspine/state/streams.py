"""Reading aggregates from their streams: as they are, or as they were.

A load is one query for the snapshot, where the class has them, and one for each page of events; in between nothing is
awaited. `at_version`, `at_position` and `at` stop on the way. By time it is the events before the first that happened
later: so what is seen is a state that the aggregate really had, also where clocks disagreed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import NamedTuple, Protocol, TypedDict, TypeVar

from ..clock import us_of
from ..errors import (
    NewerVersion,
    NoSuchAggregate,
    SettingsError,
    StreamDeleted,
    Undecodable,
    UnknownEvent,
    VersionsDeleted,
)
from ..journal.port import Noted, Record, Subscription
from ..wording import plural
from . import snapshots
from .aggregate import Aggregate, Identity
from .ended import refuse_ended
from .shapes import Shape, shape_of

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
PAGE = 500
OWNERS_MAX = 10  # services that are asked whether a missing aggregate is theirs


class Streams(Protocol):
    """What a journal has of streams, as far as reading them goes."""

    async def stream(
        self, service: str, stream: str, *, after: int = 0, limit: int = 1000, folded: bool = False
    ) -> list[Record]: ...
    async def notes(
        self, service: str, kind: str, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1000
    ) -> list[Noted]: ...


class Journal(Streams, Protocol):
    async def stream_version(self, service: str, stream: str) -> int: ...
    async def subscriptions(self) -> list[Subscription]: ...


class At(TypedDict, total=False):
    """How `load` is told; at most one of them."""

    at_version: int | None
    at_position: int | None
    at: datetime | None


class AsOf(NamedTuple):
    """Where to stop; all None: at the end."""

    version: int | None = None
    position: int | None = None
    time: datetime | None = None

    @classmethod
    def of(cls, *, at_version: int | None = None, at_position: int | None = None, at: datetime | None = None) -> AsOf:
        return cls(at_version, at_position, at)

    @property
    def is_now(self) -> bool:
        return self == _NOW

    def __str__(self) -> str:
        if self.version is not None:
            return f"version {self.version}"
        return f"position {self.position}" if self.time is None else self.time.isoformat()

    @property
    def word(self) -> str:
        """The argument it was given by."""
        if self.version is not None:
            return "at_version"
        return "at" if self.position is None else "at_position"

    def check(self) -> None:
        if sum(one is not None for one in self) > 1:
            raise SettingsError("Give one of at_version=, at_position= and at=.")
        for word, value in (("at_version", self.version), ("at_position", self.position)):
            if value is not None and (type(value) is not int or value < 0):
                raise SettingsError(f"{word}={value!r} is not a whole number from 0 on.")
        time: object = self.time
        if time is not None and (not isinstance(time, datetime) or time.tzinfo is None):
            raise SettingsError(f"at={time!r}: pass an aware datetime, such as datetime(1997, 6, 1, tzinfo=UTC).")

    def cut(self, records: Sequence[Record], after: int) -> Sequence[Record]:
        """Those up to here, of records whose first has the version after `after`."""
        if self.version is not None:
            return records[: max(0, self.version - after)]
        if self.position is not None:
            most = self.position
            return list(takewhile(lambda record: record.position <= most, records))
        if self.time is not None:
            until_us = us_of(self.time)
            return list(takewhile(lambda record: record.time_us <= until_us, records))
        return records


_NOW = AsOf()


async def load(journal: Streams, service: str, cls: type[A], id: Identity, as_of: AsOf = _NOW) -> A:
    """The aggregate, which must have events by then."""
    found = await load_or_new(journal, service, cls, id, as_of)
    if not found.version:
        by_then, instead = f" as of {as_of}", f"Load it without {as_of.word}=, or as of later."
        if as_of.is_now:
            by_then, instead = (
                "",
                f"To make one, write {cls.__name__}({found.id!r}), or load_or_new() if it may be there; in change(), new=True.",
            )
        raise NoSuchAggregate(
            f"There is no {cls.__name__} {found.id!r} in {service}{by_then}: the stream {shape_of(cls).stream(found.id)!r} has no "
            f"events. {instead}",
            aggregate=cls.__qualname__,
            id=found.id,
        )
    return found


async def load_here(journal: Journal, service: str, cls: type[A], id: Identity, as_of: AsOf) -> A:
    """`load`, for a spine; whoever speaks for another service than the one that has the aggregate is told which does."""
    try:
        return await load(journal, service, cls, id, as_of)
    except NoSuchAggregate as error:
        if not as_of.is_now or (owner := await _owner(journal, cls, id, service)) is None:
            raise
        stream = shape_of(cls).stream(cls(id).id)
        raise NoSuchAggregate(
            f"There is no {cls.__name__} {cls(id).id!r} in {service}, for which this spine speaks; the stream {stream!r} is in {owner}. "
            f"Load it with a spine that speaks for that service, which it is told by service=.",
            **error.details,
        ) from None


async def _owner(journal: Journal, cls: type[Aggregate], id: Identity, here: str) -> str | None:
    """Another service, of those that run on this journal, that has the stream; nobody is asked where they are many."""
    stream = shape_of(cls).stream(cls(id).id)
    names = sorted({one.service for one in await journal.subscriptions()} - {here})
    for name in names if len(names) <= OWNERS_MAX else ():
        if await journal.stream_version(name, stream):
            return name
    return None


async def load_or_new(journal: Streams, service: str, cls: type[A], id: Identity, as_of: AsOf = _NOW) -> A:
    """The aggregate; at version 0, as it is made, where it has no events."""
    as_of.check()
    found = await whatever_is_cut_off(lambda: _through(journal, service, cls(id), as_of))
    if as_of.version is not None and found.version < as_of.version:
        stream = shape_of(cls).stream(found.id)
        raise NoSuchAggregate(
            f"{stream} of {service} has {plural(found.version, 'version')}, and no version {as_of.version:,} yet. Load it without "
            "at_version=, or as of one that it has.",
            aggregate=cls.__qualname__,
            id=found.id,
        )
    if not as_of.is_now:
        found._spine.as_of = str(as_of)
        found._spine.as_of_word = as_of.word
    return found


async def whatever_is_cut_off(read: Callable[[], Awaitable[T]]) -> T:
    """Read once more, from the new beginning, when the stream is cut off between two pages."""
    first = 0
    while True:
        try:
            return await read()
        except VersionsDeleted as gone:
            if gone.details["first"] <= first:
                raise
            first = gone.details["first"]


async def _through(journal: Streams, service: str, found: A, as_of: AsOf) -> A:
    shape = shape_of(type(found))
    stream = shape.stream(found.id)
    records = await _from_snapshot(journal, service, shape, found, stream, as_of)
    while records:
        wanted = as_of.cut(records, found.version)
        replay(shape, found, stream, wanted)
        if len(records) < PAGE or len(wanted) < len(records):
            break
        records = await journal.stream(service, stream, after=found.version, limit=PAGE, folded=True)
    return found


async def _from_snapshot(
    journal: Streams, service: str, shape: Shape, found: Aggregate, stream: str, as_of: AsOf
) -> Sequence[Record]:
    """The first page of what is left to be applied: all, or what came after a snapshot that can be used.

    The event that a snapshot ends with is read again, which proves that it is one of this stream."""
    if shape.options.snapshot_every and as_of.position is None and as_of.time is None:
        taken = await snapshots.find(journal, service, shape, stream, as_of.version)
        if taken is not None:
            records = await _since(journal, service, stream, taken.version)
            if records and snapshots.restore(shape, found, stream, taken, records[0].id):
                rest = records[1:]
                return rest if len(records) < PAGE else await journal.stream(
                    service, stream, after=taken.version, limit=PAGE, folded=True
                )  # fmt: skip
    return await _from_first(journal, service, found, stream, as_of)


async def _since(journal: Streams, service: str, stream: str, version: int) -> Sequence[Record]:
    try:
        return await journal.stream(service, stream, after=version - 1, limit=PAGE, folded=True)
    except VersionsDeleted:
        return ()


async def _from_first(journal: Streams, service: str, found: Aggregate, stream: str, as_of: AsOf) -> Sequence[Record]:
    """The first page of all that there is. Of a stream that was truncated, only what was from there on can be told."""
    try:
        return await journal.stream(service, stream, limit=PAGE, folded=True)
    except VersionsDeleted as gone:
        first = gone.details["first"]
    records = await journal.stream(service, stream, after=first - 1, limit=PAGE, folded=True)
    refuse_ended(service, stream, records[0])
    if not as_of.cut(records, first - 1):
        raise VersionsDeleted(
            f"{stream} of {service} as of {as_of} can't be told: it begins with version {first:,}, and those before were "
            "deleted. Ask for that version or a later one; a backup from before has the others.",
            service=service,
            stream=stream,
            first=first,
        )
    found._spine.version = first - 1
    return records


def replay(shape: Shape, found: Aggregate, stream: str, records: Sequence[Record]) -> None:
    """Apply them in order. What fails, fails the load: a state with an event left out would be none."""
    readers, standing = shape.readers, found._spine
    standing.applying = True
    version = standing.version
    try:
        for record in records:
            version += 1
            reader = readers.get(record.type)
            if reader is None:
                refuse_ended(record.source, stream, record)
                _unknown(shape, stream, record, version)
                continue
            decode, own, kind, apply = reader
            if record.version == own:
                event = decode(record.data)
            else:
                if record.version > own:
                    raise _newer(stream, record, version, own)
                event = kind.read(record.data, record.version)
            apply(found, event)
    except (UnknownEvent, NewerVersion, StreamDeleted):
        raise
    except Undecodable as error:
        raise Undecodable(f"{stream}, version {version}: {error}", **error.details, stream=stream) from error
    except Exception as error:
        error.add_note(f"eventspine: raised by the @applies of {record.type}, version {version} of {stream}")
        raise
    finally:
        standing.applying = False
    standing.version = version


def _unknown(shape: Shape, stream: str, record: Record, version: int) -> None:
    shape.figures[f"ignored {record.type}"] += 1
    if shape.options.unknown == "fail":
        raise UnknownEvent(
            f"{stream} has {record.type} as its version {version}, and {shape.cls.__name__} has no @applies for it. Write one, "
            f'or say renamed_from= at the class that this event has now; class {shape.cls.__name__}(Aggregate, unknown="ignore") '
            "passes all that it doesn't know.",
            stream=stream,
            type=record.type,
            version=version,
        )


def _newer(stream: str, record: Record, version: int, newest: int) -> NewerVersion:
    return NewerVersion(
        f"{stream}, version {version}: {record.type} was written as version {record.version}, and this code knows {newest}. "
        "Deploy readers of a new version before its writers.",
        stream=stream,
        type=record.type,
        newest=newest,
    )
