"""What is known about an event class: its context, name, version, key, and how it becomes bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields as dataclass_fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

import msgspec
from msgspec import inspect

from ..errors import DeclarationError
from ..keys import KeyOf, key_reader
from .checks import Walk
from .codec import decoder, encoder, prover, raw_codec
from .pydantic_models import fields_of, is_pydantic, types_of

_CONTEXT = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_KEY_TYPES = (inspect.StrType, inspect.IntType, inspect.UUIDType, inspect.DateType, inspect.EnumType)


def is_context(name: object) -> bool:
    return isinstance(name, str) and len(name) <= 100 and _CONTEXT.fullmatch(name) is not None


class Options(NamedTuple):
    """What a class was declared with."""

    context: Any  # what callers wrote, until EventType has looked at it
    key: tuple[Any, ...]
    type: Any
    version: Any
    tenant: Any
    renamed_from: Any = ()


class EventType:
    """An event class as the rest of the spine uses it; `describe(cls)` gives it.

    `key_of(event)` is the event's key or None; `encode(event)` its JSON, or EventRefused; `decode(data)` an event, or
    Undecodable with the path and the reason. `prove(data)` raises EventRefused for what `decode` could not read.
    `names` are those it is stored under: its own, and those it had. Stored data is read by `read(data, version)`, which
    brings what is older up to this class first.
    """

    __slots__ = ("cls", "context", "decode", "encode", "key", "key_of", "name", "names", "prove", "ready", "tenant",
                 "upcasters", "version", "version_declared")  # fmt: skip

    context: str
    name: str
    version: int
    key_of: KeyOf
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    prove: Callable[[bytes], None]

    def __init__(self, cls: type, options: Options) -> None:
        self.cls = cls
        self._check_options(options)
        self.context = options.context
        self.name = _name(cls, options)
        self.names: tuple[str, ...] = (self.name, *self._former_names(options.renamed_from))
        self.upcasters: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # by version; see upcasting.py
        self.version = 1 if options.version is None else options.version
        self.version_declared = options.version is not None
        self.tenant: str | None = options.tenant
        self.key: tuple[str, ...] = options.key
        self.ready = False
        self._check_names()

    def __repr__(self) -> str:
        return f"<EventType {self.name} version {self.version}>"

    def complete(self) -> None:
        """Resolve the types of the fields and build the codec. Raises NameError while a type isn't defined yet."""
        if self.ready:
            return
        types = self._field_types()
        for name in self._key_fields():
            self._check_key_type(name, types[name])
        walk = Walk(self.cls.__name__)
        check = walk.model(self.cls) if is_pydantic(self.cls) else walk.fields(self.cls, types)
        try:
            raw_encode, raw_decode = raw_codec(self.cls)
        except TypeError as error:
            raise self._wrong(f"can't be encoded: {error}") from error
        self.encode = encoder(self.name, raw_encode, check, walk.bounded)
        self.decode = decoder(self.name, raw_decode, check)
        self.prove = prover(self.name, raw_decode)
        self.key_of = key_reader(self._key_fields(), self.name)
        self.ready = True

    def read(self, data: bytes, version: int) -> Any:
        """The event that was stored as of this version."""
        if version >= self.version or not self.upcasters:
            return self.decode(data)
        from .upcasting import read

        return read(self, data, version)

    def _former_names(self, given: Any) -> tuple[str, ...]:
        names = (given,) if isinstance(given, str) else given
        wrong = [name for name in names if not isinstance(name, str) or not _TYPE.fullmatch(name) or name == self.name]
        if wrong or len(set(names)) < len(names):
            raise self._wrong(
                f"has renamed_from={given!r}; write the whole name that it had on the wire, such as 'orders.OrderPlaced', "
                "or a tuple of them"
            )
        return tuple(names)

    def _key_fields(self) -> tuple[str, ...]:
        return (self.tenant, *self.key) if self.tenant and self.key else self.key

    def _field_types(self) -> dict[str, inspect.Type]:
        cls: Any = self.cls
        if is_pydantic(cls):
            return types_of(cls)
        try:
            info = inspect.type_info(cls)
        except TypeError as error:
            raise self._wrong(f"has a field {self._at_fault()}that can't be encoded: {error}") from error
        assert isinstance(info, inspect.StructType | inspect.DataclassType)
        return {field.name: field.type for field in info.fields}

    def _at_fault(self) -> str:
        """The first field whose type is refused by itself: msgspec names only the type."""
        for name, said in get_type_hints(self.cls, include_extras=True).items():
            try:
                inspect.type_info(said)
            except TypeError:
                return f"{name!r} "
        return ""

    def _check_options(self, options: Options) -> None:
        context, name, version = options.context, _name(self.cls, options), options.version
        if not is_context(context):
            raise self._wrong(
                f"has context={context!r}; a context is lower-case words such as 'orders' or 'shop.orders' "
                "(letters, digits, '_', '-', at most 100 characters)"
            )
        if not isinstance(name, str) or not _TYPE.fullmatch(name) or len(name) > 200:
            raise self._wrong(
                f"has type={name!r}; a type is a name such as 'orders.OrderPlaced' "
                "(ASCII letters, digits, '_', '-', '.', at most 200 characters); say type= to give it one"
            )
        if version is not None and (type(version) is not int or version < 1):
            raise self._wrong(f"has version={version!r}; a version is a whole number from 1 on")

    def _check_names(self) -> None:
        names = field_names(self.cls)
        for word, fields in (("key", self.key), ("tenant", (self.tenant,) if self.tenant is not None else ())):
            for field in fields:
                if field not in names:
                    raise self._wrong(f"has {word}={field!r}, but no such field; its fields are {', '.join(names)}")
        if len(set(self._key_fields())) != len(self._key_fields()):
            named = ", ".join(self._key_fields())
            raise self._wrong(f"names a field twice in its key: {named}; the tenant comes first without being in key=")

    def _check_key_type(self, name: str, node: inspect.Type) -> None:
        while isinstance(node, inspect.Metadata):
            node = node.type
        if not isinstance(node, _KEY_TYPES):
            raise self._wrong(
                f"has {name!r} in its key, which is of type {_type_word(node)}; "
                "a key is made of str, int, UUID, date and enum, and is never optional"
            )
        if isinstance(node, inspect.EnumType) and {type(member.value) for member in node.cls} not in ({str}, {int}):
            raise self._wrong(f"has {name!r} in its key, an enum whose values are not all str or all int")

    def _wrong(self, what: str) -> DeclarationError:
        return DeclarationError(f"{self.cls.__name__} {what}", event=self.cls.__qualname__)


def _name(cls: type, options: Options) -> Any:
    return f"{options.context}.{cls.__name__}" if options.type is None else options.type


def _type_word(node: inspect.Type) -> str:
    if isinstance(node, inspect.UnionType):
        return " | ".join(_type_word(inner) for inner in node.types)
    return type(node).__name__.removesuffix("Type").lower()


def field_names(cls: Any) -> tuple[str, ...]:
    if issubclass(cls, msgspec.Struct):
        return tuple(cls.__struct_fields__)
    if is_pydantic(cls):
        return tuple(fields_of(cls))
    assert is_dataclass(cls)
    return tuple(field.name for field in dataclass_fields(cls))
