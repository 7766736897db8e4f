"""What becomes of a failed attempt: a pure decision.

`(error, attempts so far, first attempt, policy, now) -> Again | Park | Die | Finish`. No clock, no journal; the only
chance it takes is the one handed in.

No attempt is put off beyond what `within` allows: a wait that would end later, also one that the handler asked for, is cut,
so that the last attempt comes when the time is over."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import DeclarationError, EventsInCircle, NotHandled, Reject, RetryAfter, StatementRefused, Undecodable
from ..policies import Dead, Drop, Policies, Retry, nearest

LONGEST_S = 100 * 365 * 86_400.0  # to wait for another attempt; what is longer is meant as "never by itself"


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt at once, in the same lane."""

    attempts_max: int | None = None  # of the policy that decided; None: it counts no attempts


@dataclass(frozen=True, slots=True)
class Park:
    due_us: int
    reason: str
    attempts_max: int | None = None
    ends: timedelta | None = None  # the `within` that is over by then: it is the last attempt


@dataclass(frozen=True, slots=True)
class Die:
    reason: str
    attempts_max: int | None = None
    ended: timedelta | None = None  # the `within` that is over, if it is why


@dataclass(frozen=True, slots=True)
class Finish:
    """Dropped by policy."""

    reason: str
    attempts_max: int | None = None


Outcome = Again | Park | Die | Finish


def reason_of(error: BaseException) -> str:
    """One word for lists and metrics."""
    if isinstance(error, Reject):
        return "rejected"
    if isinstance(error, Undecodable):
        return "undecodable"
    return type(error).__name__


def is_wrong_in_code(error: BaseException) -> bool:
    """What no attempt of this code can come past, such as a circle of answers. A command that nobody here handles may only be early: the service that
    does can be started after the one that sends it."""
    return isinstance(error, (DeclarationError, EventsInCircle)) and not isinstance(error, NotHandled)


def after_failure(
    error: BaseException,
    attempts: int,
    first_us: int,
    now_us: int,
    retry: Retry,
    tables: tuple[Policies | None, ...],
    chance: random.Random,
) -> Outcome:
    """`attempts` counts the one that just failed."""
    reason = reason_of(error)
    if isinstance(error, (Reject, Undecodable, StatementRefused)):
        return Die(reason)
    policy = nearest(error, *tables)
    if policy is None:
        policy = Dead if is_wrong_in_code(error) else retry
    if policy is Dead:
        return Die(reason)
    if policy is Drop:
        return Finish(reason)
    chosen = policy if isinstance(policy, Retry) else retry
    most = chosen.attempts
    if most is not None and attempts >= most:
        return Die(reason, most)
    last_us = _last_us(chosen, first_us)
    if last_us is not None and now_us >= last_us:
        return Die(reason, most, chosen.within)
    if attempts <= chosen.immediate and not isinstance(error, RetryAfter):
        return Again(most)
    due_us = _due_us(error, attempts, now_us, chosen, chance)
    if last_us is not None and due_us >= last_us:
        return Park(last_us, reason, most, chosen.within)
    return Park(due_us, reason, most)


def _last_us(retry: Retry, first_us: int) -> int | None:
    return None if retry.within is None else first_us + max(0, retry.within // timedelta(microseconds=1))


def _due_us(error: BaseException, attempts: int, now_us: int, retry: Retry, chance: random.Random) -> int:
    if isinstance(error, RetryAfter):
        return _asked_for(error, now_us)
    return now_us + round(_backoff_s(retry, attempts, chance) * 1e6)


def _backoff_s(retry: Retry, attempts: int, chance: random.Random) -> float:
    exponent = min(attempts - retry.immediate - 1, 64)
    return chance.uniform(0, min(retry.most_s, _grown(retry, exponent), LONGEST_S))


def _grown(retry: Retry, exponent: int) -> float:
    try:
        return retry.first_s * retry.factor**exponent
    except OverflowError:
        return retry.most_s


def _asked_for(error: RetryAfter, now_us: int) -> int:
    after = error.after
    if isinstance(after, datetime):
        return round(after.timestamp() * 1e6)
    seconds = after.total_seconds() if isinstance(after, timedelta) else after
    return now_us + round(min(max(0.0, seconds), LONGEST_S) * 1e6)
