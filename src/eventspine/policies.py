"""What to do when a handler fails: the words users write, as data.

`errors={SmtpDown: Retry(within=timedelta(hours=6)), BadAddress: Dead, Ignorable: Drop}`: the nearest class in the
error's method resolution order decides; without a match, the handler's `retry=`. What is declared wrongly is dead at once
unless a table names it: no attempt can succeed before the code is mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import isnan
from typing import Any

from .errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again: `immediate` times at once, then with full-jitter backoff, `attempts` times in all.

    The nth wait is a random time up to `first_s * factor**n`, at most `most_s` (Brooker, "Exponential backoff and
    jitter", 2015). With `within`, the last attempt comes at the latest when that much time has passed since the first,
    whatever `attempts` or a `RetryAfter` says; `attempts=None` sets no number.
    """

    attempts: int | None = 8
    within: timedelta | None = None
    immediate: int = 1
    first_s: float = 0.5
    factor: float = 3.0
    most_s: float = 300.0

    def __post_init__(self) -> None:
        self._check_types()
        if self.attempts is None and self.within is None:
            raise DeclarationError("Retry(attempts=None) would try for ever; give within=timedelta(...) as the end.")
        if self.attempts is not None and self.attempts < 1:
            raise DeclarationError(f"Retry(attempts={self.attempts}): the first attempt counts, so at least 1.")
        if self.immediate < 0 or self.first_s <= 0 or self.factor < 1 or self.most_s < self.first_s:
            raise DeclarationError(
                f"{self}: immediate >= 0, first_s > 0, factor >= 1 and most_s >= first_s are needed."
            )

    def _check_types(self) -> None:
        within: Any = self.within
        if within is not None and not isinstance(within, timedelta):
            seconds = f"seconds={within:g}" if is_number(within) else "hours=6"
            raise DeclarationError(
                f"Retry(within={within!r}) is not a timedelta; write Retry(within=timedelta({seconds}))."
            )
        if self.attempts is not None and not is_whole(self.attempts):
            raise DeclarationError(f"Retry(attempts={self.attempts!r}): give a whole number, such as attempts=8.")
        if not is_whole(self.immediate):
            raise DeclarationError(f"Retry(immediate={self.immediate!r}): give a whole number, such as immediate=1.")
        for name in ("first_s", "factor", "most_s"):
            if not is_number(value := getattr(self, name)):
                raise DeclarationError(
                    f"Retry({name}={value!r}): give a number, such as {name}={getattr(Retry(), name)}."
                )


class Dead:
    """This error makes the delivery dead at once: kept with its reason, replayable."""


class Drop:
    """This error finishes the delivery: logged and counted, not kept."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A handler that takes up to `size` events in one run; a run starts when it is full, or `within_ms` after its
    first event was ready."""

    size: int
    within_ms: float = 0.0

    def __post_init__(self) -> None:
        if not is_whole(self.size) or not is_number(self.within_ms):
            raise DeclarationError(f"{self}: both are numbers, such as Batch(100, within_ms=20).")
        if self.size < 1 or self.within_ms < 0:
            raise DeclarationError(f"{self}: size must be at least 1 and within_ms not negative.")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not isnan(value)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


Policy = Retry | type[Dead] | type[Drop]
Policies = Mapping[type[BaseException], Policy]


def nearest(error: BaseException, *tables: Policies | None) -> Policy | None:
    """The policy of the nearest class of `error`, looking through the tables in turn for each class."""
    for cls in type(error).__mro__:
        for table in tables:
            if table and cls in table:
                return table[cls]
    return None
