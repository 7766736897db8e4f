"""Event classes: how they are declared, and how the rest of the spine asks what was declared.

Nothing is registered anywhere: what is known about a class is stored on that class alone, so two classes of one type
may live in one process, each with the fields that its reader needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

import msgspec

from ..errors import DeclarationError
from .pydantic_models import is_pydantic
from .types import EventType, Options

EVENT = "__spine_event__"  # what is known about an event's class, on that class
COMMAND = "__spine_command__"  # the same, of a command's
INHERIT: Any = object()  # "not said", where None means "no key"

C = TypeVar("C")
Key = str | tuple[str, ...] | None
Rename = Literal["lower", "upper", "camel", "pascal", "kebab"] | Callable[[str], str | None] | Mapping[str, str] | None


def register(cls: Any, known: EventType, stored: str = EVENT) -> None:
    with suppress(NameError):  # a field's type is defined further down: `describe` tries again
        known.complete()
    setattr(cls, stored, known)


def completed(known: EventType, what: str) -> None:
    try:
        known.complete()
    except NameError as error:
        raise DeclarationError(
            f"{known.cls.__name__} has a field whose type can't be found: {error}. "
            f"Define that type in the module of the {what}, outside of functions and of `if TYPE_CHECKING`."
        ) from error


def declared_options(
    cls: Any, stored: str, context: Any, key: Key, type: Any, version: Any, tenant: Any, renamed_from: Any = ()
) -> Options | None:
    """What this class was declared with, of which a base may have said some. None: it says nothing, and is a base."""
    parent = _inherited(cls, stored)
    if parent is not None:
        context = parent.context if context is INHERIT else context
        key = parent.key if key is INHERIT else key
        tenant = parent.tenant if tenant is INHERIT else tenant
    if context is not INHERIT:
        return Options(context, _names(key), type, version, None if tenant is INHERIT else tenant, renamed_from)
    if key is not INHERIT or tenant is not INHERIT or type is not None or version is not None or renamed_from:
        what, whose = ("command", "the context that owns it") if stored == COMMAND else ("event", "its context")
        raise DeclarationError(
            f"{cls.__name__} says what kind of {what} it is, but not whose: add context=, the name of {whose}"
        )
    return None


def _inherited(cls: type, stored: str) -> EventType | None:
    found = (base.__dict__.get(stored) for base in cls.__mro__[1:])
    return next((known for known in found if known is not None), None)


def _names(key: Any) -> tuple[str, ...]:
    if key is INHERIT or key is None:
        return ()
    names = (key,) if isinstance(key, str) else key
    if not isinstance(names, tuple | list):
        raise DeclarationError(f"key={key!r} is neither the name of a field nor a tuple of names")
    return tuple(names)


def resolve_local(namespace: dict[str, Any], frame: Any) -> None:
    """Under `from __future__ import annotations`, find types that were defined inside the function around the class.

    msgspec looks only in the module, and a test likes to define its events where it uses them.
    """
    if frame.f_locals is frame.f_globals:
        return
    annotations = namespace.get("__annotations__", {})
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            with suppress(Exception):  # what can't be resolved yet, or is wrong, is for msgspec to judge
                annotations[name] = eval(annotation, frame.f_globals, dict(frame.f_locals))  # noqa: S307


def refuse_unknown(class_name: str, unknown: Iterable[str], meta: Any) -> None:
    if unknown:
        known = ", ".join(meta.__new__.__kwdefaults__)
        raise DeclarationError(
            f"class {class_name}: no such option in its class line: {', '.join(sorted(unknown))}. Known: {known}."
        )


class EventMeta(msgspec.StructMeta):
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
        renamed_from: str | tuple[str, ...] = (),
        **unknown: Any,
    ) -> EventMeta:
        refuse_unknown(class_name, unknown, EventMeta)
        resolve_local(namespace, sys._getframe(1))
        cls = super().__new__(mcls, class_name, bases, namespace, frozen=True, kw_only=True, rename=rename)
        declared = declared_options(cls, EVENT, context, key, type, version, tenant, renamed_from)
        if declared is not None:
            register(cls, EventType(cls, declared))
        return cls


if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
    class Event:
        """A fact of one context: `class OrderPlaced(Event, context="orders", key="customer_id"): ...`.

        Fields are keyword-only, and an event can't be changed. `key` names the field, or the tuple of fields, that the
        event is about: events with one key are handled in order. `tenant` names the field that comes first in every
        key. `type` is the name on the wire where it isn't context and class name; `version` is raised with each
        change of the fields; `rename` gives fields other names on the wire ("camel", or a mapping). `renamed_from` are names
        that the event had on the wire before: what is stored under them is read as this class. A class without a context
        is a base for others.
        """

        def __init_subclass__(
            cls,
            *,
            context: str = ...,
            key: str | tuple[str, ...] | None = ...,
            type: str | None = None,
            version: int | None = None,
            tenant: str | None = ...,
            rename: Rename = None,
            renamed_from: str | tuple[str, ...] = (),
        ) -> None: ...

else:

    class Event(msgspec.Struct, metaclass=EventMeta):
        """A fact of one context: `class OrderPlaced(Event, context="orders", key="customer_id"): ...`."""


def event(
    *,
    context: str,
    key: Key = None,
    type: str | None = None,
    version: int | None = None,
    tenant: str | None = None,
    renamed_from: str | tuple[str, ...] = (),
) -> Callable[[type[C]], type[C]]:
    """Make events of a dataclass or a pydantic model; the class is given back as it is."""

    def declare(cls: Any) -> Any:
        if isinstance(cls, EventMeta):
            raise DeclarationError(f"{cls.__name__} is an Event; say context= and key= in its class line instead")
        if not is_dataclass(cls) and not is_pydantic(cls):
            raise DeclarationError(
                f"{getattr(cls, '__name__', cls)!r} is neither a dataclass nor a pydantic model. "
                "Put @event above @dataclass, or derive the class from Event."
            )
        register(cls, EventType(cls, Options(context, _names(key), type, version, tenant, renamed_from)))
        return cls

    return declare


def describe_event(event: Any) -> EventType:
    """What is known about the class of an event that was handed in."""
    if isinstance(event, type):
        raise DeclarationError(f"{event.__name__} is a class, and no event of it: make one, {event.__name__}(...).")
    return describe(type(event))


def describe(cls: type) -> EventType:
    """What is known about an event class."""
    found: EventType | None = getattr(cls, EVENT, None)
    if found is None or found.cls is not cls:  # a subclass must not pass for its parent
        raise _undescribed(cls)
    if not found.ready:
        completed(found, "event")
    return found


def _undescribed(cls: Any) -> DeclarationError:
    if not isinstance(cls, type):
        return DeclarationError(f"{cls!r} is not a class; describe takes the class of an event")
    if hasattr(cls, COMMAND):
        return DeclarationError(
            f"{cls.__name__} is a command, which may be refused, and no event: send it, spine.send(...), and publish what came of it."
        )
    if issubclass(cls, msgspec.Struct) and isinstance(cls, EventMeta):
        return DeclarationError(f"{cls.__name__} has no context and is only a base; add context= to its class line")
    if issubclass(cls, (list, tuple, set, frozenset, Iterator)):
        return DeclarationError(
            f"{cls.__name__} is not an event. Give several events one by one, as in publish(*events)."
        )
    return DeclarationError(
        f"{cls.__name__} is not an event. Derive it from Event (class {cls.__name__}(Event, context=..., key=...)), "
        "or put @event(context=..., key=...) above a dataclass or pydantic model."
    )
