"""Events to JSON and back.

Encoding refuses (EventRefused) what a reader could not read. Decoding is tolerant towards producers (R23): fields that
the class doesn't have are ignored, the last of two equal names counts; and it is strict towards the class: anything
that is not one of its events raises Undecodable, and nothing else, whatever the bytes are. What was decoded passes the
same checks as what is published, so it can always be published again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from ..errors import EventRefused, EventTooLarge, Undecodable
from .checks import Check, Numbers, Unfit, search, unencodable
from .pydantic_models import first_error, is_pydantic, to_json

DATA_BYTES_MAX = 1_000_000  # published or read; looking at each value of more would hold up everybody else
DEPTH_MAX = 64
_LENGTH_MIN = 2 * DEPTH_MAX  # what is shorter can't be nested deeper

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


def encode_foreign(value: Any) -> Any:
    """What msgspec doesn't know: pydantic models, by their own serializer."""
    if not is_pydantic(type(value)):
        raise NotImplementedError(f"a {type(value).__name__} can't be encoded as JSON")
    return msgspec.Raw(to_json(type(value), value))


def _decode_foreign(cls: Any, value: Any) -> Any:
    if cls is object:
        return value
    # By way of JSON, since pydantic's strict types mean something else for Python's values than for JSON's.
    return cls.__pydantic_validator__.validate_json(msgspec.json.encode(value))


_encode = msgspec.json.Encoder(enc_hook=encode_foreign).encode


def raw_codec(cls: Any) -> tuple[Encode, Decode]:
    """The fastest way to bytes and back for this class; they raise what they like."""
    if is_pydantic(cls):
        return partial(to_json, cls), cls.__pydantic_validator__.validate_json
    return _encode, msgspec.json.Decoder(cls, dec_hook=_decode_foreign).decode


def encoder(name: str, raw: Encode, check: Check | None, bounded: bool) -> Encode:
    def encode(event: Any) -> bytes:
        try:
            data = raw(event)
            if len(data) > DATA_BYTES_MAX:
                raise too_large(name, len(data), DATA_BYTES_MAX)
            if check is not None:
                check(event)
        except EventTooLarge:
            raise
        except Exception as error:
            raise _refusal(name, event, error) from error
        if not bounded and too_deep(data):
            raise EventRefused(f"{name} is nested deeper than {DEPTH_MAX}, which no reader accepts", type=name)
        return data

    return encode


def prover(name: str, raw: Decode) -> Callable[[bytes], None]:
    """Refuses bytes that the event's own class could not read.

    A struct or dataclass doesn't look at what it is made from, and an event lasts: a 5 in a field of type str must be
    found now, not by every reader.
    """

    def prove(data: bytes) -> None:
        try:
            raw(data)
        except MemoryError:
            raise
        except Exception as error:
            path, reason = _place(error)
            raise EventRefused(
                f"{name}: {path + ': ' if path else ''}{reason}. The event's own class could not read this back; "
                "make the event of values that have the types of its fields.",
                type=name,
                path=path,
                reason=reason,
            ) from error

    return prove


def decoder(name: str, raw: Decode, check: Check | None) -> Decode:
    def decode(data: bytes) -> Any:
        if len(data) > _LENGTH_MIN:
            _refuse_outsize(name, data)
        try:
            event = raw(data)
            if check is not None:
                check(event)
        except MemoryError:
            raise
        except Exception as error:
            raise _undecodable(name, error) from error
        return event

    numbers: Numbers = () if check is None else getattr(check, "numbers", ())

    def decode_numbers(data: bytes) -> Any:
        """The same, for the usual event that has a few numbers beside its texts: found fit without a call of ours."""
        if len(data) > _LENGTH_MIN:
            _refuse_outsize(name, data)
        try:
            event = raw(data)
            for value_of, is_finite in numbers:
                if not is_finite(value_of(event)):
                    break
            else:
                return event
        except Exception:  # noqa: BLE001, S110 -- `decode` says what it is
            pass
        return decode(data)

    return decode_numbers if numbers else decode


def _refuse_outsize(name: str, data: bytes) -> None:
    if len(data) > DATA_BYTES_MAX:
        size = f"{len(data):,} bytes; an event has at most {DATA_BYTES_MAX:,}"
        raise Undecodable(f"{name}: {size}", type=name, path="", reason="too large")
    if too_deep(data):
        raise Undecodable(f"{name}: nested deeper than {DEPTH_MAX}", type=name, path="", reason="too deep")


def too_large(name: str, size: int, limit: int) -> EventTooLarge:
    return EventTooLarge(
        f"{name} is {size:,} bytes; an event has at most {limit:,}. "
        "Store the large part elsewhere and publish where it is, or publish several smaller events.",
        type=name,
        size_bytes=size,
        limit_bytes=limit,
    )


def _refusal(name: str, event: object, error: Exception) -> Exception:
    """Find out, now that it has failed, which value it was."""
    if isinstance(error, MemoryError):
        return error
    try:
        if not isinstance(error, Unfit):
            search(event, unencodable)
    except Unfit as found:
        error = found
    except RecursionError:
        pass
    if isinstance(error, Unfit):
        return EventRefused(f"{name}: {error.path} {error.reason}", type=name, path=error.path, reason=error.reason)
    if isinstance(error, RecursionError):
        return EventRefused(f"{name} is nested too deeply, or contains itself", type=name)
    return EventRefused(f"{name} can't be encoded: {error}", type=name)


def _undecodable(name: str, error: Exception) -> Undecodable:
    path, reason = _place(error)
    return Undecodable(f"{name}: {path + ': ' if path else ''}{reason}", type=name, path=path, reason=reason)


def _place(error: Exception) -> tuple[str, str]:
    """Where in the event it went wrong, and how."""
    if isinstance(error, Unfit):
        return error.path, error.reason
    if found := first_error(error):
        return found
    # msgspec says "Expected `int`, got `str` - at `$.lines[0].units`"
    reason, _, path = str(error).partition(" - at `")
    return path.removesuffix("`").removeprefix("$").removeprefix("."), reason or type(error).__name__


# Every part is possessive, and an unfinished string runs to the end: hostile bytes cost linear time.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def too_deep(data: bytes) -> bool:
    """Whether JSON is nested deeper than DEPTH_MAX. Takes off one level at a time, in C; says no of malformed JSON."""
    if data.count(b"[") + data.count(b"{") <= DEPTH_MAX:
        return False
    left = _STRINGS.sub(b"", data).translate(_BRACKETS, _OTHERS)
    for _ in range(DEPTH_MAX):
        shorter = left.replace(b"[]", b"")
        if len(shorter) == len(left):
            return False
        left = shorter
    return b"[]" in left
