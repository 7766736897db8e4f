"""Membership: how the processes on one journal share the partitions of a relay or an intake, by leases.

Relays and intakes are known to the journal as services of their own, with one subscription each, whose cursor and marks
say how far they have come. Their names hold a colon, which no service that a user declares can have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set as AbstractSet

from .._version import RELEASE
from ..clock import Clock
from ..errors import Fenced
from ..ids import IdSource, id_text
from ..journal.port import (
    Fence,
    Journal,
    Lease,
    Process,
    Registration,
    Subscription,
    SubscriptionDeclaration,
)
from ..journal.processes import pid_start, this_host
from .shares import leaders, share

TRUST = 0.8  # of a lease's time


class Membership:
    """`name` is that of the hidden service; its subscription is `subscription`, on these channels of our own feed."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        ids: IdSource,
        name: str,
        subscription: str,
        channels: tuple[str, ...],
        lease_s: float,
    ) -> None:
        self.journal = journal
        self.clock = clock
        self.name = name
        self.lease_s = lease_s
        self.held: dict[int, Lease] = {}
        self.row: Subscription
        self._ids = ids
        self._subscription = subscription
        self._channels = channels
        self._control = -1
        self._trusted_until = 0.0
        self._asked = float("-inf")
        self._version = -1
        self.processes: list[Process] = []
        self._process: Process | None = None

    async def join(self) -> None:
        """Register, and be known as one of its processes from the next `beat` on."""
        declaration = SubscriptionDeclaration(self._subscription, self._channels, (), "feed", "goes_on", "earliest")
        now_us = self.clock.now_us()
        registered = await self.journal.register(Registration(self.name, (), (declaration,)), now_us)
        self.row = registered.subscriptions[0]
        pid = os.getpid()
        self._process = Process(
            id_text(self._ids.one()), self.name, registered.generation, pid, this_host(), now_us, 0, RELEASE,
            pid_started=pid_start(pid),
        )  # fmt: skip

    @property
    def due_in_s(self) -> float:
        """Until leases are to be renewed."""
        return max(0.0, self._asked + self.lease_s / 3 - self.clock.monotonic())

    @property
    def trusted(self) -> bool:
        """Whether what is held can be taken to be ours still; what counts is the fence in each commit."""
        return self.clock.monotonic() < self._trusted_until

    def fence(self, partition: int) -> Fence:
        return Fence(self.lease_name(partition), self.held[partition].epoch)

    def lease_name(self, partition: int) -> str:
        return f"{self.name}/{partition}"

    async def beat(self, wanted: Iterable[int], *, shared: bool, release: Iterable[int] = ()) -> bool:
        """Renew, give back `release`, and take what should be ours of `wanted`: a fair share if it is `shared`, else all
        of it. Whether the subscription was changed from outside (paused, rewound) since the last time."""
        assert self._process is not None, "join() first"
        release = list(release)
        wanted = sorted(set(wanted) - set(release))
        await self._ask([] if shared else [n for n in wanted if n not in self.held], release)
        if shared and (mine := self.missing(wanted, shared=True)):  # known only now that all processes are
            await self._ask(sorted(mine), [])
        return await self._changed()

    def ours(self, wanted: Iterable[int], *, shared: bool) -> AbstractSet[int]:
        """What of it should be with this process."""
        assert self._process is not None
        if not shared:
            return set(wanted)
        return share(tuple(sorted(wanted)), tuple([one.id for one in leaders(self.processes)]), self._process.id)

    def too_much(self, wanted: Iterable[int], *, shared: bool) -> list[int]:
        """What is held and should not be: of nobody's asking, or another's share."""
        return sorted(self.held.keys() - self.ours(wanted, shared=shared))

    def missing(self, wanted: Iterable[int], *, shared: bool) -> AbstractSet[int]:
        return self.ours(wanted, shared=shared) - self.held.keys()

    async def _ask(self, take: list[int], release: list[int]) -> None:
        assert self._process is not None
        asked, now_us = self.clock.monotonic(), self.clock.now_us()
        view = await self.journal.lease(
            self._process,
            [self.lease_name(n) for n in take],
            [self.lease_name(n) for n in release],
            now_us,
            now_us + round(self.lease_s * 1e6),
        )
        self._asked, self._trusted_until = asked, asked + self.lease_s * TRUST
        self._version = view.control
        self.held = {int(name.rpartition("/")[2]): lease for name, lease in view.held.items()}
        self.processes = list(view.processes)

    async def _changed(self) -> bool:
        if self._version == self._control:
            return False
        rows = [row for row in await self.journal.subscriptions(self.name) if row.number == self.row.number]
        if not rows:
            raise Fenced(f"The subscription of {self.name} is gone from the journal.")
        first, self.row, self._control = self._control == -1, rows[0], self._version
        return not first

    async def leave(self) -> None:
        """Give everything back, and be forgotten."""
        if self._process is not None:
            process, self._process = self._process, None
            self.held = {}
            await self.journal.leave(process)


async def registered_name(journal: Journal, name: str, otherwise: str) -> str:
    """The name under which this hidden service's subscription is stored, so that it stays what it was first."""
    for row in await journal.subscriptions(name):
        if row.state != "retired":
            return row.name
    return otherwise
