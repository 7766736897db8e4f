"""Who has something done, and why: `acting`, around a request, a job or a line of a script.

Both are attributes of the events that are published meanwhile (`actor`, `why`), and of those that come of these in other
services: who placed the order is who had the stock reserved. What is said for one event wins over what it was caused
with. A word about names: CloudEvents' own `authid` is only valid beside an `authtype` from a closed list, so it is read
where another producer wrote it, and never written (docs/decisions/0009-actor-and-why.md).

What is said here is a claim of whoever publishes. Nobody has checked it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from typing import Never

import msgspec

from ..attributes import is_fit
from ..errors import ActorRefused
from .correlation import NOBODY, Asked, Who, current, said, who

ACTOR_MAX, WHY_MAX = 255, 1_000  # characters


Actor = Callable[[], str | None]


def acting(
    actor: str | None = None, *more: Never, why: str | None = None, **unknown: Never
) -> _GeneratorContextManager[None]:
    """Have everything published inside say who has it done, and why. What is left out stays as it is around it."""
    if more or unknown:
        told = ", ".join([*map(repr, more), *(f"{name}=" for name in unknown)])
        raise ActorRefused(f'acting() takes who, and why=; not {told:.80}. Write acting("user:42", why="ticket 811").')
    _check("actor", actor, ACTOR_MAX)
    _check("why", why, WHY_MAX)
    if actor is None and why is None:
        raise ActorRefused('acting() was told nothing: acting("user:42"), or acting("user:42", why="ticket 811").')
    return _acting(actor, why)


@contextmanager
def _acting(actor: str | None, why: str | None) -> Iterator[None]:
    before = who(current.get())
    now = Who(before.actor if actor is None else actor, before.why if why is None else why)
    token = said.set((current.get(), now))
    try:
        yield
    finally:
        said.reset(token)


def member(said: Who) -> str:
    """As members of a JSON object, without its braces."""
    if said is NOBODY:
        return ""
    given = {name: value for name, value in zip(Who._fields, said, strict=True) if value is not None}
    return msgspec.json.encode(given).decode()[1:-1]


def of_request(actor: Actor) -> Asked:
    """For `Cause.who`: whom this function names, each time that something is published."""

    def ask() -> Who:
        found = actor()
        _check("actor", found, ACTOR_MAX)
        return Who(found)

    return ask


def of_meta(meta: bytes | None) -> Who:
    """What an event says of it. What could not be said again is left out: it may be a foreign producer's."""
    if not meta or (b'"actor"' not in meta and b'"why"' not in meta and b'"authid"' not in meta):
        return NOBODY
    try:
        found = msgspec.json.decode(meta, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return NOBODY
    return Who(_fit(found.actor or found.authid, ACTOR_MAX), _fit(found.why, WHY_MAX))


class _Said(msgspec.Struct):
    actor: str = ""
    why: str = ""
    authid: str = ""


def _fit(value: str, length_max: int) -> str | None:
    return value if value and len(value) <= length_max and is_fit(value) else None


def _check(name: str, value: object, length_max: int) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise ActorRefused(f"{name} is text, and this is of type {type(value).__name__}; write {name}=str(...).")
    if not _fit(value, length_max):
        raise ActorRefused(
            f"{name} is plain text of 1 to {length_max:,} characters, since it travels with every event; this one has "
            f"{len(value):,}, or holds a line break or another control character."
        )
