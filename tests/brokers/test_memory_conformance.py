"""The memory broker, in its three kinds: the public suite, without any server."""

from __future__ import annotations

from uuid import uuid4

from eventspine.brokers import memory
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite


class MemorySite(CarriedSite):
    def __init__(self, options: str = "") -> None:
        self.server = memory.server(uuid4().hex)
        super().__init__(f"memory://{self.server.name}{options}")

    async def kill_server(self) -> None:
        self.server.stop()

    async def start_server(self) -> None:
        self.server.restart()


CAN = BrokerCapabilities(server=True, topology=True, claims=True)


class TestMemoryLog(BrokerConformance):
    capabilities = CAN
    features = memory.from_url("memory://log").features

    async def make(self) -> MemorySite:
        return MemorySite()


class TestMemoryQueue(BrokerConformance):
    capabilities = CAN
    features = memory.from_url("memory://queue?kind=queue").features

    async def make(self) -> MemorySite:
        return MemorySite("?kind=queue")


class TestMemoryQueueWithoutOrder(BrokerConformance):
    capabilities = CAN
    features = memory.from_url("memory://queue?kind=queue&order=none").features

    async def make(self) -> MemorySite:
        return MemorySite("?kind=queue&order=none")
