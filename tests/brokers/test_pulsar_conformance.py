"""Pulsar: the public suite on a real server, whose clients come to it through a network that can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers.pulsar import PulsarBroker
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite
from eventspine.testing.servers import Proxy, Server
from tests.brokers.pulsar.material import url_of


@pytest.fixture
def network(pulsar_server: Server) -> Iterator[Proxy]:
    with pulsar_server.proxy() as between:
        yield between


@pytest.mark.setup("pulsar")
class TestPulsar(BrokerConformance):
    capabilities = BrokerCapabilities(processes=True, server=True, cuts=True, full=True, topology=True, claims=True)
    features = open_broker("pulsar://localhost").features

    async def make(self, pulsar_server: Server, network: Proxy, tmp_path: Path) -> CarriedSite:
        return Site(url_of(pulsar_server, network.url), tmp_path, server=pulsar_server, network=network)


class Site(CarriedSite):
    """Full is a topic by its backlog quota: what is kept for a subscription that nobody reads is more than it allows."""

    async def fill(self) -> None:
        await self._admin.make("PUT", f"{self._topic}/subscription/nobody")
        quota = {"limitSize": 1, "limitTime": -1, "policy": "producer_exception"}
        await self._admin.make("POST", f"{self._topic}/backlogQuota?backlogQuotaType=destination_storage", quota)

    async def empty(self) -> None:
        await self._admin.make("DELETE", f"{self._topic}/backlogQuota?backlogQuotaType=destination_storage")

    @property
    def _admin(self) -> Admin:
        assert isinstance(self._own, PulsarBroker)
        return Admin(self._own.settings)

    @property
    def _topic(self) -> str:
        assert isinstance(self._own, PulsarBroker)
        return topic_path(self._own.settings.topic("talk"))
