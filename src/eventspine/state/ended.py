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


def refuse_ended(service: str, stream: str, record: Record) -> None:
    """Raise what somebody is told who comes to this event of the stream."""
    if record.type != ENDED:
        return
    envelope, event = Envelope(record), describe(StreamEnded).decode(record.data)
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=record.time_us)
    who = f" by {envelope.actor}" if envelope.actor else ""
    why = f" ({envelope.why})" if envelope.why else ""
    raise StreamDeleted(
        f"{stream} of {service} was deleted{who}{why} on {at:%Y-%m-%dT%H:%M:%SZ}, with {plural(event.versions, 'version')}. It "
        "is not begun anew under this id: what remembers it would take the new one for the old. Give the new one another id.",
        service=service,
        stream=stream,
        at=at,
        versions=event.versions,
        actor=envelope.actor,
        why=envelope.why,
    )
