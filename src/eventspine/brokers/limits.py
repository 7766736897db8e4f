"""What the broker takes at most, said where an event is published rather than where it can't be sent.

It is here that a store for large data will come in: what is too large would go there, and a reference on its way."""

from __future__ import annotations

from ..errors import EventTooLarge
from ..journal.port import Record
from .binding import message_of, size_of
from .port import Broker, Features

_ROOM = 24_576  # more than what surrounds the data can have: measuring each event would cost more than making it
_ORIGIN = "0" * 80
_NUMBER = 10**19


def is_small(record: Record, features: Features) -> bool:
    """Whatever surrounds its data: it fits."""
    return len(record.data) + _ROOM <= features.message_bytes_max


class Limit:
    """Of the live broker once it is connected, and what it says of itself before."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def check(self, record: Record) -> None:
        """Raises EventTooLarge."""
        features = self._broker.features
        if is_small(record, features):
            return
        limit = features.message_bytes_max
        size = size_of(message_of(record, _ORIGIN, _NUMBER, features.prefix))
        if size > limit:
            raise EventTooLarge(
                f"{record.type} is {size:,} bytes with its headers, and {features.name} at {self._broker.url} takes "
                f"{limit:,} at most. Store the large part elsewhere and publish where it is, publish several smaller "
                "events, or raise the broker's limit.",
                type=record.type,
                size_bytes=size,
                limit_bytes=limit,
            )
