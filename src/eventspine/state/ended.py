"""How a stream is known to be over: by its last event, which says that it was deleted.

That event is a private one of the service, so no subscriber ever sees it. It keeps the stream's versions going on, says when,
by whom and why (`acting`), and is never deleted itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ..envelope import Envelope
from ..errors import StreamDeleted
from ..events import Event
from ..events.declare import describe
from ..journal.port import Record
from ..wording import plural


class StreamEnded(Event, context="spine", key="stream"):
    """The stream was deleted."""

    stream: str
    versions: int  # that it had come to


ENDED = describe(StreamEnded).name


def how_it_ended(record: Record) -> str:
    """Of such an event, in words: by whom, why, when and how long it was."""
    envelope, event = Envelope(record), describe(StreamEnded).decode(record.data)
    who = f" by {envelope.actor}" if envelope.actor else ""
    why = f" ({envelope.why})" if envelope.why else ""
    return f"deleted{who}{why} on {_at(record):%Y-%m-%dT%H:%M:%SZ}, with {plural(event.versions, 'version')}"


def _at(record: Record) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=record.time_us)


def refuse_ended(service: str, stream: str, record: Record) -> None:
    """Raise what somebody is told who comes to this event of the stream."""
    if record.type != ENDED:
        return
    envelope = Envelope(record)
    raise StreamDeleted(
        f"{stream} of {service} was {how_it_ended(record)}. It is not begun anew under this id: what remembers it would take "
        "the new one for the old. Give the new one another id.",
        service=service,
        stream=stream,
        at=_at(record),
        versions=describe(StreamEnded).decode(record.data).versions,
        actor=envelope.actor,
        why=envelope.why,
    )
