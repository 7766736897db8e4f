"""Kafka: the public suite on a real server, whose clients come to it through a network that can be cut.

It is not declared `full`: no topic of Kafka ever is. It deletes what is old when there is too much of it, which `spine doctor` says,
and a server whose disk is full ends, which is a server that is killed. A quota makes it slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventspine.brokers import kafka
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite, apart
from eventspine.testing.servers import Server
from eventspine.testing.servers.proxy import Proxy

pytestmark = pytest.mark.timeout(400)
OPTIONS = "/?partitions=4&session_s=6&timeout_s=4"


@pytest.fixture
def network(kafka_server: Server) -> Iterator[Proxy]:
    with kafka_server.proxy() as proxy:
        yield proxy


@pytest.mark.setup("kafka")
class TestKafka(BrokerConformance):
    limit_s = 300.0  # on a busy machine Kafka takes twenty seconds to start, and in some tests does so three times
    capabilities = BrokerCapabilities(processes=True, server=True, cuts=True, topology=True, claims=True)
    features = kafka.from_url("kafka://localhost").features

    async def make(self, kafka_server: Server, network: Proxy, tmp_path: Path) -> CarriedSite:
        return CarriedSite(apart(network.url + OPTIONS), tmp_path, server=kafka_server, network=network)
