"""Events as messages and back: CloudEvents 1.0 in binary mode, as each broker's binding has it; structured JSON is read too.

What a journal of ours sends carries, beside the CloudEvents attributes, where it came from: `spineorigin` (the journal's
identity and incarnation), `spineslot`, and in `sequence` its number in that origin, channel and slot, from 1 without
holes. Only the three together mean anything; on a foreign event `sequence` is data.

Reading is tolerant: what is not an event at all raises NotAnEvent, and is the reader's to keep; everything else is
bounded and becomes a record. What identifies or orders an event (type, source, id, key) holds no control characters or
halves of surrogate pairs, as CloudEvents has it; other attributes that do are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from hashlib import blake2b
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ..attributes import META_BYTES_MAX, NAME, OF_THE_ENVELOPE, is_fit
from ..envelope import Envelope
from ..errors import SpineError
from ..ids import id_text
from ..journal.port import SLOTS, Record
from ..keys import KEY_BYTES_MAX, slot_of_id, slot_of_key
from .port import Fetched, Message

TOMBSTONE = "eventspine.Tombstone"  # stands in for a number whose event could not be sent
JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
ID_BYTES_MAX = 1024
TYPE_BYTES_MAX = 255
LOOKED_AT = 4096  # bytes of a message that says nothing of itself, for what it may be
HOPS_MAX = 1_000_000
SHAPES_MAX = 500  # that are remembered, of messages by the names of their headers; any may come
SHAPE_MAX = 2_000  # characters, of all names of such a one
REMEMBERED_MAX = 300  # characters, of values that are: a type with its source, its schema, a number
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SCHEMA = re.compile(r"urn:eventspine:(.+):([0-9]{1,9})\Z")
_EPOCH, _US = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LAST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _US


class NotAnEvent(SpineError):
    """This message has no CloudEvents attributes, or some that no event can have."""


class Number(NamedTuple):
    """Where a message stands among those of its origin, channel and slot."""

    origin: str
    slot: int
    number: int


class Incoming(NamedTuple):
    record: Record
    number: Number | None  # None: a foreign event
    tombstone: bool


# --- out ------------------------------------------------------------------------------------------------------------


def message_of(record: Record, origin: str, number: int, prefix: str) -> Message:
    """`number` 0: it was never in a journal, and is not numbered."""
    attributes = Envelope(record).attributes()
    attributes.pop("sequence", None)
    content_type = str(attributes.pop("datacontenttype"))
    if number:
        attributes["sequence"] = f"{number:020d}"
        attributes["spineorigin"] = origin
    named, id = _named(prefix), str(attributes["id"])
    headers = {named[name]: value if value.__class__ is str else str(value) for name, value in attributes.items()}
    return Message(record.channel or "", record.slot, record.key, id, headers, content_type, record.data)


class _Named(dict[str, str]):
    """The names of attributes as headers. Others than the envelope's are made each time: there may be any number of them."""

    def __init__(self, prefix: str) -> None:
        super().__init__({name: prefix + name for name in (*OF_THE_ENVELOPE, "traceparent")})
        self._prefix = prefix

    def __missing__(self, name: str) -> str:
        return self._prefix + name


_named = cache(_Named)


def tombstone_of(record: Record, origin: str, number: int, prefix: str) -> Message:
    """In place of an event that can't be sent, so that nobody waits for its number."""
    own = {
        "specversion": "1.0",
        "id": f"{id_text(record.id)}.{number}",
        "source": record.source,
        "type": TOMBSTONE,
        "sequence": f"{number:020d}",
        "spineslot": str(record.slot),
        "spineorigin": origin,
    }
    headers = {prefix + name: value for name, value in own.items()}
    return Message(record.channel or "", record.slot, record.key, own["id"], headers, JSON, b"{}")


def size_of(message: Message) -> int:
    """Bytes of data, headers and key, as brokers count them, about."""
    headers = sum(len(name) + len(value.encode()) + 8 for name, value in message.headers.items())
    return len(message.data) + headers + len((message.key or "").encode()) + len(message.content_type)


# --- in -------------------------------------------------------------------------------------------------------------


def text_of(value: bytes, header: str, prefix: str) -> str:
    """Of bytes that may be none. In an attribute they are told apart, so that no two of them become one id or key, and
    then are no fit one; in what else a message has they are passed over as everywhere."""
    attribute = header[: len(prefix)].lower() == prefix.lower()
    return value.decode("utf-8", "surrogateescape" if attribute else "replace")


def incoming(fetched: Fetched, channel: str, prefix: str, now_us: int) -> Incoming:
    """Raises NotAnEvent."""
    said, others, data = _said(fetched, prefix)
    # Unpacked at once, and the record made as a tuple: this is where a message's time goes.
    _, kind, source, given, time, partitionkey, subject, schema, correlation, causation, hops, *numbered = said
    _check(kind, source)
    id, own = _id_of(given), {}
    if id is None:
        id, own = _id_made(source, _fit("id", given)), {"foreignid": given}
    key = _key(partitionkey or subject) or _key_of(fetched.key)
    number = _number(*numbered)
    record = (
        0,
        id,
        channel,
        slot_of_id(id) if key is None else slot_of_key(key),
        key,
        kind,
        _version(schema[:REMEMBERED_MAX], kind),
        _time_us(time, received_us(fetched, now_us)),
        0,
        source,
        None if correlation == given else _optional(correlation),
        _optional(causation),
        _hops(hops[:REMEMBERED_MAX]),
        _meta(others, own) if others or own else None,
        data,
    )
    return _incoming(Incoming, (_record(Record, record), number, number is not None and kind == TOMBSTONE))


_record: Callable[[type[Record], Any], Record] = tuple.__new__
_incoming: Callable[[type[Incoming], Any], Incoming] = tuple.__new__
_new_number: Callable[[type[Number], Any], Number] = tuple.__new__


class _Said(NamedTuple):
    """What the envelope has, "" where it is not given."""

    specversion: str
    type: str
    source: str
    id: str
    time: str
    partitionkey: str
    subject: str
    dataschema: str
    correlationid: str
    causationid: str
    spinehops: str
    spineorigin: str
    spineslot: str
    sequence: str


def _said(fetched: Fetched, prefix: str) -> tuple[Sequence[str], dict[str, str], bytes]:
    """And what else travels with the event; and its data."""
    headers = fetched.headers
    envelope, others, twice = _shapes(prefix)[tuple(headers)]
    values = (*headers.values(), "")
    for places in twice:
        if len({values[at] for at in places}) > 1:
            raise NotAnEvent("it has an attribute twice, with different values")
    said: Sequence[str] = envelope(values)
    if not said[0]:
        if not fetched.content_type.lower().startswith(STRUCTURED):
            raise NotAnEvent(_why_none(fetched))
        return _structured(fetched.data)
    if not said[0].startswith("1."):
        raise NotAnEvent(f"its specversion is {said[0][:20]!r}, not 1.0")
    return said, {name: values[at] for name, at in others if is_fit(values[at])}, fetched.data


class _Shape(NamedTuple):
    """Where among the values of a message's headers its attributes stand, known by the headers' names alone."""

    envelope: Callable[[Sequence[str]], Any]  # takes the values, and "" behind them; gives what _Said has
    others: Sequence[tuple[str, int]]
    twice: Sequence[Sequence[int]]  # places of one attribute, which has several


class _Shapes(dict[tuple[str, ...], _Shape]):
    """By the names of the headers. Nearly all messages that come have the same few."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __missing__(self, headers: tuple[str, ...]) -> _Shape:
        places: dict[str, list[int]] = {}
        for at, header in enumerate(headers):
            if header.lower().startswith(self._prefix.lower()):  # what went through HTTP may be written Ce-Id
                places.setdefault(header[len(self._prefix) :].lower(), []).append(at)
        nowhere = [len(headers)]
        shape = _Shape(
            itemgetter(*(places.get(name, nowhere)[0] for name in _Said._fields)),
            [(name, places[name][0]) for name in _others(places)],
            [some for some in places.values() if len(some) > 1],
        )
        if len(self) < SHAPES_MAX and sum(map(len, headers)) + len(headers) <= SHAPE_MAX:
            self[headers] = shape
        return shape


_shapes = cache(_Shapes)


def _others(names: Iterable[str]) -> Iterable[str]:
    return (name for name in names if name not in OF_THE_ENVELOPE and NAME.match(name))


def _why_none(fetched: Fetched) -> str:
    """Some SDKs write a structured event with the content type of its data."""
    if (
        fetched.data[:1] == b"{"
        and b'"specversion"' in fetched.data[:LOOKED_AT]
        and b'"source"' in fetched.data[:LOOKED_AT]
    ):
        given = fetched.content_type[:100]
        return f"its data is a CloudEvent, and its content type {given!r} is not {STRUCTURED}"
    return "it has no CloudEvents attributes"


def _structured(body: bytes) -> tuple[Sequence[str], dict[str, str], bytes]:
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        data = bytes(members.pop("data", b""))
        encoded = members.pop("data_base64", None)
        if encoded is not None:
            data = msgspec.json.decode(encoded, type=bytes)
        attributes = {name: _plain(msgspec.json.decode(value)) for name, value in members.items() if value != b"null"}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAnEvent(f"its structured CloudEvent can't be read: {error}") from error
    if not attributes.get("specversion", "").startswith("1."):
        raise NotAnEvent("its specversion is not 1.0")
    others = {name: attributes[name] for name in _others(attributes) if is_fit(attributes[name])}
    return [attributes.get(name, "") for name in _Said._fields], others, data


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise NotAnEvent("one of its attributes is no text, number or truth value")
    return str(value)


def _check(kind: str, source: str) -> None:
    (_checked_once if len(kind) + len(source) <= REMEMBERED_MAX else _checked)(kind, source)


def _checked(kind: str, source: str) -> None:
    _fit("type", kind)
    _fit("source", source)
    if _exceeds(kind, TYPE_BYTES_MAX) or len(source) > ID_BYTES_MAX:
        raise NotAnEvent(f"its source or type is too long (type {kind[:80]!r})")


_checked_once = lru_cache(maxsize=1024)(_checked)  # nearly all that come are of the same few


def _fit(name: str, value: str) -> str:
    if not value:
        raise NotAnEvent(f"it has no {name}")
    if not is_fit(value):
        raise NotAnEvent(f"its {name} holds a control character or half a character: {value[:80]!r}")
    return value


def _optional(value: str) -> str | None:
    return value if value and len(value) <= ID_BYTES_MAX and is_fit(value) else None


def _exceeds(text: str, bytes_max: int) -> bool:
    """As UTF-8, which takes four bytes for a character at most."""
    return len(text) * 4 > bytes_max and len(text.encode()) > bytes_max


def _key(key: str) -> str | None:
    if not key:
        return None
    if _exceeds(_fit("key", key), KEY_BYTES_MAX):
        raise NotAnEvent(f"its key is longer than {KEY_BYTES_MAX} bytes")
    return key


def received_us(fetched: Fetched, now_us: int) -> int:
    """When the broker had it, if it says a time that there is: producers set it, on some."""
    return fetched.time_us if 0 < fetched.time_us < _LAST_US else now_us


def _id_of(given: str) -> bytes | None:
    """None: it is no UUID, and unique only within its source."""
    return bytes.fromhex(given.replace("-", "")) if _UUID.fullmatch(given) else None


def _id_made(source: str, given: str) -> bytes:
    if _exceeds(given, ID_BYTES_MAX):
        raise NotAnEvent(f"its id is too long ({given[:80]!r})")
    digest = blake2b(f"{len(source)}:{source}{given}".encode(), digest_size=16, person=b"eventspine.in")
    made = bytearray(digest.digest())
    made[6], made[8] = 0x80 | made[6] & 0x0F, 0x80 | made[8] & 0x3F  # UUIDv8: made by a rule of our own
    return bytes(made)


def renamed(record: Record) -> Record:
    """As an event whose id is no UUID, and unique only within its source."""
    given = id_text(record.id)
    meta = _meta(Envelope(record).extensions, {"foreignid": given})
    return record._replace(id=_id_made(record.source, given), meta=meta, correlation=record.correlation or given)


def _key_of(key: bytes | None) -> str | None:
    """The message's own key, which bindings take for the partition key where that is not given."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return None if not text or len(key or b"") > KEY_BYTES_MAX or not is_fit(text) else text


def _number(origin: str, slot_text: str, sequence: str) -> Number | None:
    if not origin or len(origin) > 100 or not is_fit(origin):
        return None
    slot, number = _count(slot_text), _count(sequence)
    if 0 <= slot < SLOTS and 0 < number < 2**62:
        return _new_number(Number, (origin, slot, number))
    return None


def _count(text: str) -> int:
    """-1: it is none."""
    return int(text) if text.isdigit() and len(text) <= 20 and text.isascii() else -1


@lru_cache(maxsize=1024)
def _version(schema: str, kind: str) -> int:
    found = _SCHEMA.match(schema)
    return int(found[2]) if found and found[1] == kind else 1


def _time_us(text: str, otherwise_us: int) -> int:
    try:
        time = datetime.fromisoformat(text)
        return (time - _EPOCH) // _US if time.tzinfo else otherwise_us
    except (ValueError, OverflowError):
        return otherwise_us


@lru_cache(maxsize=1024)
def _hops(text: str) -> int:
    return min(max(_count(text), 0), HOPS_MAX)


def _meta(others: dict[str, str], own: dict[str, str]) -> bytes | None:
    """What else it says, as far as there is room, and what is ours to say of it."""
    meta = msgspec.json.encode(others | own if own else others)
    if len(meta) <= META_BYTES_MAX:
        return meta
    return msgspec.json.encode(own) if own else None
