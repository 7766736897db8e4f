"""The suite for brokers: the port itself, and the engine on it, from delivery to a server that dies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, ClassVar

from ....brokers.embedded import Features
from ..running import Suite
from .capabilities import BrokerCapabilities, from_features
from .content import Attributes, Content
from .delivering import Delivering, Publishing
from .ending import Draining, Killed, Pausing
from .intakes import Intakes
from .order import Bounds, Order
from .replaying import DeadLetters, Replaying
from .retrying import Retrying, Scheduling
from .server import Cuts, Server, Topology
from .site import BrokerSite


class BrokerConformance(Suite):
    """Subclass it as `class TestMine(BrokerConformance)`; say what it can and how a site of it is made."""

    title = "broker"
    capabilities: ClassVar[BrokerCapabilities] = BrokerCapabilities()
    features: ClassVar[Features]  # what the broker says of itself, to be known before there is one
    gives = frozenset({"site", "features"})
    groups = (
        Intakes,
        Delivering,
        Publishing,
        Order,
        Bounds,
        Retrying,
        Scheduling,
        DeadLetters,
        Replaying,
        Content,
        Attributes,
        Pausing,
        Draining,
        Killed,
        Server,
        Cuts,
        Topology,
    )

    # Who subclasses writes `async def make(self, ...)`: it gives a `BrokerSite` that nobody has used before. It may ask for
    # any fixture of pytest by its name.
    make: Callable[..., Awaitable[BrokerSite]]

    def declared(self) -> Mapping[str, bool]:
        return from_features(self.features) | asdict(self.capabilities)

    @asynccontextmanager
    async def set_up(self, asked: frozenset[str], fixtures: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        site = await self.make(**fixtures)
        await site.open()
        try:
            provided = {"site": site, "features": self.features}
            yield {name: provided[name] for name in asked}
        finally:
            await site.close()
