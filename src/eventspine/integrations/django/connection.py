"""The journal on Django's own connection to its database, where nothing is waited for by awaiting."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from ...at_once import at_once
from ...errors import SpineError, WouldDeadlock
from ...journal import _sql_read as read
from ...journal.port import Noted, Record, Unit, Verdict
from ...within import write
from .journals import journal_of
from .within import OfDjango

T = TypeVar("T")

_ALL: dict[str, Any] = {
    "subscriptions": None, "states": None, "partitions": None, "numbers": None, "events": None, "after": 0, "limit": 1000,
    "records": True,
}  # fmt: skip


class OnConnection:
    """The journal, as far as it is read and written on Django's connection."""

    sql = True

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self._journal = store = journal_of(wrapper)
        self.dialect, self.id, self.path, self.url = store.dialect, store.id, store.path, store.url

    def write(self, unit: Unit) -> Verdict:
        return write(OfDjango(self._wrapper), self._journal, unit)  # type: ignore[arg-type]  # all that it asks for is there

    def _read(self, function: Callable[..., T], *arguments: Any) -> T:
        with self._journal.reading(self._wrapper) as cursor:
            return function(cursor, *arguments)

    async def stream(
        self, service: str, stream: str, *, after: int = 0, limit: int = 1000, folded: bool = False
    ) -> list[Record]:
        return self._read(read.folded if folded else read.stream, service, stream, after, limit)

    async def stream_version(self, service: str, stream: str) -> int:
        return self._read(read.stream_version, service, stream)

    async def notes(
        self, service: str, kind: str, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1000
    ) -> list[Noted]:
        return self._read(read.notes, service, kind, keys, after, limit)

    async def event(self, id: bytes) -> Record | None:
        return self._read(read.event, id)

    async def subscriptions(self, service: str | None = None) -> list[Any]:
        return self._read(read.subscriptions, service)

    async def cursors(self, subscriptions: Sequence[int]) -> list[Any]:
        return self._read(read.cursors, subscriptions)

    async def deliveries(self, **wanted: Any) -> list[Any]:
        return self._read(partial(read.deliveries, **{**_ALL, **wanted}))

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._journal.query(self._wrapper, sql, parameters)

    async def begin(self, *_: Any) -> NoReturn:
        raise WouldDeadlock(
            "This handler is in Django's transaction, which sees its own writes. delivery.transaction() would be another: it would "
            "wait for the end of this one, or commit apart from it."
        )


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns: on Django's connection nothing is waited for by awaiting."""
    waits = "A middleware awaited something that takes a while. In Django there is no event loop to wait on."
    return at_once(coroutine, SpineError(waits))
