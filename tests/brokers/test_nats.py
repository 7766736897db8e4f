"""NATS JetStream: the public suite on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.brokers import nats
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite, apart
from eventspine.testing.servers import Proxy, Server


@pytest.fixture
def network(nats_server: Server) -> Iterator[Proxy]:
    with nats_server.proxy() as proxy:
        yield proxy


class TestNats(BrokerConformance):
    capabilities = BrokerCapabilities(processes=True, server=True, cuts=True, topology=True, claims=True)
    features = nats.from_url("nats://localhost").features

    async def make(self, nats_server: Server, network: Proxy, tmp_path: Path) -> CarriedSite:
        return CarriedSite(apart(network.url + "/?partitions=4"), tmp_path, server=nats_server, network=network)
