"""EventBridge with SQS under the public suite, on one of two emulators.

`Features` are AWS's: what it acknowledged is there after anything. The emulators keep everything in memory and nothing
after their end, so the parts of the suite that kill a server are not declared here: what they would show is that an
emulator has no disk. The network to them is cut all the same.

On moto, which looks through all of a queue for each call, the suite would take an hour; the tests of tests/brokers/eventbridge
are for both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from eventspine.brokers.eventbridge import from_url
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite
from eventspine.testing.servers import Proxy, Server

CAN = BrokerCapabilities(processes=True, cuts=True, topology=True, claims=True)
# Time-outs are long enough for a machine that is busy: an answer that is late is sent for again, and comes twice.
ADDRESS = "eventbridge://key:secret@us-east-1/{bus}?poll_s=1&timeout_s=6&visibility_s=5&entry_bytes_max=600000&partitions={count}&endpoint="


@pytest.fixture
def ministack_network(ministack_server: Server) -> Iterator[Proxy]:
    with ministack_server.proxy() as network:
        yield network


def site(network: Proxy, folder: Path, count: int) -> CarriedSite:
    address = ADDRESS.format(bus=f"b{uuid4().hex[:10]}", count=count)
    return CarriedSite(address + network.url, folder, network=network)


@pytest.mark.setup("eventbridge")
class TestMiniStack(BrokerConformance):
    capabilities = CAN
    features = from_url("eventbridge://us-east-1").features

    async def make(self, ministack_network: Proxy, tmp_path: Path) -> CarriedSite:
        return site(ministack_network, tmp_path, count=2)
