"""Upkeep of the journal: what is older than its channel is kept for is deleted, little by little.

    a round a minute:  say what our services declare ── hear what all of them say ── anything to delete?
                                                                                       └── hold the lease ── sweep

One process does it, by a lease of its own; when that process ends, the next round of another takes it over. What it may
delete is decided by the journal, inside each commit, which also refuses whoever lost the lease meanwhile.

A new process hears two rounds before it sweeps, so that everybody at work with another value has said so. Sweeping rests
for four times as long as it took, so that nobody who publishes notices."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import Fenced
from ..journal.port import Fence, Journal, Lease, Sweep
from ..journal.retention import kept
from ..wording import plural

if TYPE_CHECKING:
    from ..clock import Clock
    from .runtime import Runtime

log = logging.getLogger("eventspine.engine")
UPKEEP = "upkeep"  # the lease
EVERY_S = 60.0
ROUNDS_HEARD = 2  # before the first sweep
EVENTS_AT_ONCE = 500  # in one commit
REST = 4.0  # times as long as a commit took
REST_LEAST_S = 0.01
LOOK_AGAIN_US = 24 * 3_600_000_000  # what something needed may be needed no more


class Upkeep:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._heard = 0
        self._swept: dict[str, int] = {}  # how far each channel has been looked at
        self._afresh_us = 0  # when to look from the beginning again
        self._lease: Lease | None = None

    async def round(self) -> None:
        """A round, then a rest."""
        await self.runtime.clock.sleep(EVERY_S)
        keeps = await self._say_and_hear()
        if self._heard >= ROUNDS_HEARD and keeps and await self._held():
            await self._sweep(keeps)

    async def _say_and_hear(self) -> dict[str, int]:
        journal, now_us = self.runtime.journal, self.runtime.clock.now_us()
        for host in self.runtime.hosts:
            await journal.keep(host.service.name, self.runtime.keeps_of(host.service), now_us)
        self._heard += 1
        return kept(await journal.keeps(), now_us)

    async def _held(self) -> bool:
        """Take the lease, or renew it, in the name of our first service."""
        host = next((host for host in self.runtime.hosts if not host.stopping), None)
        if host is None:
            return False
        now_us = self.runtime.clock.now_us()
        until_us = now_us + round(self.runtime.lease_s * 1e6)
        view = await self.runtime.journal.lease(host.process, [UPKEEP], [], now_us, until_us)
        lease = view.held.get(UPKEEP)
        if lease is not None and (self._lease is None or self._lease.epoch != lease.epoch):
            self._swept.clear()  # somebody else was at it
        self._lease = lease
        return lease is not None

    async def _sweep(self, keeps: dict[str, int]) -> None:
        journal, now_us = self.runtime.journal, self.runtime.clock.now_us()
        if now_us >= self._afresh_us:
            self._afresh_us = now_us + LOOK_AGAIN_US
            self._swept.clear()
        assert self._lease is not None
        fence = Fence(UPKEEP, self._lease.epoch)
        for channel, keep_us in sorted(keeps.items()):
            upto, after = await journal.position_at(now_us - keep_us), self._swept.get(channel, 0)
            try:
                swept = await sweep(journal, self.runtime.clock, channel, upto=upto, after=after, fence=fence)
            except Fenced:
                log.info("another process looks after the journal now")
                return
            self._swept[channel] = swept.scanned
            if swept.deleted:
                log.info("deleted %s of %s by age", plural(swept.deleted, "event"), channel)


async def sweep(
    journal: Journal, clock: Clock, channel: str, *, upto: int, after: int = 0, fence: Fence | None = None
) -> Sweep:
    """Of one channel all that is old enough, in commits that others hardly notice."""
    deleted = 0
    while True:
        began = clock.monotonic()
        step = await journal.sweep(channel, after=after, upto=upto, limit=EVENTS_AT_ONCE, fence=fence)
        deleted, after = deleted + step.deleted, step.scanned
        if not step.more:
            return step._replace(deleted=deleted)
        await clock.sleep(max(REST_LEAST_S, REST * (clock.monotonic() - began)))
