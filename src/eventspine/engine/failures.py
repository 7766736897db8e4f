"""What is said of a delivery that failed: in the log, in its row, and to its policies."""

from __future__ import annotations

import re
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..durations import in_seconds
from ..envelope import Envelope
from ..errors import DeclarationError, SpineError, StatementRefused
from ..journal.port import Record
from ..observe.correlation import Cause
from ..wording import storable
from .lanes import Item
from .outcomes import Again, Die, Outcome, Park

if TYPE_CHECKING:
    from .subscription import Subscription

TRACEBACK_MAX = 16_000
_NOT_AWAITED = re.compile(
    "NoneType.*await|(list|Receipt) can't be used in 'await'|'(list|Receipt)' object can't be awaited"
)
_NOT_AWAITED_HERE = (
    "If it is execute(...) or publish(...) of a delivery: they take effect with the handler, and are not awaited."
)


def record_of(item: Item) -> Record:
    assert item.record is not None, "an item is loaded before it is handled"
    return item.record


def name_of(item: Item) -> str:
    record = record_of(item)
    return f"{record.type} {Envelope(record).id} (key {record.key!r})"


def what_next(outcome: Outcome, now_us: int) -> str:
    """What becomes of it, for the log."""
    match outcome:
        case Again():
            return "again at once"
        case Park(due_us):
            last = "" if outcome.ends is None else f", the last one of Retry(within={in_seconds(outcome.ends)})"
            return f"parked, next attempt {utc(due_us)} (in {max(0, due_us - now_us) / 1e6:.1f} s){last}"
        case Die():
            return f"dead{why_ended(outcome)}"
        case _:
            return "dropped"


def why_ended(outcome: Die) -> str:
    """Where it was not the number of attempts, nor the error itself."""
    return "" if outcome.ended is None else f", as Retry(within={in_seconds(outcome.ended)}) is over"


def utc(us: int) -> str:
    try:
        return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):  # beyond the calendar: asked to wait for as good as ever
        return "never"


def cause_of(handler: str, item: Item) -> Cause:
    record, envelope = record_of(item), Envelope(record_of(item))
    return Cause(
        envelope.correlationid,
        causation=record.causation,
        event_id=envelope.id,
        traceparent=envelope.traceparent if record.meta else None,
        handler=handler,
        key=record.key,
        attempt=item.attempts,
    )


def culprit(subscription: Subscription, error: BaseException) -> BaseException:
    """Of a unit that failed: the error that policies are looked up for, and that says which statement it was."""
    cause = error.__cause__
    if not isinstance(cause, Exception) or isinstance(error, StatementRefused):  # SQLite only says "not authorized"
        return error
    if isinstance(error, SpineError) and (sql := error.details.get("sql")):
        cause.add_note(f"{subscription.name} executed: {sql}")
    return cause


def undecided(name: str, error: BaseException, fault: Exception) -> DeclarationError:
    told = DeclarationError(
        f"{name} failed ({text_of(error)[0]}), and what its retry= and errors= say to that can't be told: "
        f"{type(fault).__name__}: {fault}. Mend them; until then Retry() holds."
    )
    told.__cause__ = error
    return told


def text_of(error: BaseException) -> tuple[str, str]:
    """An error as its row keeps it. It may hold what no text in a database can (lone surrogates, of a file's name; a NUL),
    or fail to say what it is; an attempt that failed is stored all the same."""
    try:
        text = "; ".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())))
        if isinstance(error, TypeError) and _NOT_AWAITED.search(text):
            text += f". {_NOT_AWAITED_HERE}"
    except Exception as fault:  # of the error's own __str__
        text = f"{type(error).__name__}, which can't say what it is: its __str__ raised {type(fault).__name__}"
    return storable(text[:2000]), _trace(error)


def trace_of(error: BaseException) -> str:
    """Of what a decoder raised, which is the cause of this error; "" where none did."""
    return "" if error.__cause__ is None else _trace(error.__cause__)


def _trace(error: BaseException) -> str:
    return storable("".join(traceback.format_exception(error))[-TRACEBACK_MAX:])
