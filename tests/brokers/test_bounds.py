"""The bounds in bytes, turned off: the public suite finds that each of them is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventspine.brokers import _nats_intake, memory
from eventspine.engine.subscription import WINDOW, Subscription
from eventspine.journal.memory import MemoryJournal
from eventspine.testing.conformance import CarriedSite, EmbeddedSite, apart
from eventspine.testing.conformance.brokers.fetching import Fetching
from eventspine.testing.conformance.brokers.intakes import Intakes
from eventspine.testing.conformance.brokers.order import Bounds
from eventspine.testing.conformance.brokers.site import BrokerSite
from eventspine.testing.servers import Server
from tests.brokers.test_memory_conformance import MemorySite

pytestmark = pytest.mark.timeout(200)
NO_BOUND = 10**9


@asynccontextmanager
async def opened(site: BrokerSite) -> AsyncIterator[BrokerSite]:
    await site.open()
    try:
        yield site
    finally:
        await site.close()


async def test_without_a_bound_on_what_a_handler_has_in_memory_the_suite_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Subscription, "capacity", property(lambda self: WINDOW - self.lanes.size))
    async with opened(EmbeddedSite(MemoryJournal, shared=False)) as site:
        with pytest.raises(AssertionError, match="in_memory"):
            await Bounds().test_what_a_handler_has_in_memory_is_bounded_in_bytes(site, monkeypatch)


async def test_without_a_bound_on_a_page_of_the_feed_the_suite_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eventspine.journal.memory.PAGE_BYTES_MAX", NO_BOUND)
    site = EmbeddedSite(MemoryJournal, shared=False)
    async with opened(site):
        with pytest.raises(AssertionError, match=r"<= \(16 \* "):
            await Intakes().test_a_fetch_gives_some_megabytes_at_most(site)


@pytest.mark.parametrize("options", ["", "?kind=queue"])
async def test_without_a_bound_on_a_fetch_the_suite_fails(options: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "FETCH_BYTES", NO_BOUND)
    site = MemorySite(options)
    async with opened(site):
        with pytest.raises(AssertionError, match="< 8000000"):
            await Fetching().test_a_fetch_gives_some_megabytes_at_most(site)


async def test_without_a_bound_on_what_comes_before_it_is_fetched_the_suite_fails(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_nats_intake, "PULL_BYTES", NO_BOUND)
    with nats_server.proxy() as network:
        site = CarriedSite(apart(network.url + "/?partitions=4"), network=network)
        async with opened(site):
            with pytest.raises(AssertionError, match="< 32000000"):
                await Fetching().test_what_it_takes_before_it_is_fetched_is_bounded_in_bytes(site)
