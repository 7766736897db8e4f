"""Snapshots: the state of an aggregate at a version, noted down so that loading need not begin at its first event.

A snapshot is a shortcut and never the truth. It commits with the events that led to it, or not at all, and is believed
only if everything about it fits:

* the code that made the state is the code that would make it now: a hash over the class's methods, its attributes with
  their types, the events that it applies with their versions and upcasters, and `snapshot_version`,
* it can be decoded,
* the event it says it ends with is the one that its stream has at that version.

Otherwise it is ignored and counted, the stream is read from its beginning, and the next save may write another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import DeclarationError
from ..journal.notes import VALUE_BYTES_MAX
from ..journal.port import Note
from .shapes import Shape

if TYPE_CHECKING:
    from .aggregate import Aggregate
    from .streams import Streams

log = logging.getLogger("eventspine.state")
KIND = "snapshot"


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """As it is stored."""

    hash: bytes
    version: int
    last: bytes  # id of the event at that version
    state: bytes


class Codec(NamedTuple):
    """How the state of one class becomes bytes, and the hash that says which code it belongs to."""

    hash: bytes
    names: tuple[str, ...]
    encode: msgspec.json.Encoder
    decode: msgspec.json.Decoder[Any]
    struct: Any


_read = msgspec.msgpack.Decoder(Snapshot).decode


# --- using --------------------------------------------------------------------------------------------------------------


async def find(journal: Streams, service: str, shape: Shape, stream: str, at_version: int | None) -> Snapshot | None:
    """One that is worth reading the stream for."""
    noted = await journal.notes(service, KIND, [stream])
    if not noted:
        return None
    try:
        taken = _read(noted[0].value)
    except msgspec.MsgspecError as error:
        _ignored(shape, stream, f"it can't be read: {error}")
        return None
    if taken.hash != codec_of(shape).hash:
        _ignored(shape, stream, "it belongs to other code")
        return None
    return taken if at_version is None or taken.version <= at_version else None


def restore(shape: Shape, found: Aggregate, stream: str, taken: Snapshot, last: bytes) -> bool:
    """Give the aggregate this state, if it is one of this stream; whether it was."""
    if taken.last != last:
        _ignored(shape, stream, "it ends with an event that its stream does not have there")
        return False
    codec = codec_of(shape)
    try:
        state = codec.decode.decode(taken.state)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError) as error:
        _ignored(shape, stream, f"its state can't be read: {error}")
        return False
    for name in codec.names:
        setattr(found, name, getattr(state, name))
    found._spine.version = taken.version
    shape.figures["snapshots used"] += 1
    return True


def _ignored(shape: Shape, stream: str, why: str) -> None:
    shape.figures["snapshots ignored"] += 1
    log.info("the snapshot of %s is not used: %s", stream, why)


# --- writing ------------------------------------------------------------------------------------------------------------


def due(shape: Shape, before: int, after: int) -> bool:
    """Whether a save that leads from one version to the other passes one that is to have a snapshot."""
    every = shape.options.snapshot_every
    return bool(every) and after // every > before // every


def note(shape: Shape, service: str, aggregate: Aggregate, last: bytes) -> Note | None:
    """To be written in the unit that appends the events which led to this state; None: it can't be noted down whole."""
    stream, codec = shape.stream(aggregate.id), codec_of(shape)
    try:
        value = msgspec.msgpack.encode(Snapshot(codec.hash, aggregate.version, last, _state(codec, aggregate)))
        if len(value) > VALUE_BYTES_MAX:
            raise _Unfit(f"it would be {len(value):,} bytes, and a note has {VALUE_BYTES_MAX:,} at most")
    except _Unfit as why:
        _not_written(shape, stream, str(why))
        return None
    shape.figures["snapshots written"] += 1
    return Note(service, KIND, stream, value)


class _Unfit(Exception):
    """Why a state can't be noted down."""


def _state(codec: Codec, aggregate: Aggregate) -> bytes:
    undeclared = vars(aggregate).keys() - {"_spine"} - set(codec.names)
    if undeclared:
        raise _Unfit(f"{', '.join(sorted(undeclared))} is not declared: annotate it in the class")
    try:
        state = codec.struct(*(getattr(aggregate, name) for name in codec.names))
        encoded = codec.encode.encode(state)
        same = codec.decode.decode(encoded) == state
    except (msgspec.MsgspecError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _Unfit(f"its state can't be written: {error}") from error
    if not same:
        raise _Unfit("its state is another one when it is read back: give attributes exact types")
    return encoded


def _not_written(shape: Shape, stream: str, why: str) -> None:
    """Said once for a class: the same will be true of the next."""
    if not shape.figures["snapshots not written"]:
        log.warning("%s is loaded without snapshots, from its first event on: %s", stream, why)
    shape.figures["snapshots not written"] += 1


# --- what a state belongs to --------------------------------------------------------------------------------------------


def codec_of(shape: Shape) -> Codec:
    codec: Codec | None = shape.codec
    if codec is None:
        codec = shape.codec = _make_codec(shape)
    return codec


def _make_codec(shape: Shape) -> Codec:
    fields = shape.state
    try:
        struct: Any = msgspec.defstruct(f"{shape.cls.__name__}State", list(fields.items()), array_like=True)
        decode: msgspec.json.Decoder[Any] = msgspec.json.Decoder(struct)
    except TypeError as error:
        raise DeclarationError(
            f"{shape.cls.__name__} has snapshot_every=, and state that can't be noted down: {error}. Give its attributes types "
            "that events could have, or do without snapshots.",
            aggregate=shape.cls.__qualname__,
        ) from error
    return Codec(_hash(shape, struct), tuple(fields), msgspec.json.Encoder(), decode, struct)


def _hash(shape: Shape, struct: Any) -> bytes:
    digest = blake2b(digest_size=16)
    options = shape.options
    parts: list[object] = [
        options.name,
        options.snapshot_version,
        options.unknown,
        sorted(map(repr, shape.state.items())),
    ]
    parts.append(_schema(struct))
    for name, reader in sorted(shape.readers.items()):
        parts += [name, reader.version, *_upcasters(reader.kind.upcasters)]
    for part in [*parts, *_methods(shape.cls)]:
        text = repr(part).encode("utf-8", "backslashreplace")
        digest.update(b"%d:%b" % (len(text), text))
    return digest.digest()


def _schema(struct: Any) -> object:
    """Also of structs inside the state."""
    try:
        return msgspec.json.encode(msgspec.json.schema(struct), order="deterministic")
    except TypeError:
        return None  # types that have no schema; their names are in the hash all the same


def _upcasters(upcasters: Mapping[int, Any]) -> Iterator[object]:
    for version, function in sorted(upcasters.items()):
        yield version
        yield _code(getattr(function, "__code__", None)) or repr(function).split(" at 0x")[0]


def _methods(cls: type) -> Iterator[object]:
    for base in cls.__mro__:
        if base.__module__.startswith("eventspine.state") or base is object:
            continue
        for name, value in sorted(vars(base).items()):
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                yield base.__qualname__, name, _code(function.__code__), repr(function.__defaults__).split(" at 0x")[0]


def _code(code: CodeType | None) -> object:
    """What it does, and not where it stands."""
    if code is None:
        return None
    constants = [_code(one) if isinstance(one, CodeType) else _plain(one) for one in code.co_consts]
    return code.co_code.hex(), code.co_names, code.co_varnames, constants


def _plain(constant: object) -> str:
    """The same in every process: a set has another order in each."""
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
