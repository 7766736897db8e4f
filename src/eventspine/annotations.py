"""What a function's annotations say of the events that it takes and returns, as far as they can be read where it is declared.

What is clearly of something else is refused there, since it would have each event fail. What can't be looked up from here,
or says nothing, passes: that is for type checkers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from .errors import DeclarationError
from .events import EventType
from .events.declare import COMMAND, EVENT

if TYPE_CHECKING:
    from .service import Handler


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in kinds and parameter.default is inspect.Parameter.empty
    ]


def check_takes(handler: Handler, where: str) -> None:
    """The first parameter's annotation, as far as it can be read here: one that is clearly of something else would have
    each event fail. What fits one of the classes passes; the rest is for type checkers."""
    kinds = [kind for kind in handler.types if isinstance(kind, EventType)]
    said = _annotation(handler.function, positional(handler.function)[0].name)
    if not kinds or not _is_clear(said):
        return
    one, lists = kinds[0].cls.__name__, get_origin(said) is list
    if lists and handler.batch is None:
        raise DeclarationError(
            f"{where} is to take {_told(said)}, and is given one event at a time. Write `event: {one}`, or "
            "batch=Batch(100) for lists of them."
        )
    if not lists and handler.batch is not None:
        raise DeclarationError(
            f"{where} is a batch handler and is to take {_told(said)}; it is given a list. Write `events: list[{one}]`."
        )
    _refuse_others(said, _members(get_args(said)[0] if lists else said), kinds, where, "on")


def check_takes_one(function: Callable[..., Any], at: int, kinds: Sequence[EventType], where: str, word: str) -> None:
    """The same of what is given one event or command at a time, as its parameter number `at`, from 0. `word`: of its decorator."""
    said = _annotation(function, positional(function)[at].name)
    if _is_clear(said) and get_origin(said) is not list:
        _refuse_others(said, _members(said), kinds, where, word)


def _refuse_others(said: Any, members: Sequence[Any], kinds: Sequence[EventType], where: str, word: str) -> None:
    if not any(_stands_for(member, kind) for member in members for kind in kinds):
        raise DeclarationError(
            f"{where} handles {', '.join(kind.cls.__name__ for kind in kinds)}, and is to take {_told(said)}. Name the same class "
            f"in {word}(...) and at the parameter."
        )


def _is_clear(annotation: Any) -> bool:
    if get_origin(annotation) is list:
        return all(map(_is_clear, get_args(annotation)))
    return all(map(_is_declared, _members(annotation)))


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _stands_for(said: Any, kind: EventType) -> bool:
    """Two classes may be of one type on the wire: another team's event, declared again."""
    if issubclass(kind.cls, said):
        return True
    known: EventType | None = getattr(said, EVENT, None)
    return known is not None and not {*known.names}.isdisjoint(kind.names)


def _told(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def check_returns_nothing(function: Callable[..., Any], where: str) -> None:
    """A batch handler's annotation, as far as it can be read here: it would fail each run that there is."""
    returns = _annotation(function, "return")
    if _is_something(returns):
        raise DeclarationError(
            f"{where} is a batch handler and is to return {_told(returns)}; nobody could tell which event of the run caused what. Publish "
            "with delivery.publish(event, cause=...), the cause being the event of the run that it answers, and write -> None."
        )


def _annotation(function: Callable[..., Any], name: str) -> Any:
    """Of a parameter, or of "return". Any: it says nothing, or what can't be looked up from here."""
    try:
        said = {name: getattr(function, "__annotations__", {}).get(name, Any)}  # what others name may be away
        hints = get_type_hints(SimpleNamespace(__annotations__=said), getattr(function, "__globals__", {}))
        return hints[name]
    except Exception:  # noqa: BLE001 -- what is wrong in it is for type checkers
        return Any


def _is_something(annotation: Any) -> bool:
    """Whether it says clearly that None is not what comes."""
    kind = get_origin(annotation) or annotation
    if kind in (Union, UnionType):
        return all(map(_is_something, get_args(annotation)))
    return isinstance(kind, type) and kind not in (NoneType, object, Any, Annotated)


def returns_event(function: Callable[..., Any]) -> bool:
    """Whether its annotation says that an event comes, and never None. Of a decorator's wrapper it says nothing: that may have
    published what the function inside of it returned."""
    return not hasattr(function, "__wrapped__") and _is_event(_annotation(function, "return"))


def _is_event(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(map(_is_event, get_args(annotation)))
    return isinstance(annotation, type) and hasattr(annotation, EVENT)


def _is_declared(annotation: Any) -> bool:
    """A class of events, or of commands."""
    return isinstance(annotation, type) and (hasattr(annotation, EVENT) or hasattr(annotation, COMMAND))
