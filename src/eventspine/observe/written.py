"""What was published while a request was answered: for the token by which its sender reads its own writes.

A web middleware begins collecting; whatever publishes adds its records, once they are stored or in the hands of the
caller's own transaction. Of each key (as far as slots tell keys apart) the last event stands for those before it, which
every view has come to when it has come to that one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..journal.port import Record

EVENTS_MAX = 32  # in one token; of more, the last are told


class Written:
    def __init__(self) -> None:
        self._last: dict[object, bytes] = {}  # ids, in the order in which they were written

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._put((record.channel, record.slot), record.id)

    def add_ids(self, ids: Iterable[bytes]) -> None:
        """Of what was written at another time."""
        for id in ids:
            self._put(id, id)

    def _put(self, place: object, id: bytes) -> None:
        self._last.pop(place, None)
        self._last[place] = id
        if len(self._last) > EVENTS_MAX:
            del self._last[next(iter(self._last))]

    @property
    def ids(self) -> list[bytes]:
        return list(self._last.values())


collected: ContextVar[Written | None] = ContextVar("eventspine_written", default=None)


def wrote(records: Iterable[Record]) -> None:
    if (written := collected.get()) is not None:
        written.add(records)


@contextmanager
def collecting() -> Iterator[Written]:
    token = collected.set(written := Written())
    try:
        yield written
    finally:
        collected.reset(token)
