"""The envelope: what travels with an event, as CloudEvents 1.0 attributes, read from the journal's record of it.

It is a view: nothing is stored twice, and nothing is computed until it is asked for.
"""

from __future__ import annotations

from _blake2 import blake2b
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from .attributes import NAME, TRACEPARENT
from .events.codec import DATA_BYTES_MAX, too_large
from .events.types import EventType
from .ids import id_text
from .journal.port import Record
from .keys import slot_of_id, slot_of_key
from .observe.acting import of_meta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_PLAIN = datetime(1970, 1, 1)  # noqa: DTZ001 -- its text has no time zone, and a Z behind it
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_JSON = "application/json"


class Envelope:
    """The attributes of one event. `extensions` are those that its producer added."""

    __slots__ = ("_extensions", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self._extensions: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<Envelope {self.type} {self.id}>"

    @property
    def id(self) -> str:
        return id_text(self.record.id)

    @property
    def source(self) -> str:
        """The service that published it."""
        return self.record.source

    @property
    def type(self) -> str:
        return self.record.type

    @property
    def time(self) -> datetime:
        """When it happened. Of a foreign producer's time that no calendar has: the nearest that one has."""
        try:
            return _EPOCH + timedelta(microseconds=self.record.time_us)
        except OverflowError:
            return _FIRST if self.record.time_us < 0 else _LAST

    @property
    def key(self) -> str | None:
        return self.record.key

    subject = key
    partitionkey = key

    @property
    def datacontenttype(self) -> str:
        return _JSON

    @property
    def dataschema(self) -> str:
        return f"urn:eventspine:{self.record.type}:{self.record.version}"

    @property
    def sequence(self) -> str | None:
        """Its position in the feed, as text that sorts; None until it has one."""
        return f"{self.record.position:020d}" if self.record.position else None

    @property
    def correlationid(self) -> str:
        """The event that everything began with; that is this event where nothing came before it."""
        return self.record.correlation or self.id

    @property
    def causationid(self) -> str | None:
        """The event whose handling published this one."""
        return self.record.causation

    @property
    def actor(self) -> str | None:
        """Who had it done, as its publisher says (`acting`)."""
        return of_meta(self.record.meta).actor

    @property
    def why(self) -> str | None:
        return of_meta(self.record.meta).why

    @property
    def hops(self) -> int:
        """How many events caused one another up to this one."""
        return self.record.hops

    @property
    def slot(self) -> int:
        return self.record.slot

    @property
    def extensions(self) -> dict[str, str]:
        if self._extensions is None:
            self._extensions = _read_meta(self.record.meta)
        return self._extensions

    @property
    def traceparent(self) -> str:
        """W3C trace context: as it was given, else derived, so that one correlation is one trace."""
        given = self.extensions.get("traceparent", "") if self.record.meta else ""
        if given and TRACEPARENT.match(given):
            return given
        return _traced(self.record.correlation, self.record.id)

    def attributes(self) -> dict[str, str | int]:
        """CloudEvents 1.0 attributes by their names on the wire."""
        record, id = self.record, self.id
        found: dict[str, str | int] = {}
        if record.meta:
            found = {name: value for name, value in self.extensions.items() if NAME.match(name)}
        found["specversion"] = "1.0"
        found["id"] = id
        found["source"] = record.source
        found["type"] = record.type
        found["time"] = _time_text(record.time_us) or _as_text(self.time)
        if record.key is not None:
            found["subject"] = found["partitionkey"] = record.key
        found["datacontenttype"] = _JSON
        found["dataschema"] = f"urn:eventspine:{record.type}:{record.version}"
        if record.position:
            found["sequence"] = f"{record.position:020d}"
        found["correlationid"] = record.correlation or id
        if record.causation is not None:
            found["causationid"] = record.causation
        found["traceparent"] = self.traceparent
        found["spinehops"] = record.hops
        found["spineslot"] = record.slot
        return found

    def to_json(self) -> bytes:
        """The event in CloudEvents' structured JSON."""
        return msgspec.json.encode({**self.attributes(), **_data_member(self.record.data)})


def make_record(
    event_type: EventType,
    event: Any,
    id: bytes,
    source: str,
    now_us: int,
    time_us: int | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    hops: int = 0,
    meta: bytes | None = None,
    data_bytes_max: int = DATA_BYTES_MAX,
    data: bytes | None = None,
    *,
    private: bool = False,
) -> Record:
    """The record of an event about to be published. `data`: its bytes, from which it has been read again already.
    `private`: it is for its source alone. Raises EventRefused, KeyRefused or EventTooLarge."""
    if data is None:
        data = event_type.encode(event)
        event_type.prove(data)
    if len(data) > data_bytes_max:
        raise too_large(event_type.name, len(data), data_bytes_max)
    key = event_type.key_of(event)
    return _new(
        Record,
        (
            0,
            id,
            None if private else event_type.context,
            slot_of_id(id) if key is None else slot_of_key(key),
            key,
            event_type.name,
            event_type.version,
            now_us if time_us is None else time_us,
            0,
            source,
            correlation,
            causation,
            hops,
            meta,
            data,
        ),
    )


_new: Callable[[type[Record], Any], Record] = tuple.__new__  # half the time of Record(...)


def _read_meta(meta: bytes | None) -> dict[str, str]:
    if not meta:
        return {}
    try:
        return msgspec.json.decode(meta, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}  # a foreign producer's; an envelope can always be read


def _time_text(us: int) -> str:
    """Nearly all that are sent together are of the same few seconds. "": no calendar has it."""
    seconds, rest = divmod(us, 1_000_000)
    text = _second_text(seconds)
    return f"{text}.{rest:06d}Z" if rest and text else text and f"{text}Z"


@lru_cache(maxsize=1024)
def _second_text(seconds: int) -> str:
    try:
        return (_EPOCH_PLAIN + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return ""


def _as_text(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _traced(correlation: str | None, id: bytes) -> str:
    if correlation is None and len(id) == 16 and any(id[8:]):
        trace = id.hex()  # what everything began with: both are its id, as below
        return f"00-{trace}-{trace[16:]}-01"
    return f"00-{_trace_id(correlation or id_text(id))}-{_span_id(id)}-01"


def _trace_id(correlation: str) -> str:
    text = correlation.replace("-", "").lower()
    if len(text) == 32 and text.strip("0") and not text.strip("0123456789abcdef"):
        return text
    return blake2b(correlation.encode(), digest_size=16).hexdigest()


def _span_id(id: bytes) -> str:
    return id[8:].hex() if len(id) == 16 and any(id[8:]) else blake2b(id, digest_size=8).hexdigest()


def _data_member(data: bytes) -> dict[str, Any]:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"data_base64": data}  # as CloudEvents says for data that isn't JSON
    return {"data": msgspec.Raw(data)}
