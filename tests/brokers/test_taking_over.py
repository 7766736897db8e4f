"""A relay that takes over reads a position and numbers; if another one leads meanwhile, they are of two moments."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Event, Service, Spine
from eventspine.brokers.memory import Server, server
from eventspine.engine.numbering import Numbering
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import WHOLE_FEED, Done, Fence, Process, Seen, Unit

storefront = Service("storefront", publishes="taken")
LEASE = "relay:taken/0"


class Placed(Event, context="taken", key="customer"):
    customer: str
    number: int


class Meddled(MemoryJournal):
    """Between its reading of the cursor and of the numbers, another process leads, and has sent everything."""

    meddled = False

    async def marks(self, subscription: int, origin: str, channel: str) -> Any:
        if not self.meddled:
            self.meddled = True
            await self._lead_and_leave(subscription, origin, channel)
        return await super().marks(subscription, origin, channel)

    async def _lead_and_leave(self, subscription: int, origin: str, channel: str) -> None:
        tables = self._tables
        tables.leases[LEASE] = tables.leases[LEASE]._replace(owner="", until_us=0)
        now_us = self.clock.now_us()
        other = Process("other", "relay:taken", 1, 0, "elsewhere", now_us, 0, "1.0")
        view = await self.lease(other, [LEASE], [], now_us, now_us + 60_000_000)
        (row,) = [row for row in await self.subscriptions("relay:taken") if row.number == subscription]
        unit = Unit(
            fences=[Fence(LEASE, view.held[LEASE].epoch)],
            done=[Done(subscription, WHOLE_FEED, [(0, len(tables.feed))], row.generation)],
            marks=[Seen(subscription, origin, channel, record.slot, [(0, 1)]) for record in tables.feed],
        )
        (verdict,) = await self.commit([unit])
        assert verdict.ok
        await self.leave(other)


async def sent_after(broker: Server) -> list[tuple[str, int]]:
    """What the relay sends that was led past."""
    journal = Meddled()
    async with Spine(journal, service=storefront) as before:
        first = await before.publish(Placed(customer="ann", number=0))
    async with Spine(journal, service=storefront, broker=f"memory://{broker.name}", lease_s=1.0) as store:
        second = await store.publish(Placed(customer="ann", number=1))
        async with asyncio.timeout(30):
            while not broker.sent or store.health()["broker"]["relays"][0]["behind"]:
                await asyncio.sleep(0.01)
    names = {first.id: "first", second.id: "second"}
    messages = [message for partition in broker.topic("taken") for message in partition]
    return [(names[message.id], int(message.headers["ce_sequence"])) for message in messages]


async def test_it_looks_whether_it_still_leads_and_reads_again() -> None:
    assert await sent_after(server(uuid4().hex)) == [("second", 2)]


async def test_without_the_look_at_its_lease_an_event_goes_out_under_anothers_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def not_looking(self: Any) -> None:
        self.epoch = self._taken_up

    monkeypatch.setattr(Numbering, "prove", not_looking)
    assert ("first", 2) in await sent_after(server(uuid4().hex))
