"""Whose a channel, or a consumer, is at the broker (R14).

It is asked before anything is sent or fetched, at every take-over and assignment, and while running, every now and then:
another journal may have been told to take our place meanwhile, and two would send, or fetch, the same.

A copy of a journal that was restored has its identity, and another incarnation: it is another journal here. Consumers' claims
were left without the incarnation once. Such a claim is of our journal, or of its copy; who comes first has it."""

from __future__ import annotations

from typing import Literal

from ..brokers.port import Broker
from ..clock import Clock
from ..errors import BrokerError

LEASES = 2  # of whose time one that lost its place goes on at most, on what it holds already
JUST_NOW_S = 1.0


class Claim:
    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        role: Literal["publisher", "consumer"],
        name: str,
        lease_s: float,
        force: bool,
        formerly: str = "",
    ) -> None:
        """`formerly`: as what earlier releases have claimed it for this journal."""
        self._broker = broker
        self._clock = clock
        self._role = role
        self._name = name
        self._every_s = LEASES * lease_s
        self._formerly = formerly
        self._force = force  # once: whoever takes it from us later is not thrown out again
        self._asked_at = self._again_at = float("-inf")

    async def others(self, identity: str) -> str | None:
        """Who has it, unless it is ours now. Raises BrokerError when nobody can tell."""
        self._asked_at = self._clock.monotonic()
        self._again_at = self._asked_at + self._every_s
        owner = await self._ask(identity, force=self._force)
        if owner and owner == self._formerly:
            await self._ask(identity, force=True)
            owner = await self._ask(identity, force=False)  # a copy may have done the same
        if owner not in ("", identity):
            return owner
        self._force = False
        return None

    async def _ask(self, identity: str, *, force: bool) -> str:
        return await self._broker.claim(self._role, self._name, identity, force=force)

    @property
    def asked_just_now(self) -> bool:
        return self._clock.monotonic() - self._asked_at < JUST_NOW_S

    async def others_by_now(self, identity: str) -> str | None:
        """The same for who is at work: seldom, and a broker that does not answer is no news. It is asked again soon then: our
        place may have been taken while it was away."""
        if self._clock.monotonic() < self._again_at:
            return None
        try:
            return await self.others(identity)
        except BrokerError:
            self._again_at = self._clock.monotonic() + JUST_NOW_S
            return None
