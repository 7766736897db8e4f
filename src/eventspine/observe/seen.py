"""What a web request has published, and what it says that its sender has seen: read-your-writes across requests.

Kept in a context of the request by eventspine.integrations.read_your_writes; everything else only looks here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any


class Published:
    """The ids of what was published inside a request."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def note(self, receipts: Iterable[Any]) -> None:
        self.ids += [receipt.id for receipt in receipts if receipt.due is None]


class Seen:
    """Events that views are to have before this request reads them; each view is waited for once."""

    def __init__(self, events: Sequence[str], timeout_s: float) -> None:
        self.events = tuple(events)
        self.timeout_s = timeout_s
        self._waited: set[str] = set()

    async def once(self, view: str, wait: Callable[..., Awaitable[None]]) -> None:
        if view not in self._waited:
            await wait(*self.events, timeout_s=self.timeout_s)
            self._waited.add(view)


published: ContextVar[Published | None] = ContextVar("spine_published", default=None)
seen: ContextVar[Seen | None] = ContextVar("spine_seen", default=None)
