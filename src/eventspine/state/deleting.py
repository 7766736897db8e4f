"""Deleting a stream, and truncating one before an event that restates what came before it.

A deletion is two commits. The first appends the event that says so (see ended.py), at the version that was looked at: who
decided on an older one has a conflict, and who loads it is told. The second deletes all before that. A process that dies in
between leaves a stream that is over and whole; deleting it again goes on.

What is truncated is compared first: the aggregate as all its events make it, and as the one at the cut makes it alone. They
have to be the same, since from then on it is made of that one. A snapshot is no such event: it is never the truth.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from ..clock import Clock
from ..errors import NoSuchAggregate, SettingsError, TruncationRefused, VersionsDeleted
from ..ids import IdSource
from ..journal.cutting import Old, Open, begins_later, refuse_needed
from ..journal.port import Append, Journal, Note, Record, StreamCut, Unit
from ..observe.correlation import current
from ..publishing import Publisher
from . import snapshots
from .aggregate import Aggregate, Identity
from .ended import ENDED, StreamEnded, refuse_ended
from .shapes import shape_of
from .streams import PAGE, replay, whatever_is_cut_off

A = TypeVar("A", bound=Aggregate)
_MISSING = object()


async def delete_stream(journal: Journal, clock: Clock, service: str, stream: str) -> StreamCut:
    """All of it, for good. Raises StreamNeeded, and nothing has changed, while somebody still needs an event of it."""
    return await whatever_is_cut_off(lambda: _delete(journal, clock, service, stream))


async def _delete(journal: Journal, clock: Clock, service: str, stream: str) -> StreamCut:
    version = await journal.stream_version(service, stream)
    if not version:
        raise _no_such(service, stream)
    if await _ending_at(journal, service, stream, version) is None:
        await look_who_needs(journal, service, stream)
        version = await _end(journal, clock, service, stream, version)
    return await journal.cut(service, stream, before=version, expected=version)


async def ending(journal: Journal, service: str, stream: str) -> Record | None:
    """The event that says that it is over, if it is."""
    version = await journal.stream_version(service, stream)
    return await _ending_at(journal, service, stream, version) if version else None


async def _ending_at(journal: Journal, service: str, stream: str, version: int) -> Record | None:
    (last,) = await journal.stream(service, stream, after=version - 1, limit=1)
    return last if last.type == ENDED else None


async def refuse_over(journal: Journal, service: str, stream: str) -> None:
    """Raises StreamDeleted if it is over."""
    if (record := await ending(journal, service, stream)) is not None:
        refuse_ended(service, stream, record)


async def look_who_needs(journal: Journal, service: str, stream: str) -> int:
    """Raises StreamNeeded if somebody does, as things are now; how many events it has."""
    return await whatever_is_cut_off(lambda: _look_who_needs(journal, service, stream))


async def _look_who_needs(journal: Journal, service: str, stream: str) -> int:
    subscriptions = await journal.subscriptions()
    cursors = await journal.cursors([row.number for row in subscriptions])  # before: what comes past is parked by then
    old, deliveries = list[Old](), list[Open]()
    async for _, records in _pages(journal, service, stream):
        old += [Old(row.position, row.channel, row.slot, row.recorded_us) for row in records]
        ids = [row.id for row in records]
        found = await journal.deliveries(events=ids, states=("parked", "dead", "held"), records=False)
        deliveries += [Open(row.number, row.subscription, row.state) for row in found]
    refuse_needed(service, stream, old, subscriptions, cursors, deliveries)
    return len(old)


async def _pages(journal: Journal, service: str, stream: str) -> AsyncIterator[tuple[int, Sequence[Record]]]:
    """From the first that there is; each after which version."""
    after = 0
    try:
        records = await journal.stream(service, stream, limit=PAGE)
    except VersionsDeleted as gone:
        after = gone.details["first"] - 1
        records = await journal.stream(service, stream, after=after, limit=PAGE)
    while records:
        yield after, records
        after += len(records)
        records = await journal.stream(service, stream, after=after, limit=PAGE) if len(records) == PAGE else []


async def _end(journal: Journal, clock: Clock, service: str, stream: str, version: int) -> int:
    publisher = Publisher(service, (), clock, IdSource(clock)).private
    record = publisher.record(StreamEnded(stream=stream, versions=version), cause=current.get())
    unit = Unit([Append([record], service, stream, version)], notes=[Note(service, snapshots.KIND, stream, None)])
    (verdict,) = await journal.commit([unit])
    if verdict.error is not None:
        raise verdict.error
    return verdict.versions[0]


def _no_such(service: str, stream: str) -> NoSuchAggregate:
    return NoSuchAggregate(f"{service} has no stream {stream!r}; nothing was deleted.", service=service, stream=stream)


# --- truncating -------------------------------------------------------------------------------------------------------


async def truncate_stream(journal: Journal, service: str, cls: type[A], id: Identity, before: int) -> StreamCut:
    stream = shape_of(cls).stream(cls(id).id)
    await check_restates(journal, service, cls, id, before)
    return await journal.cut(service, stream, before=before)


async def check_restates(journal: Journal, service: str, cls: type[A], id: Identity, version: int) -> None:
    """Whether the event at this version, applied alone, makes what all events up to it make."""
    if type(version) is not int or version < 1:
        raise SettingsError(f"before={version!r} is no version: say the first that stays, from 1 on.")
    await whatever_is_cut_off(lambda: _check_restates(journal, service, cls(id), cls(id), version))


async def _check_restates(journal: Journal, service: str, whole: Aggregate, alone: Aggregate, version: int) -> None:
    shape = shape_of(type(whole))
    stream = shape.stream(whole.id)
    if not await journal.stream_version(service, stream):
        raise _no_such(service, stream)
    await refuse_over(journal, service, stream)
    async for after, records in _pages(journal, service, stream):
        if after >= version:
            raise begins_later(service, stream, after + 1)
        whole._spine.version = after
        replay(shape, whole, stream, records[: version - after])
        if whole.version == version:
            break
    else:
        raise TruncationRefused(
            f"{stream} of {service} has no version {version:,} from which it could begin: it has come to {whole.version:,}."
        )
    await _compare(journal, service, stream, version, whole, alone)


async def _compare(journal: Journal, service: str, stream: str, version: int, whole: Any, alone: Any) -> None:
    records = await journal.stream(service, stream, after=version - 1, limit=1)
    alone._spine.version = version - 1
    try:
        replay(shape_of(type(alone)), alone, stream, records)
    except Exception as error:
        raise _does_not_restate(stream, version, records[0].type, "can't be applied without those before it") from error
    names = sorted((vars(whole).keys() | vars(alone).keys()) - {"_spine"})
    wrong = [name for name in names if getattr(whole, name, _MISSING) != getattr(alone, name, _MISSING)]
    if wrong:
        raise _does_not_restate(stream, version, records[0].type, f"leaves out {', '.join(wrong)}")


def _does_not_restate(stream: str, version: int, type: str, why: str) -> TruncationRefused:
    return TruncationRefused(
        f"{stream} can't begin with its version {version:,}: {type} {why}, so nothing was deleted. Record an event that says "
        "all that the aggregate knows, with an @applies that takes all of it from there, and truncate before that one.",
        stream=stream,
        version=version,
        type=type,
    )
