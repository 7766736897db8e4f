"""What an aggregate decides, told by its events:

    given(Account("ann"), Opened(account="ann"), Deposited(account="ann", cents=500)) \\
        .when(lambda account: account.withdraw(200)) \\
        .then(Withdrawn(account="ann", cents=200))

No journal and no clock: events are applied as a load would apply them, and what the command records is compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import ndiff
from pprint import pformat
from typing import Any, Generic, Self, TypeVar

from ..errors import DeclarationError, SpineError
from ..events import describe
from ..state.aggregate import Aggregate
from ..state.saving import saved

A = TypeVar("A", bound=Aggregate)


class Given(Generic[A]):
    """An aggregate with a past."""

    def __init__(self, aggregate: A) -> None:
        self.aggregate = aggregate

    def when(self, command: Callable[[A], Any]) -> Then[A]:
        """Have the command call its methods."""
        try:
            command(self.aggregate)
        except Exception as error:  # noqa: BLE001 -- `then` raises it, where `raises` does not expect it
            return Then(self.aggregate, error)
        return Then(self.aggregate, None)


class Then(Generic[A]):
    """What came of it."""

    def __init__(self, aggregate: A, error: Exception | None) -> None:
        self.aggregate = aggregate
        self.error = error

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
        return self

    def raises(self, error: type[Exception], match: str = "") -> Self:
        """It was refused with this error, whose text `match` is searched in, and recorded nothing."""
        if self.error is None:
            raise AssertionError(f"the command raised nothing, and recorded {self.events}")
        if not isinstance(self.error, error) or not re.search(match, str(self.error)):
            raise self.error
        if self.events:
            raise AssertionError(f"the command raised {self.error!r}, and had recorded {self.events} before")
        return self


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
    return Given(aggregate)


def _is_event(value: object) -> bool:
    try:
        describe(type(value))
    except DeclarationError:
        return False
    return True


def _difference(wanted: Any, recorded: list[Any]) -> str:
    return "\n".join(ndiff([pformat(event) for event in wanted], [pformat(event) for event in recorded]))
