"""Every error that eventspine raises on purpose, as one tree.

SpineError
├── DeclarationError          a class, handler or service is declared wrongly (found when it is made)
│   ├── UnknownPublisher      no service was named that may publish this context's events
│   ├── NotApplied            an aggregate records an event that none of its methods @applies
│   └── NotHandled            a command was sent, and no service of this process handles it
├── EventRefused              this event can't be published as it is; nothing was stored
│   ├── EventTooLarge
│   ├── KeyRefused
│   ├── EventsInCircle        handlers cause one another's events without an end; the delivery is dead at once
│   ├── AttributeRefused      what travels beside the data: a middleware's attributes
│   ├── CorrelationRefused    the id given to correlate()
│   └── ActorRefused          who has it done, or why, as acting() was told
├── Undecodable               these bytes are not an event of this class
├── NoSuchAggregate           it has no events (yet, or by the time that was asked for)
├── StreamDeleted             it had events, and its stream was deleted; the message says when, and how much
├── VersionsDeleted           what was asked for needs versions of a stream that were cut off
├── StreamNeeded              events can't be deleted yet: who still needs them is named; nothing was deleted
├── UnknownEvent              a stream holds an event of a type that its aggregate doesn't know
├── NewerVersion              a stream holds an event of a newer version than this code knows
├── CommandRefused            this command can't be sent as it is; nothing was done
├── CommandReused             this command id was given to another command before
├── ResultRefused             a handler returned what its command does not promise; nothing was stored
├── HeaderRefused             what a client sent in a header is not what it should be; to be answered with 400
│   └── ContentTypeRefused    a command that is sent as something else than JSON; to be answered with 415
├── ViewRefused               a use of a view that it can't have: a value, a key, a column, a tenant
│   ├── BeyondColumn          a value that no column can have: half a character, a number beyond 64 bits; nobody finds it
│   └── ViewNotKept           no projection has kept it on this journal yet, so there is nothing to read
├── ViewBehind                a view has not come to an event within the time
├── Conflict                  a stream or note is not at the version that was expected; nothing was stored
├── Fenced                    someone else owns this work now; nothing was stored
├── OutcomeUnknown            the journal can't say whether the commit happened; ask again with the same ids
├── UnitFailed                one statement or expectation of a unit failed, or it is too large; nothing of it was stored
│   └── RowsUnexpected
├── StatementRefused          SQL that a unit may not contain
├── WouldDeadlock             waiting here would wait for ourselves; pass within=, or leave the delivery first
├── JournalError              the journal itself
│   ├── JournalBusy           somebody else holds the write lock, or the caller's own connection (then pass within=)
│   ├── JournalFull           no space
│   ├── JournalDenied        it lets nobody in like this: a password, database, role or right; waiting does not help
│   ├── JournalCorrupt
│   └── JournalVersion        written by a release that this one can't share the file with
├── BrokerError               the broker can't be reached, or does not answer; what was sent may have arrived
│   ├── MessageRefused        it will never take this message
│   ├── NotWanted             nobody there wants what this channel has, so far; the broker has it not
│   ├── BrokerTaken           another journal publishes or consumes this there
│   └── OutboxFull            it is too far behind; nothing was stored
├── RegistrationRefused       this start would lose or repeat work; the message gives the ways on
├── SpineClosed               it was used after close(); open it again, or publish before
├── SettingsError             a URL, option or file that can't be used
│   ├── StreamRefused         a stream was asked for by a name, or a number, that none can have
│   └── TruncationRefused     the stream can't begin with this version: it has none, or its event does not restate all
└── MissingExtra              an optional dependency is not installed; names the pip line
Reject, RetryAfter            raised by handlers to say what should happen; not errors of ours
"""

from __future__ import annotations

from datetime import datetime, timedelta
from math import isnan
from typing import Any


class SpineError(Exception):
    """The root. `details` holds the data that the message was made from."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class DeclarationError(SpineError):
    pass


class UnknownPublisher(DeclarationError):
    pass


class NotApplied(DeclarationError):
    pass


class NotHandled(DeclarationError):
    pass


class CommandRefused(SpineError):
    pass


class ResultRefused(SpineError):
    pass


class HeaderRefused(SpineError):
    pass


class ContentTypeRefused(HeaderRefused):
    pass


class NoSuchAggregate(SpineError):
    pass


class StreamDeleted(SpineError):
    pass


class VersionsDeleted(SpineError):
    pass


class StreamNeeded(SpineError):
    pass


class UnknownEvent(SpineError):
    pass


class NewerVersion(SpineError):
    pass


class CommandReused(SpineError):
    pass


class ViewRefused(SpineError):
    pass


class BeyondColumn(ViewRefused):
    """Who looks for it finds nothing, and who writes it is refused."""


class ViewNotKept(ViewRefused):
    pass


class ViewBehind(SpineError):
    pass


class EventRefused(SpineError):
    pass


class EventTooLarge(EventRefused):
    pass


class KeyRefused(EventRefused):
    pass


class EventsInCircle(EventRefused):
    pass


class AttributeRefused(EventRefused):
    pass


class CorrelationRefused(EventRefused, ValueError):
    pass


class ActorRefused(EventRefused, ValueError):
    pass


class Undecodable(SpineError):
    pass


class Conflict(SpineError):
    pass


class Fenced(SpineError):
    pass


class OutcomeUnknown(SpineError):
    pass


class UnitFailed(SpineError):
    pass


class RowsUnexpected(UnitFailed):
    pass


class HandlerTimeout(SpineError):
    """The handler did not return within its `timeout_s`."""


class StatementRefused(SpineError):
    pass


class WouldDeadlock(SpineError):
    pass


class JournalError(SpineError):
    pass


class JournalBusy(JournalError):
    pass


class JournalFull(JournalError):
    pass


class JournalDenied(JournalError):
    pass


class JournalCorrupt(JournalError):
    pass


class JournalVersion(JournalError):
    pass


class BrokerError(SpineError):
    pass


class MessageRefused(BrokerError):
    pass


class NotWanted(BrokerError):
    pass


class BrokerTaken(BrokerError):
    pass


class OutboxFull(BrokerError):
    pass


class RegistrationRefused(SpineError):
    pass


class SpineClosed(SpineError):
    pass


class SettingsError(SpineError):
    pass


class StreamRefused(SettingsError):
    pass


class TruncationRefused(SettingsError):
    pass


class MissingExtra(SpineError):
    pass


class Reject(Exception):
    """Raised by a handler: this event will never be handled; it dies at once, with this reason."""


class RetryAfter(Exception):
    """Raised by a handler: try again after this long (or at this aware time). Counts as an attempt."""

    def __init__(self, after: float | timedelta | datetime, reason: str = "") -> None:
        if isinstance(after, datetime) and after.tzinfo is None:
            raise ValueError(f"RetryAfter({after}): an aware datetime is needed, e.g. with tzinfo=UTC.")
        if isinstance(after, float) and isnan(after):
            raise ValueError("RetryAfter(nan): give seconds, a timedelta, or an aware datetime.")
        if not isinstance(after, (int, float, timedelta, datetime)):
            raise TypeError(f"RetryAfter({after!r}): give seconds, a timedelta, or an aware datetime.")
        when = f"at {after}" if isinstance(after, datetime) else f"after {after}"
        unit = " s" if isinstance(after, (int, float)) else ""
        super().__init__(reason or f"the handler asked to be tried again {when}{unit}")
        self.after = after
