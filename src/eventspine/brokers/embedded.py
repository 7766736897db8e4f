"""Reading a journal's own feed, which is the embedded broker: what the engine needs of it.

An intake is what one service reads of one feed. A broker settles in one of two ways, which is the only deep difference
between them: a log settles the contiguous prefix of a partition, a queue settles each record. Retry, delay, parking
and death never go back to the broker: the journal has them. `release` is the only "nack", and means: not handled,
and not the handler's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..journal.port import Page, Record


@dataclass(frozen=True, slots=True)
class Features:
    """What a broker can do; declared, and never silently less."""

    settles: Literal["prefix", "each", "cursor"]  # cursor: our own feed, where the cursor is the settlement
    ordered: bool  # per key, as delivered
    rewinds: bool  # by position and time
    one_feed: bool  # all partitions in one order, so that order="feed" means what it says
    assigns: Literal["journal", "broker"]  # who says which process asks for a partition's lease
    event_bytes_max: int
    persistent: bool


class Intake(Protocol):
    """One reading position. Several may be open at once on a feed that rewinds."""

    feed: str  # identity: cluster, topic and channel; cursors are kept by it
    position: int  # everything up to here has been fetched

    async def fetch(self, *, records_max: int, upto: int | None = None) -> Page:
        """The next records, without waiting; empty when there are none yet."""
        ...

    async def settle(self, records: Sequence[Record]) -> None: ...
    async def release(self, records: Sequence[Record]) -> None: ...
    async def assign(self, partitions: Sequence[int]) -> None:
        """Read only these from now on; keep membership."""
        ...

    async def seek(self, position: int) -> None: ...
    async def close(self) -> None: ...


class Broker(Protocol):
    features: Features

    def intake(self, service: str, channels: Sequence[str], types: Sequence[str], *, after: int) -> Intake: ...
    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called on this event loop when a fetch may find more. Returns the way to stop."""
        ...
