"""The suites for brokers: the port itself, and the engine on it, from delivery to a server that dies.

`FeedConformance` is for what reads a journal's own feed (`brokers.embedded`), `BrokerConformance` for what carries events
between journals (`brokers.port`). What the engine promises is the same on both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, ClassVar

from ....brokers import embedded, port
from ..running import Suite
from .between import Journals, Relaying
from .capabilities import BrokerCapabilities, of_broker, of_feed
from .carried import CarriedSite
from .content import Attributes, Content
from .delivering import Delivering, Publishing
from .ending import Draining, Killed, Pausing
from .fetching import Beginning, Fetching, Settling
from .foreign import Foreign
from .intakes import Intakes
from .order import Bounds, Order
from .replaying import DeadLetters, Replaying
from .retrying import Retrying, Scheduling
from .sending import Claiming, Sending
from .server import Cuts, Server, Topology
from .site import BrokerSite

ENGINE = (
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


class _OnSites(Suite):
    """Each test has a site."""

    capabilities: ClassVar[BrokerCapabilities] = BrokerCapabilities()
    gives = frozenset({"site", "features"})
    features: ClassVar[Any]
    make: Callable[..., Awaitable[Any]]

    @asynccontextmanager
    async def set_up(self, asked: frozenset[str], fixtures: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        site = await self.made(**fixtures)
        await site.open()
        try:
            provided = {"site": site, "features": self.features}
            yield {name: provided[name] for name in asked}
        finally:
            await site.close()


class FeedConformance(_OnSites):
    """Subclass it as `class TestMine(FeedConformance)`; say what it can and how a site of it is made."""

    title = "feed"
    features: ClassVar[embedded.Features]  # what the broker says of itself, to be known before there is one
    groups = (Intakes, *ENGINE)

    # Who subclasses writes `async def make(self, ...)`: it gives a site that nobody has used before. It may ask for
    # any fixture of pytest by its name.
    make: Callable[..., Awaitable[BrokerSite]]

    def declared(self) -> Mapping[str, bool]:
        return of_feed(self.features) | asdict(self.capabilities)


class BrokerConformance(_OnSites):
    """Subclass it as `class TestMine(BrokerConformance)`, with `make` as above, which gives a `CarriedSite` or one like it."""

    title = "broker"
    features: ClassVar[port.Features]
    groups = (Sending, Fetching, Beginning, Settling, Claiming, Foreign, Journals, Relaying, *ENGINE)
    make: Callable[..., Awaitable[CarriedSite]]

    def declared(self) -> Mapping[str, bool]:
        return of_broker(self.features) | asdict(self.capabilities)
