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
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from hashlib import blake2b
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
HOPS_MAX = 1_000_000
NAMES_MAX = 1_000  # of headers, that are remembered; any may come
REMEMBERED_MAX = 300  # characters, of each; the schema of a type is no longer than that, nor a name that we know
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
    headers = {f"{prefix}{name}": f"{value}" for name, value in attributes.items()}
    return Message(
        record.channel or "", record.slot, record.key, id_text(record.id), headers, content_type, record.data
    )


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


def incoming(fetched: Fetched, channel: str, prefix: str, now_us: int) -> Incoming:
    """Raises NotAnEvent."""
    attributes, data = _attributes(fetched, prefix)
    kind, source, id_given = _text(attributes, "type"), _text(attributes, "source"), _text(attributes, "id")
    if _exceeds(kind, TYPE_BYTES_MAX) or _exceeds(id_given, ID_BYTES_MAX) or len(source) > ID_BYTES_MAX:
        raise NotAnEvent(f"its id, source or type is too long (type {kind[:80]!r})")
    id, foreign = _id(source, id_given)
    key = _key(attributes) or _key_of(fetched.key)
    number = _number(attributes)
    record = Record(
        0,
        id,
        channel,
        slot_of_id(id) if key is None else slot_of_key(key),
        key,
        kind,
        _version(attributes.get("dataschema", "")[:REMEMBERED_MAX], kind),
        _time_us(attributes.get("time"), received_us(fetched, now_us)),
        0,
        source,
        _correlation(attributes, id_given),
        _optional(attributes, "causationid"),
        _hops(attributes.get("spinehops")),
        _meta(attributes, {"foreignid": id_given} if foreign else {}),
        data,
    )
    return Incoming(record, number, number is not None and kind == TOMBSTONE)


def _attributes(fetched: Fetched, prefix: str) -> tuple[Mapping[str, str], bytes]:
    names = _names(prefix)
    given = [(name, value) for header, value in fetched.headers.items() if (name := names[header])]
    found = dict(given)
    if len(found) < len(given) and len(found) < len(set(given)):
        raise NotAnEvent("it has an attribute twice, with different values")
    if "specversion" not in found:
        if not fetched.content_type.startswith(STRUCTURED):
            raise NotAnEvent("it has no CloudEvents attributes")
        return _structured(fetched.data)
    if not found["specversion"].startswith("1."):
        raise NotAnEvent(f"its specversion is {found['specversion'][:20]!r}, not 1.0")
    return found, fetched.data


class _Names(dict[str, str]):
    """By header, the attribute that it is; "" where it is none. Nearly all that come are the same few."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __missing__(self, header: str) -> str:
        name = header[len(self._prefix) :].lower() if header.startswith(self._prefix) else ""
        if len(self) < NAMES_MAX and len(header) <= REMEMBERED_MAX:
            self[header] = name
        return name


_names = cache(_Names)


def _structured(body: bytes) -> tuple[Mapping[str, str], bytes]:
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
    return attributes, data


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise NotAnEvent("one of its attributes is no text, number or truth value")
    return str(value)


def _text(attributes: Mapping[str, str], name: str) -> str:
    if not (value := attributes.get(name)):
        raise NotAnEvent(f"it has no {name}")
    if not is_fit(value):
        raise NotAnEvent(f"its {name} holds a control character or half a character: {value[:80]!r}")
    return value


def _optional(attributes: Mapping[str, str], name: str) -> str | None:
    value = attributes.get(name) or None
    return None if value is None or len(value) > ID_BYTES_MAX or not is_fit(value) else value


def _exceeds(text: str, bytes_max: int) -> bool:
    """As UTF-8, which takes four bytes for a character at most."""
    return len(text) * 4 > bytes_max and len(text.encode()) > bytes_max


def _key(attributes: Mapping[str, str]) -> str | None:
    name = "partitionkey" if attributes.get("partitionkey") else "subject"
    key = _text(attributes, name) if attributes.get(name) else None
    if key is not None and _exceeds(key, KEY_BYTES_MAX):
        raise NotAnEvent(f"its key is longer than {KEY_BYTES_MAX} bytes")
    return key


def received_us(fetched: Fetched, now_us: int) -> int:
    """When the broker had it, if it says a time that there is: producers set it, on some."""
    return fetched.time_us if 0 < fetched.time_us < _LAST_US else now_us


def _id(source: str, given: str) -> tuple[bytes, bool]:
    """16 bytes; an id that is no UUID is unique only within its source, and so made into one. Whether it was."""
    if _UUID.fullmatch(given):
        return bytes.fromhex(given.replace("-", "")), False
    digest = blake2b(f"{len(source)}:{source}{given}".encode(), digest_size=16, person=b"eventspine.in")
    made = bytearray(digest.digest())
    made[6], made[8] = 0x80 | made[6] & 0x0F, 0x80 | made[8] & 0x3F  # UUIDv8: made by a rule of our own
    return bytes(made), True


def _key_of(key: bytes | None) -> str | None:
    """The message's own key, which bindings take for the partition key where that is not given."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return None if not text or len(key or b"") > KEY_BYTES_MAX or not is_fit(text) else text


def _number(attributes: Mapping[str, str]) -> Number | None:
    origin = attributes.get("spineorigin", "")
    if not origin or len(origin) > 100 or not is_fit(origin):
        return None
    slot, number = _count(attributes.get("spineslot", "")), _count(attributes.get("sequence", ""))
    return Number(origin, slot, number) if 0 <= slot < SLOTS and 0 < number < 2**62 else None


def _count(text: str) -> int:
    """-1: it is none."""
    return int(text) if text.isdigit() and len(text) <= 20 and text.isascii() else -1


@lru_cache(maxsize=1024)
def _version(schema: str, kind: str) -> int:
    found = _SCHEMA.match(schema)
    return int(found[2]) if found and found[1] == kind else 1


def _time_us(text: str | None, otherwise_us: int) -> int:
    try:
        time = datetime.fromisoformat(text or "")
        return (time - _EPOCH) // _US if time.tzinfo else otherwise_us
    except (ValueError, OverflowError):
        return otherwise_us


def _correlation(attributes: Mapping[str, str], own: str) -> str | None:
    given = _optional(attributes, "correlationid")
    return None if given == own else given


def _hops(text: str | None) -> int:
    return min(max(_count(text or ""), 0), HOPS_MAX)


def _travels(name: str, value: str) -> bool:
    return bool(NAME.match(name)) and is_fit(value)


def _meta(attributes: Mapping[str, str], own: dict[str, str]) -> bytes | None:
    """What else it says: attributes that CloudEvents allows, as far as there is room."""
    others = {
        name: value for name, value in attributes.items() if name not in OF_THE_ENVELOPE and _travels(name, value)
    } | own
    if not others:
        return None
    meta = msgspec.json.encode(others)
    return meta if len(meta) <= META_BYTES_MAX else msgspec.json.encode(own) if own else None
