"""What is known about an aggregate's class: its options, its state, which events it applies and how they are read.

Kept on the class alone. The event classes are looked at when the first aggregate is made or loaded, so that a class may
be written above the types of its events' fields."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from inspect import get_annotations
from typing import Any, ClassVar, Literal, NamedTuple, get_origin, get_type_hints

from ..errors import DeclarationError
from ..events import EventType, check_chain, describe

APPLIES = "__spine_applies__"
SHAPE = "__spine_shape__"
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,99}\Z")

Apply = Callable[[Any, Any], None]


class Options(NamedTuple):
    """What the class was declared with."""

    name: str = ""
    private: bool = False
    snapshot_every: int = 0  # 0: never
    snapshot_version: int = 1
    unknown: Literal["fail", "ignore"] = "fail"
    conflict_tries: int = 10
    keys: Literal["id", "any"] = "id"


class Reader(NamedTuple):
    """How a stored event of one type becomes a change of state."""

    decode: Callable[[bytes], Any]
    version: int  # of the class, and the newest that it can read; what is older may have upcasters
    kind: EventType
    apply: Apply


class Shape:
    def __init__(self, cls: type, options: Options, factories: Mapping[str, Callable[[], Any]]) -> None:
        self.cls = cls
        self.options = options
        self._own_factories = factories
        self.figures: Counter[str] = Counter()  # of snapshots and unknown events, since the process began
        self.codec: Any = None  # of snapshots; made when the first is read or written
        _check(cls, options)
        self._own = _appliers_of(cls)
        self.odd_keys: set[str] = set()  # types of events whose key is not the id, of which it was told

    @property
    def _line(self) -> list[Shape]:
        """Of the class, after those of its bases."""
        return _shapes(self.cls)[::-1]

    @cached_property
    def factories(self) -> dict[str, Callable[[], Any]]:
        return {name: make for shape in self._line for name, make in shape._own_factories.items()}

    @cached_property
    def appliers(self) -> dict[type, Apply]:
        """By the class of the event; a subclass's come before its base's."""
        found = {event: name for shape in self._line for event, name in shape._own.items()}
        return {event: getattr(self.cls, name) for event, name in found.items()}

    @cached_property
    def readers(self) -> dict[str, Reader]:
        """By the type's name as stored."""
        found: dict[str, Reader] = {}
        for event, apply in self.appliers.items():
            kind = describe(event)
            check_chain(kind)
            for name in kind.names:
                if name in found:
                    raise DeclarationError(f"{self.cls.__name__}: two of the classes that it applies stand for {name}.")
                found[name] = Reader(kind.decode, kind.version, kind, apply)
        return found

    @cached_property
    def state(self) -> dict[str, Any]:
        """The attributes that are its state, with their types."""
        from .aggregate import Aggregate

        own = {"_spine", *vars(Aggregate)}
        hints = get_type_hints(self.cls, include_extras=True)
        return {name: hint for name, hint in hints.items() if name not in own and get_origin(hint) is not ClassVar}

    @cached_property
    def annotated(self) -> frozenset[str]:
        """Their names alone, for which no type needs to be known."""
        return frozenset(name for shape in self._line for name in get_annotations(shape.cls))

    def stream(self, id: str) -> str:
        return f"{self.options.name}-{id}"


def shape_of(cls: Any) -> Shape:
    shape: Shape | None = vars(cls).get(SHAPE) if isinstance(cls, type) else None
    if shape is None:
        raise DeclarationError(f"{cls!r} is no aggregate: it takes a class that derives from Aggregate.")
    return shape


def figures(cls: type) -> dict[str, int]:
    """What has been counted of this class in this process: snapshots used, ignored, written and not written, and events
    that were passed by unknown="ignore"."""
    return dict(shape_of(cls).figures)


def inherited_options(cls: type) -> Options:
    return next((shape.options for shape in _shapes(cls)), Options())


def _shapes(cls: type) -> list[Shape]:
    """Of the class, as far as it has been made, and of its bases."""
    return [shape for base in cls.__mro__ if (shape := vars(base).get(SHAPE)) is not None]


def _check(cls: type, options: Options) -> None:
    name: object = options.name
    if not isinstance(name, str) or not _NAME.match(name):
        raise DeclarationError(
            f"{cls.__name__}: name={name!r} can't begin the name of a stream: use lower-case letters, digits, '-', '_' "
            "and '.', at most 100."
        )
    for word in ("snapshot_every", "snapshot_version", "conflict_tries"):
        value = getattr(options, word)
        if type(value) is not int or value < (0 if word == "snapshot_every" else 1):
            raise DeclarationError(f"{cls.__name__}: {word}={value!r} must be a whole number from 1 on.")
    if options.unknown not in ("fail", "ignore"):
        raise DeclarationError(f"{cls.__name__}: unknown={options.unknown!r} is neither 'fail' nor 'ignore'.")
    if options.keys not in ("id", "any"):
        raise DeclarationError(f"{cls.__name__}: keys={options.keys!r} is neither 'id' nor 'any'.")


def _appliers_of(cls: type) -> dict[type, str]:
    """Of this class itself: the methods' names, so that an overridden one is the one that is called."""
    found: dict[type, str] = {}
    for name, value in vars(cls).items():
        for event in getattr(value, APPLIES, ()):
            if event in found:
                raise DeclarationError(
                    f"{cls.__name__} applies {event.__name__} twice, in {found[event]} and in {name}; each event has one method."
                )
            found[event] = name
    return found
