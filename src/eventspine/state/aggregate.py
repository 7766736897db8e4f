"""Aggregates: entities whose state is what their events made of it.

    method ──▶ record(event) ──▶ @applies changes state ──▶ save: appended to its stream, at the version expected
    load   ──▶ its stream, event by event ──▶ the same @applies

A method decides and records; only `@applies` changes state. So the state of an aggregate is a fold of its stream, now
and at any time before, and what is recorded is applied as it will be read: an event is encoded and decoded before it
changes anything. An event without an `@applies` is an error, recorded or loaded, and never passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import MISSING, Field
from datetime import datetime
from inspect import get_annotations
from typing import Any, Literal, NoReturn, Protocol, Self, TypeVar, overload

from ..errors import DeclarationError, KeyRefused, NotApplied, SpineError
from ..events import describe_event
from ..journal.port import Record
from ..keys import KEY_BYTES_MAX, key_text
from ..publishing import Recorded
from .shapes import APPLIES, SHAPE, Shape, inherited_options, shape_of

S = TypeVar("S")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
E = TypeVar("E")
Unknown = Literal["fail", "ignore"]
Keys = Literal["id", "any"]
Identity = Any  # str, or int, UUID, date, enum, or a tuple of these: a natural key


class Standing:
    """What an aggregate knows of itself, beside its state."""

    __slots__ = ("applying", "as_of", "as_of_word", "broken", "id", "pending", "records", "version")

    def __init__(self, id: str) -> None:
        self.id = id
        self.version = 0
        self.pending: list[Recorded] = []
        self.records: list[Record] | None = None  # of `pending`, once it was tried to save them: with these ids
        self.applying = False
        self.broken = False  # an @applies has raised: the state is that of no version
        self.as_of: str | None = None  # in words; it was loaded as it was, and can't go on from there
        self.as_of_word = "at"  # the argument that said so


class Aggregate:
    """An entity: `class Account(Aggregate): ...`. Its annotated attributes are its state, each with a default.

    `name`: begins the names of its streams, and is stored: by default the class's, as `order-line` of OrderLine. `private`:
    its events are not published, also those of a context that the service publishes. `snapshot_every`: after so many
    events its state is noted down, so that loading begins there; `snapshot_version` is raised when code outside of the
    class changes what a state is. `unknown`: what is done about an event in its stream of a type that it doesn't apply.
    `conflict_tries`: how often `spine.change` decides anew, where others save it at the same time. `keys="any"`: its events have
    other keys than its id, so that others than its own are handled in order with them.
    """

    _spine: Standing

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        private: bool | None = None,
        snapshot_every: int | None = None,
        snapshot_version: int | None = None,
        unknown: Unknown | None = None,
        conflict_tries: int | None = None,
        keys: Keys | None = None,
        **more: Any,
    ) -> None:
        super().__init_subclass__(**more)
        given: dict[str, Any] = {
            "private": private, "snapshot_every": snapshot_every, "snapshot_version": snapshot_version, "unknown": unknown,
            "conflict_tries": conflict_tries, "keys": keys,
        }  # fmt: skip
        said = {word: value for word, value in given.items() if value is not None}
        options = inherited_options(cls)._replace(name=name or kebab(cls.__name__), **said)
        setattr(cls, SHAPE, Shape(cls, options, _take_factories(cls)))

    def __new__(cls, *_: Any, **__: Any) -> Self:
        if cls is Aggregate:
            raise DeclarationError("Aggregate is a base: derive a class from it, such as class Account(Aggregate).")
        made = super().__new__(cls)
        for name, make in shape_of(cls).factories.items():
            setattr(made, name, make())
        return made

    def __init__(self, id: Identity) -> None:
        self._spine = Standing(id_of(id))

    @property
    def id(self) -> str:
        return self._spine.id

    @property
    def version(self) -> int:
        """How many events have made it what it is, with those that are not saved yet. 0: it is new."""
        return self._spine.version

    def record(self, event: object, *, time: datetime | None = None) -> None:
        """It has happened: apply the event, and keep it to be saved. `time`: when it happened, if not now."""
        standing = self._spine
        apply = shape_of(type(self)).appliers.get(type(event))
        if apply is None and isinstance(event, type):
            raise NotApplied(
                f"{type(self).__name__} records the class {event.__name__}, and not one of its events: write "
                f"{event.__name__}(...).",
                aggregate=type(self).__qualname__,
            )
        if apply is None:
            raise NotApplied(
                f"{type(self).__name__} records {type(event).__name__}, and has no method with @applies({type(event).__name__})"
                ". Write one; where the event changes no state, one that does nothing.",
                aggregate=type(self).__qualname__,
            )
        if standing.applying or standing.broken or standing.as_of is not None:
            _refuse_to_record(self)
        kind = describe_event(event)
        kind.key_of(event)
        data = kind.encode(event)
        read = kind.decode(data)  # what every later load will see
        standing.applying, standing.broken = True, True
        try:
            apply(self, read)
        finally:
            standing.applying = False
        standing.broken = False
        standing.pending.append(_new(Recorded, (read, time, data)))
        standing.records = None
        standing.version += 1

    def __repr__(self) -> str:
        """With what is not as the class has it: the same whether it was replayed or begun at a snapshot, which sets all."""
        cls = type(self)
        own = [(name, vars(self)[name]) for name in sorted(vars(self)) if name != "_spine"]
        state = "".join(f", {name}={value!r}" for name, value in own if value != getattr(cls, name, MISSING))
        return f"{cls.__name__}({self.id!r}, version={self.version}{state})"


class Applier(Protocol[E]):
    """Takes a method and gives it back unchanged."""

    def __call__(self, method: Callable[[S, E], None], /) -> Callable[[S, E], None]: ...


@overload
def applies(t1: type[E1], /) -> Applier[E1]: ...
@overload
def applies(t1: type[E1], t2: type[E2], /) -> Applier[E1 | E2]: ...
@overload
def applies(t1: type[E1], t2: type[E2], t3: type[E3], /) -> Applier[E1 | E2 | E3]: ...
@overload
def applies(t1: type[E1], t2: type[E2], t3: type[E3], t4: type[E4], /) -> Applier[E1 | E2 | E3 | E4]: ...
@overload
def applies(*types: type[Any]) -> Applier[Any]: ...


def applies(*types: type[Any]) -> Any:
    """Declare the method that changes an aggregate's state when one of these events has happened. It changes the
    state and nothing else: it decides nothing, looks nothing up, and records nothing."""
    given: tuple[object, ...] = types
    if not given or not all(isinstance(one, type) for one in given):
        raise DeclarationError(f"@applies{given!r} takes the classes of events: @applies(Deposited).")

    def declare(method: Any) -> Any:
        if not callable(method):
            raise DeclarationError(f"@applies(...) stands above a method, not above {method!r}.")
        setattr(method, APPLIES, types)
        return method

    return declare


_new: Callable[[type[Recorded], Any], Recorded] = tuple.__new__  # half the time of Recorded(...)


def _refuse_to_record(aggregate: Aggregate) -> NoReturn:
    standing = aggregate._spine
    if standing.applying:
        raise SpineError(
            f"An @applies of {type(aggregate).__name__} records an event. It would be recorded anew at every load; record it "
            "in the method that records the first."
        )
    check_sound(aggregate)
    raise SpineError(
        f"{type(aggregate).__name__} {aggregate.id!r} was loaded as of {standing.as_of}: nothing can be added to what was. "
        f"Load it without {standing.as_of_word}=."
    )


def check_sound(aggregate: Aggregate) -> None:
    if aggregate._spine.broken:
        raise SpineError(f"An @applies of {aggregate!r} has failed, so its state is that of no version. Load it again.")


def id_of(id: Identity) -> str:
    """Its text: of a natural key with several parts, these joined as keys are."""
    text = id if isinstance(id, str) else key_text(id if isinstance(id, tuple) else (id,))
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 0 < size <= KEY_BYTES_MAX or not text.isprintable():
        raise KeyRefused(
            f"{text!r:.80} can't be the id of an aggregate: that is 1 to {KEY_BYTES_MAX} bytes of printable text, and this "
            f"has {size:,}.",
            size_bytes=size,
            limit_bytes=KEY_BYTES_MAX,
        )
    return text


def kebab(name: str) -> str:
    """OrderLine → order-line; HTTPServer → http-server."""
    letters = []
    for at, letter in enumerate(name):
        before, after = name[at - 1 : at], name[at + 1 : at + 2]
        if letter.isupper() and before and (not before.isupper() or after.islower()) and before != "_":
            letters.append("-")
        letters.append(letter.lower())
    return "".join(letters).strip("_")


def _take_factories(cls: Any) -> dict[str, Callable[[], Any]]:
    """State that no two aggregates may share: what can be changed in place is made anew for each."""
    found: dict[str, Callable[[], Any]] = {}
    for name, hint in get_annotations(cls).items():
        value = vars(cls).get(name)
        _check_has_default(cls, name, hint)
        if isinstance(value, Field):
            if value.default_factory is not MISSING:
                found[name] = value.default_factory
                delattr(cls, name)
            else:
                setattr(cls, name, value.default)
        elif isinstance(value, (list, dict, set, bytearray)):
            found[name] = _copier(value)
    return found


def _check_has_default(cls: Any, name: str, hint: Any) -> None:
    """Its state before the first event; a base may have said it."""
    given = getattr(cls, name, MISSING)
    unsaid = isinstance(given, Field) and given.default is MISSING and given.default_factory is MISSING
    if (given is MISSING or unsaid) and "ClassVar" not in str(hint):
        raise DeclarationError(
            f"{cls.__name__}.{name} has no default. An aggregate begins without events, so give each attribute of its state one: "
            f"{name}: {hint if isinstance(hint, str) else getattr(hint, '__name__', hint)} = ..."
        )


def _copier(value: Any) -> Callable[[], Any]:
    return (lambda: deepcopy(value)) if value else (lambda: copy(value))
