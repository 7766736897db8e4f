"""Command classes: how they are declared, and what is known about one.

A command is built like an event (frozen, keyword-only, JSON), and says besides what it is answered with:
`class PlaceOrder(Command[OrderId], context="orders", key="customer_id")`. Nothing is registered anywhere: who sends a command of
another team's declares it again, with the same type; the handler reads it as the class of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, dataclass_transform

import msgspec
from msgspec import inspect

from ..errors import CommandRefused, DeclarationError, EventRefused, KeyRefused, ResultRefused, Undecodable
from ..events.codec import DATA_BYTES_MAX, encode_foreign, raw_codec
from ..events.declare import (
    COMMAND,
    EVENT,
    INHERIT,
    Key,
    Rename,
    completed,
    declared_options,
    refuse_unknown,
    register,
    resolve_local,
)
from ..events.pydantic_models import is_pydantic
from ..events.types import EventType, Options
from .strangers import stranger

T = TypeVar("T")
# The same command is the same text, whatever order a set or a dict has in this process.
_same_text = msgspec.json.Encoder(order="deterministic", enc_hook=encode_foreign).encode


class CommandType(EventType):
    """A command class as the rest of the spine uses it; `describe_command(cls)` gives it."""

    __slots__ = ("_read_result", "_write_result", "result")
    _write_result: Callable[[Any], bytes]
    _read_result: Callable[[bytes], Any]

    def __init__(self, cls: type, options: Options, result: Any) -> None:
        super().__init__(cls, options)
        self.result = result

    def complete(self) -> None:
        if self.ready:
            return
        self._check_result()
        try:
            self._write_result, self._read_result = raw_codec(self.result)
        except TypeError as error:
            raise self._wrong(f"is answered with {_shown(self.result)}, which is no JSON: {error}") from error
        super().complete()

    def admit(self, command: Any) -> tuple[bytes, Any]:
        """Its JSON, and the command as whoever handles it reads it. Raises CommandRefused for what is not one."""
        try:
            data = self.encode(command)
        except EventRefused as error:
            self._refuse(error)
        return data, self.admitted(data)

    def admitted(self, data: bytes) -> Any:
        """The command that these bytes are. Raises CommandRefused, whatever they are."""
        try:
            command = self.decode(data)
            self.key_of(command)
        except Undecodable as error:
            self._refuse(error)
        except KeyRefused as error:
            raise CommandRefused(f"{str(error).rstrip('.')}. Nothing was done.", type=self.name) from error
        return command

    def asked(self, data: bytes) -> Any:
        """The command that a client's bytes are. Unlike `admitted`, which reads what a sender of another release may have
        written, this refuses a field that the class doesn't have: whoever misspells one is told, and it is not dropped."""
        command = self.admitted(data)
        if (path := stranger(msgspec.json.decode(data), command)) is not None:
            self._refuse(Undecodable("", path=path, reason="there is no such field"))
        return command

    def check_size(self, bytes: int) -> None:
        """Of what is not read yet."""
        if bytes > DATA_BYTES_MAX:
            self._refuse(Undecodable("", size_bytes=bytes, limit_bytes=DATA_BYTES_MAX))

    def same(self, command: Any) -> bytes:
        """Equal for equal commands, and for no others. A field that has its default is as one that is not there, so that a
        release which adds a field knows again what was sent before."""
        return blake2b(
            self.name.encode() + b"\0" + _same_text(command), digest_size=16, person=b"spine.command"
        ).digest()

    def write_result(self, result: Any, handler: str, said: str = "returned", instead: str = "") -> bytes:
        """The JSON of what the handler returned, or gave to join(). Raises ResultRefused for what the command does not promise."""
        try:
            data = self._write_result(result)
            if len(data) <= DATA_BYTES_MAX:
                self._read_result(data)
        except MemoryError:
            raise
        except Exception as error:
            raise ResultRefused(
                f"{handler} {said} {result!r:.100}, and {self.cls.__name__} is answered with {_shown(self.result)}: {error}. "
                f"{instead}Nothing of it was stored.",
                type=self.name,
            ) from error
        if len(data) > DATA_BYTES_MAX:
            raise ResultRefused(
                f"{handler} returned {len(data):,} bytes; a result has at most {DATA_BYTES_MAX:,}. Answer with where it is.",
                type=self.name,
                size_bytes=len(data),
                limit_bytes=DATA_BYTES_MAX,
            )
        return data

    def read_result(self, data: bytes) -> Any:
        return self._read_result(data)

    def _check_result(self) -> None:
        told = inspect.type_info(self.result)
        if isinstance(told, inspect.CustomType) and not is_pydantic(told.cls):
            raise self._wrong(
                f"is answered with {_shown(self.result)}, which is no JSON. Write Command[...] with a text, number, UUID, "
                "time, list, dict, dataclass, Struct or pydantic model, or Command[None]"
            )

    def _refuse(self, error: EventRefused | Undecodable) -> NoReturn:
        told = error.details
        if "size_bytes" in told:
            why = f" is {told['size_bytes']:,} bytes; a command has at most {told['limit_bytes']:,}"
        elif told.get("reason"):
            why = f": {told['path']}: {told['reason']}" if told.get("path") else f": {told['reason']}"
        else:
            why = str(error).removeprefix(self.name)
        raise CommandRefused(f"{self.name}{why}. Nothing was done.", **{**told, "type": self.name}) from error


def _shown(result: Any) -> str:
    return str(result) if hasattr(result, "__origin__") else getattr(result, "__name__", str(result))


class CommandMeta(msgspec.StructMeta):
    """Takes the class keywords that msgspec doesn't know."""

    def __new__(  # noqa: PYI034 - a metaclass can't say Self
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        context: str = INHERIT,
        key: Key = INHERIT,
        type: str | None = None,
        version: int | None = None,
        tenant: str | None = INHERIT,
        rename: Rename = None,
        **unknown: Any,
    ) -> CommandMeta:
        refuse_unknown(class_name, unknown, CommandMeta)
        resolve_local(namespace, sys._getframe(1))
        cls = super().__new__(
            mcls, class_name, bases, namespace, frozen=True, kw_only=True, rename=rename, omit_defaults=True
        )
        declared = declared_options(cls, COMMAND, context, key, type, version, tenant)
        if declared is not None:
            register(cls, CommandType(cls, declared, _result_of(cls)), COMMAND)
        return cls


def _result_of(cls: type) -> Any:
    """What `Command[...]` says in its class line, or in that of a base."""
    for alias in _aliases(cls):
        result = alias.__args__[0]
        if isinstance(result, (str, TypeVar)):
            raise DeclarationError(
                f"{cls.__name__} is answered with {result!r}, which is no type. Write the type itself, defined above: Command[OrderId]."
            )
        return result
    raise DeclarationError(
        f"{cls.__name__} doesn't say what it is answered with: write class {cls.__name__}(Command[OrderId], ...), or Command[None] "
        "where it is only done or refused."
    )


def _aliases(cls: type) -> Iterator[Any]:
    for one in cls.__mro__:
        for base in vars(one).get("__orig_bases__", ()):
            if isinstance(getattr(base, "__origin__", None), CommandMeta):
                yield base


def describe_command(cls: Any) -> CommandType:
    """What is known about a command class."""
    found: CommandType | None = vars(cls).get(COMMAND) if isinstance(cls, type) else None
    if found is None:
        raise _undescribed(cls)
    completed(found, "command")
    return found


def _undescribed(cls: Any) -> DeclarationError:
    name = getattr(cls, "__name__", repr(cls))
    if hasattr(cls, EVENT):
        return DeclarationError(f"{name} is an event: a fact is published, spine.publish(...), and a command is sent.")
    if isinstance(cls, CommandMeta):
        return DeclarationError(f"{name} has no context and is only a base; add context= to its class line")
    return DeclarationError(f"{name} is not a command. Derive it: class {name}(Command[...], context=..., key=...).")


if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
    class Command(Generic[T]):
        """A request to one context, which owns it and may refuse it: `class PlaceOrder(Command[OrderId], context="orders",
        key="customer_id"): ...`. `Command[OrderId]` says what it is answered with; `Command[None]`: that it was done.

        Fields are keyword-only, and a command can't be changed. `context` is who owns it: a service that publishes this
        context handles it. `key` names the field, or the tuple of fields, that it is about. `tenant`, `type`, `version` and
        `rename` are as those of `Event`."""

        def __init_subclass__(
            cls,
            *,
            context: str = ...,
            key: str | tuple[str, ...] | None = ...,
            type: str | None = None,
            version: int | None = None,
            tenant: str | None = ...,
            rename: Rename = None,
        ) -> None: ...

else:

    class Command(msgspec.Struct, metaclass=CommandMeta):
        """A request to one context, which owns it and may refuse it."""

        __class_getitem__ = classmethod(GenericAlias)

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from .body import core_schema

            return core_schema(describe_command(cls))
