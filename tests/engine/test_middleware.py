"""Middleware: one protocol around publishing and handling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventspine import Delivery, Middleware, Service, Spine

from .material import ONCE, Broken, Mailed, Placed, Store, dead, until


class Noting(Middleware):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    async def handle(self, event: Any, delivery: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        self.seen.append(f"{self.name} before {type(event).__name__}")
        try:
            return await proceed()
        finally:
            self.seen.append(f"{self.name} after {type(event).__name__}")

    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        attributes[self.name] = f"{self.name} saw {type(event).__name__}"
        self.seen.append(f"{self.name} publishes {type(event).__name__}")
        return proceed()


@pytest.mark.parametrize("threaded", [False, True])
async def test_the_spines_is_outside_the_services_around_both(store: Store, threaded: bool) -> None:
    seen: list[str] = []
    service = Service("email", middleware=[Noting("inner", seen)])

    async def confirm(event: Placed) -> Mailed:
        seen.append("handler")
        return Mailed()

    def confirm_in_a_thread(event: Placed) -> Mailed:
        seen.append("handler")
        return Mailed()

    service.on(Placed)(confirm_in_a_thread if threaded else confirm)
    async with store.spine(middleware=[Noting("outer", seen)]) as spine:
        await spine.publish(Placed())
        async with spine.running(service):

            async def published() -> bool:
                return await spine.journal.head() == 2

            await until(published)
        record = (await spine.journal.feed(1, limit=1)).records[0]
    assert seen == [
        "outer publishes Placed",
        "outer before Placed",
        "inner before Placed",
        "handler",
        "outer publishes Mailed",
        "inner publishes Mailed",
        "inner after Placed",
        "outer after Placed",
    ]
    from eventspine import Envelope

    attributes = Envelope(record).attributes()
    assert (attributes["outer"], attributes["inner"]) == ("outer saw Mailed", "inner saw Mailed")


async def test_attributes_travel_beside_the_trace(store: Store) -> None:
    from eventspine import Envelope, correlate

    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with store.spine(middleware=[Noting("outer", [])]) as spine:
        with correlate("request", traceparent=trace):
            await spine.publish(Placed())
        envelope = Envelope((await spine.journal.feed(0, limit=1)).records[0])
    assert envelope.extensions["outer"] == "outer saw Placed"
    assert envelope.traceparent.split("-")[1] == trace.split("-")[1]


class Refusing(Middleware):
    async def handle(self, event: Any, delivery: Delivery, proceed: Callable[[], Awaitable[Any]]) -> Any:
        result = await proceed()
        if delivery.attempt == 1:
            raise Broken("not now")
        return result


async def test_raising_fails_the_attempt(spine: Spine) -> None:
    service = Service("email", middleware=[Refusing()])

    @service.on(Placed, retry=ONCE)
    async def confirm(event: Placed) -> Mailed:
        return Mailed()

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert row.error == "Broken: not now"
    assert await spine.journal.head() == 1


class Forbidding(Middleware):
    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        raise Broken("no personal data")


async def test_publishing_can_be_refused(store: Store) -> None:
    async with store.spine(middleware=[Forbidding()]) as spine:
        with pytest.raises(Broken):
            await spine.publish(Placed())
        assert await spine.journal.head() == 0
