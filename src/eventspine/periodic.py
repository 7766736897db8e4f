"""Periodic handlers: what they are given, and what is stored of them.

A periodic handler is a subscription of its own. Its events are ticks, one for each run, on a channel that only its
service reads; so a run has all the promises of a delivery, and is seen where deliveries are. When a tick is brought in
is the business of `engine/periodic.py`; when it is due that of `schedules.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple, cast

import msgspec

from .annotations import positional
from .errors import DeclarationError
from .journal.port import Cursor, Record
from .keys import slot_of_key
from .wording import plural

TICKS = "/ticks"  # no context's name can have this in it
TICK = "/tick"  # and no type's this
_FEED = "schedule "
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Tick(msgspec.Struct, frozen=True):
    """What a periodic handler reacts to, as middleware sees it: the time at which this run was due."""

    due: datetime


class TickType(NamedTuple):
    """Stands where the types of events stand. Neither its name nor its channel can be that of a user's."""

    name: str
    context: str
    version: int = 1
    version_declared: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def upcasters(self) -> Mapping[int, Any]:
        return {}

    def read(self, data: bytes, _version: int) -> Tick:
        return self.decode(data)

    def decode(self, data: bytes) -> Tick:
        return msgspec.json.decode(data, type=Tick)


def tick_types(service: str, *names: str | None) -> tuple[TickType, ...]:
    return tuple(TickType(f"{service}.{name}{TICK}", f"{service}{TICKS}") for name in names if name)


def tick_id(uid: bytes, due_us: int) -> bytes:
    """One for each time of a subscription: whoever brings it in, and however often, it is in the feed once."""
    made = bytearray(blake2b(b"%b%d" % (uid, due_us), digest_size=16, person=b"eventspine.tick").digest())
    made[:6] = (due_us // 1000).to_bytes(6, "big")
    made[6] = 0x70 | made[6] & 0x0F
    made[8] = 0x80 | made[8] & 0x3F
    return bytes(made)


def is_ticks(channel: str | None) -> bool:
    """Whether this channel carries ticks, which are nobody's facts."""
    return channel is not None and channel.endswith(TICKS)


def tick(service: str, name: str, uid: bytes, due_us: int) -> Record:
    """The event of one run. `name`: the handler's, without its service."""
    (kind,) = tick_types(service, name)
    data = msgspec.json.encode(Tick(_EPOCH + timedelta(microseconds=due_us)))
    id, slot = tick_id(uid, due_us), slot_of_key(name)
    return Record(
        0, id, kind.context, slot, name, kind.name, kind.version, due_us, 0, service, None, None, 0, None, data
    )


# --- lives ------------------------------------------------------------------------------------------------------------


class Life(NamedTuple):
    """A schedule as a feed: the how manieth of its handler it is, its rule, and up to when it has been dealt with. A
    schedule that is changed begins a new life."""

    number: int
    spec: str
    upto: int

    @property
    def feed(self) -> str:
        return f"{_FEED}{self.number} {self.spec}"


def latest_life(cursors: Iterable[Cursor]) -> Life | None:
    """Of one subscription's cursors."""
    return max((_life(cursor) for cursor in cursors if cursor.feed.startswith(_FEED)), default=None)


def _life(cursor: Cursor) -> Life:
    number, _, spec = cursor.feed.removeprefix(_FEED).partition(" ")
    return Life(int(number), spec, cursor.position)


# --- handlers ---------------------------------------------------------------------------------------------------------


def taking_ticks(where: str, function: Any) -> Callable[[Tick, Any], Any]:
    """The function as the engine calls handlers, with an event and a delivery."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{where} has a yield in it; a handler returns its events, as one or as a list.")
    count = len(positional(function))
    if count > 1:
        raise DeclarationError(
            f"{where} takes {plural(count, 'argument')}; a periodic handler takes nothing, or the delivery if it likes. The time at "
            f"which it was due is delivery.time."
        )
    call = function if count else lambda _: function()
    taking: Any = _awaiting(call) if inspect.iscoroutinefunction(function) else _calling(call)
    taking.__signature__ = inspect.signature(taking)  # its own, whatever it wraps
    taking.__wrapped__ = function
    return cast("Callable[[Tick, Any], Any]", taking)


def _awaiting(call: Callable[[Any], Any]) -> Callable[[Tick, Any], Any]:
    async def handle(_tick: Tick, delivery: Any) -> Any:
        return await call(delivery) if _is_its_own(delivery) else None

    return handle


def _calling(call: Callable[[Any], Any]) -> Callable[[Tick, Any], Any]:
    def handle(_tick: Tick, delivery: Any) -> Any:
        return call(delivery) if _is_its_own(delivery) else None

    return handle


def _is_its_own(delivery: Any) -> bool:
    """A handler that was renamed is given the ticks of its old name too, and another may go by that name now."""
    inner = getattr(delivery, "_inner", delivery)  # of a `def` handler
    return bool(inner.record.id == tick_id(inner._subscription.uid, inner.record.time_us))
