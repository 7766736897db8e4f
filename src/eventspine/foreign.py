"""Messages of others that are no CloudEvents, and the function that a service declares to read them.

    @inventory.decoder("orders")
    def read(message: Foreign) -> OrderPlaced | None: ...

It runs once for each such message, where the channel is brought into the journal; from there on its result is an event like
any other. What it raises is no reason to stop: the message becomes a dead delivery with all that it has, to be read
again with `spine dead replay` by a decoder that was mended.

The event's id follows from where the message lies, so that it is the same however often the broker sends it. A queue has
no such place: there `id=` names what the producer has made unique, or a message that comes again is another event."""

from __future__ import annotations

import inspect
from _blake2 import blake2b
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from .envelope import make_record
from .errors import DeclarationError, SpineError
from .events import describe
from .events.types import is_context
from .journal.port import Record

if TYPE_CHECKING:
    from .brokers.port import Fetched

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A message as the broker had it."""

    channel: str
    key: bytes | None
    headers: Mapping[str, str]
    content_type: str
    data: bytes
    time: datetime | None  # when the broker had it, where it says so


class Undecodable(SpineError):
    """The decoder raised, or made something that is no event of this channel."""


@dataclass(frozen=True)
class Decoder:
    channel: str
    function: Callable[[Foreign], Any]
    id: Callable[[Foreign], str] | None = None

    def decode(self, fetched: Fetched, place: str, otherwise: bytes, now_us: int) -> Record | None:
        """None: the message is not wanted. `place` names where it lies, "" where nothing does; `otherwise` is the id of one
        that has no name of its own. Raises Undecodable."""
        try:
            message = _foreign(self.channel, fetched)
            event = self.function(message)
            if event is None:
                return None
            if name := self.id(message) if self.id is not None else place:
                otherwise = _id(self.channel, name)
            kind = describe(type(event))
            record = make_record(
                kind, event, otherwise, self.channel, now_us, fetched.time_us if message.time else now_us
            )
        except Exception as error:
            raise Undecodable(f"{type(error).__name__}: {error}") from error
        if record.channel != self.channel:
            raise Undecodable(f"{kind.name} is an event of {record.channel!r}, not of {self.channel!r}")
        return record


def check_channel(service: str, channel: Any) -> None:
    if not is_context(channel):
        raise DeclarationError(
            f"@{service}.decoder({channel!r}): name the channel whose messages it reads, which is the context of their events: "
            f"@{service}.decoder('orders')."
        )


def decoder_of(service: str, channel: str, function: Any, id: Any) -> Decoder:
    where = f"@{service}.decoder({channel!r})"
    if not callable(function) or inspect.iscoroutinefunction(function) or not _takes_one(function):
        raise DeclarationError(
            f"{where} stands above a plain function that takes a message and returns an event or None."
        )
    if id is not None and not callable(id):
        raise DeclarationError(
            f"{where}: id= is a function from the message to the text that its producer made unique."
        )
    return Decoder(channel, function, id)


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # of some built-in ones nothing is known
        return True
    return True


def _foreign(channel: str, fetched: Fetched) -> Foreign:
    time = _EPOCH + timedelta(microseconds=fetched.time_us) if 0 < fetched.time_us < _LAST_US else None
    return Foreign(channel, fetched.key, fetched.headers, fetched.content_type, fetched.data, time)


def _id(channel: str, name: str) -> bytes:
    digest = blake2b(f"{len(channel)}:{channel}{name}".encode(), digest_size=16, person=b"spine.foreign")
    made = bytearray(digest.digest())
    made[6], made[8] = 0x80 | made[6] & 0x0F, 0x80 | made[8] & 0x3F  # UUIDv8: made by a rule of our own
    return bytes(made)


# --- kept -----------------------------------------------------------------------------------------------------------


def kept_beside(fetched: Fetched) -> bytes:
    """What a dead message has beside its data, as its record's attributes."""
    headers = {whole(name): whole(value) for name, value in fetched.headers.items()}
    found = {
        "foreignheaders": msgspec.json.encode(headers).decode(),
        "foreigncontenttype": whole(fetched.content_type),
    }
    if fetched.key is not None:
        found["foreignkey"] = b64encode(fetched.key).decode()
    if fetched.left_out:
        found["foreignleftout"] = str(fetched.left_out)
    return msgspec.json.encode(found)


def whole(text: str) -> str:
    """Halves of surrogate pairs, which nothing can store, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def fetched_again(record: Record, partition: int) -> Fetched:
    """The message that was kept."""
    from .brokers.port import Fetched

    found = msgspec.json.decode(record.meta or b"{}", type=dict[str, str])
    key = b64decode(found["foreignkey"]) if "foreignkey" in found else None
    headers = msgspec.json.decode(found.get("foreignheaders", "{}"), type=dict[str, str])
    content_type = found.get("foreigncontenttype", "")
    left_out = int(found.get("foreignleftout", "0"))
    return Fetched(
        partition, record.position, key, headers, content_type, record.data, record.time_us, left_out=left_out
    )
