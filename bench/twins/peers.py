"""FastStream at any broker: what it is given, and whether it is there."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from ..parcels import Parcel


class Body(BaseModel):
    parcel: str
    number: int
    sent_ns: int
    note: str


def bodies_of(events: Sequence[Parcel]) -> list[dict[str, Any]]:
    return [{"parcel": one.parcel, "number": one.number, "sent_ns": one.sent_ns, "note": one.note} for one in events]


def there(broker: str) -> bool:
    """Whether FastStream has this broker, with the client library that is installed."""
    logging.getLogger("faststream").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import_module(f"faststream.{broker}")
        except ImportError:
            return False
    return True


class Handlers:
    """One for each message, or one for a list; `finished` when all have been handled."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.finished = asyncio.Event()

    def chosen(self, *, batch: bool) -> Callable[..., object]:
        async def one(body: Body) -> None:  # noqa: ARG001 -- decoded for it all the same
            self._done(1)

        async def several(bodies: list[Body]) -> None:
            self._done(len(bodies))

        return several if batch else one

    def _done(self, some: int) -> None:
        self._left -= some
        if self._left <= 0:
            self.finished.set()
