"""EventBridge with SQS under the public suite, on two emulators by different authors.

`Features` are AWS's: what it acknowledged is there after anything. Both emulators keep everything in memory and nothing
after their end, so the parts of the suite that kill a server are not declared here: what they would show is that an
emulator has no disk. The network to them is cut all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from eventspine.brokers.eventbridge import from_url
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite
from eventspine.testing.servers import Proxy, Server

CAN = BrokerCapabilities(processes=True, cuts=True, topology=True, claims=True)
ADDRESS = "eventbridge://key:secret@us-east-1/{bus}?partitions=2&poll_s=1&timeout_s=6&visibility_s=5&entry_bytes_max=600000{options}&endpoint="


@pytest.fixture
def ministack_network(ministack_server: Server) -> Iterator[Proxy]:
    with ministack_server.proxy() as network:
        yield network


@pytest.fixture
def moto_network(moto_server: Server) -> Iterator[Proxy]:
    with moto_server.proxy() as network:
        yield network


def site(network: Proxy, folder: Path, options: str = "") -> CarriedSite:
    address = ADDRESS.format(bus=f"b{uuid4().hex[:10]}", options=options)
    return CarriedSite(address + network.url, folder, network=network)


class TestMiniStack(BrokerConformance):
    capabilities = CAN
    features = from_url("eventbridge://us-east-1").features

    async def make(self, ministack_network: Proxy, tmp_path: Path) -> CarriedSite:
        return site(ministack_network, tmp_path)


class TestMoto(BrokerConformance):
    capabilities = CAN
    features = from_url("eventbridge://us-east-1").features

    async def make(self, moto_network: Proxy, tmp_path: Path) -> CarriedSite:
        return site(moto_network, tmp_path)
