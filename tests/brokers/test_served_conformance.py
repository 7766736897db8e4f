"""The parts of the suite that need a server: here a memory journal stands in for one, which can be away, or cut off.

It answers as servers do that die: what was on its way may have been stored, and nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventspine import Service
from eventspine.brokers.feed import FeedBroker
from eventspine.errors import JournalError, OutcomeUnknown
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Unit, Verdict
from eventspine.testing.conformance import BrokerCapabilities, EmbeddedSite, FeedConformance
from eventspine.testing.conformance.brokers.server import Server
from eventspine.testing.conformance.brokers.site import Undeclared


class ServedJournal(MemoryJournal):
    """Every call goes to the server first."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = True
        self.passing = asyncio.Event()
        self.passing.set()
        self._unknown = False

    async def reach(self) -> None:
        await self.answer()
        if not self.alive:
            raise JournalError("The server is away.")

    async def answer(self) -> None:
        """As a driver does: it waits for a while, and not for ever."""
        try:
            async with asyncio.timeout(0.5):  # unlike wait_for of Python 3.11, it swallows no cancellation
                await self.passing.wait()
        except TimeoutError:
            raise JournalError("The server does not answer.") from None

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        try:
            await self.answer()
        except JournalError as error:
            return [Verdict("unknown", error=OutcomeUnknown(str(error))) for _ in units]
        if self.alive:
            return await super().commit(units)
        if self._unknown:
            self._unknown = False  # the last that it has heard
            await super().commit(units)
            return [Verdict("unknown", error=OutcomeUnknown("the server went away")) for _ in units]
        return [Verdict("failed", error=JournalError("The server is away.")) for _ in units]

    def kill(self) -> None:
        self.alive, self._unknown = False, True


def _reaching(name: str) -> Any:
    method = getattr(MemoryJournal, name)

    async def call(self: ServedJournal, *given: Any, **options: Any) -> Any:
        await self.reach()
        return await method(self, *given, **options)

    return call


READS = ("feed", "head", "cursors", "deliveries", "starts", "subscriptions", "control_version", "next_due", "leases")
for name in (*READS, "lease", "fire", "control", "register", "keep"):
    setattr(ServedJournal, name, _reaching(name))


class ServedSite(EmbeddedSite):
    def __init__(self) -> None:
        self.journal = ServedJournal()
        super().__init__(lambda: self.journal, shared=False)
        self._applied: set[str] = set()

    async def kill_server(self) -> None:
        self.journal.kill()

    async def start_server(self) -> None:
        self.journal.alive = True

    async def cut(self) -> None:
        self.journal.passing.clear()

    async def mend(self) -> None:
        self.journal.passing.set()

    async def apply_topology(self, *services: Service[Any]) -> Sequence[str]:
        new = [service.name for service in services if service.name not in self._applied]
        self._applied.update(new)
        return new


class TestServedFeed(FeedConformance):
    capabilities = BrokerCapabilities(server=True, cuts=True, topology=True)
    features = FeedBroker(MemoryJournal()).features

    async def make(self) -> ServedSite:
        return ServedSite()


class Undone(Undeclared):
    pass


@pytest.mark.parametrize("call", ["kill_server", "start_server", "cut", "mend", "apply_topology"])
async def test_what_a_site_can_not_do_it_says(call: str):
    with pytest.raises(NotImplementedError, match="do not declare"):
        await getattr(Undone(), call)()


async def test_a_broker_that_never_comes_back_fails_the_suite(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eventspine.testing.conformance.brokers.material.WAIT_S", 0.5)
    monkeypatch.setattr("eventspine.testing.conformance.brokers.server.WAIT_S", 0.5)
    site = ServedSite()

    async def stays_away() -> None:
        pass

    monkeypatch.setattr(site, "start_server", stays_away)
    await site.open()
    with pytest.raises(AssertionError):
        await Server().test_publishing_to_a_server_that_is_away_is_stored_or_says_so(site)
    await site.close()
