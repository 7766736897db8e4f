"""Events of earlier versions, brought up to the class that reads them.

    stored as version 1 ──upcast 1──▶ 2 ──upcast 2──▶ 3 ──decode──▶ the class, at version 3

What is stored stays as it was written. An upcaster takes an event's plain data (what JSON says: dict, list, str, int,
float, bool, None) as of one version, and gives the data of the next; it is asked only when an event of that version is
read, by whatever reads it: handlers, aggregates, projections. It is a function of the data alone, so that everybody who
reads the event, now and later, reads the same; and one event stays one event, with its id, key and position.

The chain is whole or refused: a class with upcasters has one for each version below its own, found out at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ..errors import DeclarationError, Undecodable
from .declare import describe
from .types import EventType

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
F = TypeVar("F", bound=Upcaster)


def upcast(event: type[Any], /, *, from_version: int) -> Callable[[F], F]:
    """Declare how the data of this event, as of `from_version`, becomes that of the next version. Written beside the
    event's class, whose `version=` says where the chain ends; the function is given back unchanged."""
    kind = describe(event)
    if type(from_version) is not int or not 0 < from_version < kind.version:
        raise DeclarationError(
            f"@upcast({event.__name__}, from_version={from_version!r}): {event.__name__} is at version {kind.version}, so it "
            f"has upcasters from 1 to {kind.version - 1}. Raise version= in its class line when its fields change."
        )
    if from_version in kind.upcasters:
        raise DeclarationError(f"{event.__name__} has an upcaster from version {from_version} already.")

    def declare(function: F) -> F:
        if not callable(function):
            raise DeclarationError(f"@upcast({event.__name__}, ...) stands above a function, not above {function!r}.")
        kind.upcasters[from_version] = function
        return function

    return declare


def check_chain(kind: EventType) -> None:
    """That no link is missing."""
    missing = [str(version) for version in range(1, kind.version) if version not in kind.upcasters]
    if kind.upcasters and missing:
        raise DeclarationError(
            f"{kind.cls.__name__} is at version {kind.version} and has upcasters, but none from version "
            f"{', '.join(missing)}. Write @upcast({kind.cls.__name__}, from_version={missing[0]}); where the data stays the "
            "same, it gives back what it is given.",
            event=kind.cls.__qualname__,
            missing=[int(version) for version in missing],
        )


def read(kind: EventType, data: bytes, version: int) -> Any:
    """The event that was stored as of this version; raises Undecodable, and nothing else."""
    if version >= kind.version or not kind.upcasters:
        return kind.decode(data)
    return kind.decode(msgspec.json.encode(_raised(kind, data, version)))


def _raised(kind: EventType, data: bytes, version: int) -> Any:
    try:
        plain: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _undecodable(kind, version, str(error)) from error
    for at in range(version, kind.version):
        function = kind.upcasters.get(at)
        if function is None:
            raise _undecodable(kind, version, f"there is no upcaster from version {at}")
        try:
            plain = function(plain)
        except MemoryError:
            raise
        except Exception as error:
            raise _undecodable(
                kind, version, f"its upcaster from version {at}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(plain, dict):
            wrong = (
                f"its upcaster from version {at} gave {type(plain).__name__} where the data of the event is due, a dict"
            )
            raise _undecodable(kind, version, wrong)
    return plain


def _undecodable(kind: EventType, version: int, reason: str) -> Undecodable:
    return Undecodable(
        f"{kind.name}, stored as version {version}: {reason}", type=kind.name, version=version, path="", reason=reason
    )
