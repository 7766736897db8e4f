"""What a broker hands out twice is found by its number, and by its id. Without both, histories show it
(`tests.simulate.ablations`); without the look at ids alone nothing does."""

from __future__ import annotations

import pytest

from eventspine import Spine
from eventspine.brokers.memory import Server
from tests.brokers.test_carrying import Heard, Placed, broker, inventory, storefront, to, until
from tests.simulate import carried

__all__ = ["broker"]  # the fixture


async def handled(broker: Server) -> list[int]:
    """Twenty events, of which the broker stores some twice since its first answers are lost; then one more."""
    heard = Heard()
    broker.lose_answers = 2
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        for number in range(20):
            await store.publish(Placed(customer="ann", number=number))
        await until(lambda: broker.lose_answers == 0 and store.health()["broker"]["relays"][0]["behind"] == 0)
        await store.publish(Placed(customer="ann", number=20))
        await until(lambda: 20 in heard.of("ann"))
        assert broker.sent > 21
        return heard.of("ann")


async def test_without_ids_numbers_are_enough(broker: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    carried.ids_not_looked_at(monkeypatch)
    assert await handled(broker) == list(range(21))
