"""For each broker what a program would do that has its client library and no framework, and FastStream where it has it.

Both sides ask for the same acknowledgements. A twin reads in batches, decodes, awaits an async handler for each and
commits once per batch; it has no order per key beside the broker's, no retries, no journal and nothing exactly once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Protocol

from eventspine.brokers.port import Message

from ..parcels import Parcel, Plain

READ = 500  # messages that a twin reads, and after which it commits
Handle = Callable[[Plain], Awaitable[None]]
HAVE_TWINS = ("nats", "kafka", "rabbitmq", "pulsar", "eventbridge")

__all__ = ["HAVE_TWINS", "READ", "Any", "AsyncIterator", "Handle", "Peer", "Twin", "twin_of"]


class Twin(Protocol):
    prefix: str  # of headers
    keeps: bool  # what was sent, for readers that come later

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def send(self, messages: Sequence[Message]) -> None:
        """All at once, until every one is acknowledged."""
        ...

    async def stock(self, messages: Sequence[Message]) -> None:
        """Where the broker keeps nothing: have these there for whoever receives next. Else nothing."""
        ...

    async def receive(self, count: int, handle: Handle) -> None:
        """From the first that the broker has, in batches."""
        ...

    def listening(self, handle: Handle) -> AbstractAsyncContextManager[None]:
        """To what is sent from now on, as it comes."""
        ...

    def peer(self) -> Peer | None: ...


class Peer(Protocol):
    """FastStream, as its guide shows."""

    batches: bool  # whether it has handlers of several messages there

    async def send(self, events: Sequence[Parcel]) -> None: ...
    async def receive(self, count: int, *, batch: bool) -> None: ...


def twin_of(broker: str, url: str, partitions: int) -> Twin:
    found: Twin = import_module(f".{broker}", __name__).twin(url, partitions)
    return found
