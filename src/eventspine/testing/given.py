"""What an aggregate decides, told by its events:

    given(Account("ann"), Opened(account="ann"), Deposited(account="ann", cents=500)) \\
        .when(lambda account: account.withdraw(200)) \\
        .then(Withdrawn(account="ann", cents=200))

No journal and no clock: events are applied as a load would apply them, and what the command records is compared. So is the
state: what it is now must be what its events make of a new one, else a method has changed what only `@applies` may, and the
next load would not know of it. And so are the keys of what was recorded, by which those who subscribe see them in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import ndiff
from pprint import pformat
from typing import Any, Generic, Self, TypeVar

from ..errors import DeclarationError, SpineError
from ..events import describe
from ..state.aggregate import Aggregate
from ..state.saving import odd_key, saved
from ..state.shapes import shape_of

A = TypeVar("A", bound=Aggregate)
_NO_EQUALITY: Any = object.__eq__


class Given(Generic[A]):
    """An aggregate with a past."""

    def __init__(self, aggregate: A, past: Sequence[Any] = ()) -> None:
        self.aggregate = aggregate
        self._past = past

    def when(self, command: Callable[[A], Any]) -> Then[A]:
        """Have the command call its methods."""
        try:
            command(self.aggregate)
        except Exception as error:  # noqa: BLE001 -- `then` raises it, where `raises` does not expect it
            return Then(self.aggregate, error, self._past)
        return Then(self.aggregate, None, self._past)


class Then(Generic[A]):
    """What came of it."""

    def __init__(self, aggregate: A, error: Exception | None, past: Sequence[Any] = ()) -> None:
        self.aggregate = aggregate
        self.error = error
        self._past = past

    @property
    def events(self) -> list[Any]:
        """What the command recorded."""
        return [event for event, *_ in self.aggregate._spine.pending]

    def then(self, *events: Any) -> Self:
        """It recorded exactly these, in this order; none: it changed nothing."""
        if self.error is not None:
            raise self.error
        if self.events != list(events):
            raise AssertionError(f"the command recorded other events than these:\n{_difference(events, self.events)}")
        self._check_folded()
        self._check_keys()
        return self

    def raises(self, error: type[Exception], match: str = "") -> Self:
        """It was refused with this error, whose text `match` is searched in, and recorded nothing."""
        if self.error is None:
            raise AssertionError(f"the command raised nothing, and recorded {self.events}")
        if not isinstance(self.error, error) or not re.search(match, str(self.error)):
            raise self.error
        if self.events:
            raise AssertionError(f"the command raised {self.error!r}, and had recorded {self.events} before")
        self._check_folded()
        return self

    def _check_folded(self) -> None:
        aggregate = self.aggregate
        folded = _folded(type(aggregate), aggregate.id, [*self._past, *self.events])
        names = [*shape_of(type(aggregate)).state, *vars(folded)]
        for name in dict.fromkeys(names):
            here, there = getattr(aggregate, name, None), getattr(folded, name, None)
            if name != "_spine" and not _same(here, there):
                raise AssertionError(
                    f"{name} is {here!r:.200}, and its events make it {there!r:.200}: it was changed outside of @applies, and a load "
                    "would not know of it. Record an event, and change it in the method that @applies it."
                )

    def _check_keys(self) -> None:
        if shape_of(type(self.aggregate)).options.private:
            return
        for event in self.events:
            kind = describe(type(event))
            if (told := odd_key(self.aggregate, kind.name, kind.key_of(event))) is not None:
                raise AssertionError(told)


def given(aggregate: A, /, *events: Any) -> Given[A]:
    """A new aggregate to which these events have happened."""
    if not isinstance(aggregate, Aggregate):
        raise SpineError(
            f'given() takes an aggregate that you make, such as given(Account("ann")), and not {aggregate!r}.'
        )
    if aggregate.version:
        raise SpineError(f"given() takes a new aggregate and what happened to it; {aggregate!r} has a past already.")
    for event in events:
        if not (isinstance(event, type) or _is_event(event)):
            raise SpineError(
                f"given({aggregate!r}, ...) takes events that have happened to it, and {event!r} is none. What it is asked to "
                "do goes into when(...)."
            )
        aggregate.record(event)
    saved(aggregate)
    return Given(aggregate, events)


def _folded(cls: type[A], id: str, events: Sequence[Any]) -> A:
    """A new one to which these have happened, and nothing else."""
    folded = cls(id)
    for event in events:
        folded.record(event)
    return folded


def _same(here: Any, there: Any) -> bool:
    try:
        return _equal(here, there)
    except Exception:  # noqa: BLE001 -- what can't be compared says nothing
        return True


def _equal(here: Any, there: Any) -> bool:
    """Objects that know no equality are equal when what they hold is, and so is what does not even equal itself, as NaN."""
    if here is there:
        return True
    if type(here).__eq__ is _NO_EQUALITY:
        return type(here) is type(there) and _equal(here.__getstate__(), there.__getstate__())
    if here == there:
        return True
    if isinstance(here, dict) and isinstance(there, dict):
        return here.keys() == there.keys() and all(_equal(here[name], there[name]) for name in here)
    if isinstance(here, (list, tuple)) and type(here) is type(there):
        return len(here) == len(there) and all(map(_equal, here, there))
    return bool(here != here and there != there)  # noqa: PLR0124


def _is_event(value: object) -> bool:
    try:
        describe(type(value))
    except DeclarationError:
        return False
    return True


def _difference(wanted: Any, recorded: list[Any]) -> str:
    return "\n".join(ndiff([pformat(event) for event in wanted], [pformat(event) for event in recorded]))
