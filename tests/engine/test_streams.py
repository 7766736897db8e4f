"""Events in streams, among others (R2): a stream's version is no place in the feed, and nobody takes it for one."""

from __future__ import annotations

from typing import Any

from eventspine import Service
from eventspine.journal.port import Append, Unit

from .material import SHOP, Placed, Store, until


async def test_r2_a_streams_first_version_is_handled_after_five_published_events_of_its_key(store: Store) -> None:
    service: Service[Any] = Service("mail")
    handled: list[int] = []

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.number)

    async with store.spine() as spine, spine.running(service):
        for number in range(5):
            await spine.publish(Placed(customer="42", number=number))
        (record,) = spine.records([Placed(customer="42", number=5)], cause=None, time=None, id=None)
        unit = Unit(appends=[Append([record], service=SHOP.name, stream="order-42", expected=0)])
        (verdict,) = await spine.journal.commit([unit])
        await spine.publish(Placed(customer="42", number=6))
        await until(lambda: 7 == len(handled))

    assert ([6], [1]) == (verdict.positions, verdict.versions)
    assert list(range(7)) == handled
