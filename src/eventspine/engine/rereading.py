"""Reading again what was no event and was replayed, after its producer or the decoder was mended.

Whoever has its partition does it. A partition that nobody has any more, since there are fewer now, would leave it parked for
good; so what its owner has let lie for a lease is read by whoever sees it. Should two do that, the second is fenced."""

from __future__ import annotations

from collections.abc import Sequence

from ..clock import Clock
from ..journal.port import Delivery, Fence, Journal
from .membership import Membership
from .reading import Reading


class Rereading:
    def __init__(self, journal: Journal, clock: Clock, member: Membership, reading: Reading) -> None:
        self._journal = journal
        self._clock = clock
        self._member = member
        self._reading = reading
        self._seen: dict[int, float] = {}  # rows that wait, with the moment in which we saw them first

    async def look(self, partitions: Sequence[int]) -> None:
        """`partitions`: those that we have."""
        if not partitions:
            return
        rows = await self._journal.deliveries(subscriptions=[self._member.row.number], states=["parked"])
        now = self._clock.monotonic()
        self._seen = {row.number: self._seen.get(row.number, now) for row in rows}
        left = now - self._member.lease_s  # what was seen by then
        ours = [row for row in rows if row.partition in partitions or self._seen[row.number] < left]
        if ours:
            await self._journal.commit([self._reading.again(row, self._fence(row, partitions)) for row in ours])

    def _fence(self, row: Delivery, partitions: Sequence[int]) -> Fence:
        return self._member.fence(row.partition if row.partition in partitions else partitions[0])
