"""A site: one place through which events are carried, for one test, and spines that use it as processes of their own would.

A test asks its site for spines, publishes through it, and where that is declared kills its server, cuts the way to it, or has
its topology applied. `EmbeddedSite` is that of the broker that a journal is by itself; that of a broker between journals is
`CarriedSite`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ....brokers.embedded import Broker
from ....brokers.feed import FeedBroker
from ....errors import SpineError
from ....journal.port import Append, Journal, Record, Unit
from ....service import Service
from ....spine import Spine

LEASE_S = 3.0  # of the spines of a test: what a process that vanished held is taken over within about this


class BrokerSite(Protocol):
    """What `make` of a broker's suite gives."""

    opened_by: str  # `module:function` by which another process makes a spine of `address` and a service
    address: str

    @property
    def event_bytes_max(self) -> int:
        """Of an event's data, about: what is larger is refused at publish."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    def spine(self, service: Service[Any] | None = None) -> Spine:
        """A spine of another process, so to speak: it shares with the others what processes share."""
        ...

    async def publish(self, *records: Record) -> None:
        """Put these where events come from as they are, though no service of ours would publish them so."""
        ...

    async def kill_server(self) -> None:
        """At once, as SIGKILL does. For those that declare `server`."""
        ...

    async def start_server(self) -> None:
        """Again, with what it had stored."""
        ...

    async def cut(self) -> None:
        """Nothing passes any more, and nobody is told: packets are dropped. For those that declare `cuts`."""
        ...

    async def mend(self) -> None:
        """Everything passes again."""
        ...

    async def apply_topology(self, *services: Service[Any]) -> Sequence[str]:
        """Make on the server what these need; what was changed. For those that declare `topology`."""
        ...


class Undeclared:
    """Of a site that declares none of it; subclasses override what they can."""

    async def kill_server(self) -> None:
        raise NotImplementedError("This site has no server; without one, do not declare server=True.")

    start_server = kill_server

    async def cut(self) -> None:
        raise NotImplementedError("Nothing here can be cut; do not declare cuts=True.")

    mend = cut

    async def apply_topology(self, *services: Service[Any]) -> Sequence[str]:
        raise NotImplementedError("This site has no topology; do not declare topology=True.")


class EmbeddedSite(Undeclared):
    """The broker that a journal is: `EmbeddedSite(lambda: MyJournal(url))`.

    `shared`: several journals may have the store open, so every spine gets one of its own; else they share the first."""

    opened_by = "eventspine.testing.conformance.brokers.site:spine_at"

    def __init__(self, journal: Callable[[], Journal], *, shared: bool) -> None:
        self._make = journal
        self._shared = shared
        self._own = journal()
        self.address = self._own.url

    async def open(self) -> None:
        await self._own.open()

    async def close(self) -> None:
        await self._own.close()

    @property
    def event_bytes_max(self) -> int:
        return self.broker().features.event_bytes_max

    def broker(self) -> Broker:
        """As a process has it."""
        return FeedBroker(self._own)

    def spine(self, service: Service[Any] | None = None) -> Spine:
        return Spine(self._make() if self._shared else self._own, service=service, lease_s=LEASE_S)

    async def publish(self, *records: Record) -> None:
        (verdict,) = await self._own.commit([Unit([Append(records)])])
        if not verdict.ok:
            raise verdict.error or SpineError(f"The journal answered {verdict.kind}.")


def spine_at(address: str, service: Service[Any]) -> Spine:
    """As another process opens it."""
    return Spine(address, service=service, lease_s=LEASE_S)
