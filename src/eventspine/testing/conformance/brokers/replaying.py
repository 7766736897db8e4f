"""Dead letters that are looked at, replayed and dropped; and history handled again beside what is live."""

from __future__ import annotations

import time

from ....delivery import Delivery
from ....journal.port import Drop, Replay, Rewind
from ....policies import Dead
from ....service import Service
from ..running import needs
from .material import (
    Heard,
    Log,
    Said,
    effect,
    heard,
    listener,
    listening,
    rows,
    say,
    speaking,
    subscription,
    until,
    until_heard,
    until_rows,
)
from .site import BrokerSite


class Failing:
    """A service whose handler gives up at some numbers, until it is mended."""

    def __init__(self) -> None:
        self.log = Log()
        self.late: list[int] = []
        self.tries = 0
        self.mended = False
        self.service: Service[None] = Service("listener", publishes="hearing")

        @self.service.on(Said, errors={ValueError: Dead})
        async def hear(event: Said, delivery: Delivery) -> None:
            self.tries += 1
            if event.number % 5 == 0 and not self.mended:
                raise ValueError(f"{event.number} is round")
            self.log.note(event)
            self.late += [event.number] if delivery.late else []
            effect(delivery, event)


class DeadLetters:
    async def test_they_are_found_by_subscription_and_by_event(self, site: BrokerSite) -> None:
        failing = Failing()
        async with speaking(site) as spine, listening(site, failing.service, listener(Log(), "other")) as there:
            receipts = await say(spine, range(10))
            await until_rows(there, "dead", 2)
            mine = await subscription(there, "listener.hear")
            assert 2 == len(await there.journal.deliveries(subscriptions=[mine.number], states=["dead"]))
            [row] = await there.journal.deliveries(events=[receipts[5].event_id], states=["dead"])
            assert ("ValueError", 1) == (row.reason, row.attempts)
            assert "5 is round" in row.error

    async def test_a_replayed_one_is_handled_late_and_once(self, site: BrokerSite) -> None:
        failing = Failing()
        async with speaking(site) as spine, listening(site, failing.service) as there:
            await say(spine, range(10))
            dead = await until_rows(there, "dead", 2)
            await until_heard(there, 8)
            failing.mended = True
            numbers = [row.number for row in dead]
            assert 2 == await there.journal.control([Replay([*numbers, *numbers])])
            assert 0 == await there.journal.control([Replay(numbers)]), "asking again is no harm"
            found = await until_heard(there, 10)
            await until_rows(there, "dead", 0)
        assert {1} == set(found.values())
        assert [0, 5] == failing.late

    async def test_one_that_fails_again_is_dead_again(self, site: BrokerSite) -> None:
        failing = Failing()
        async with speaking(site) as spine, listening(site, failing.service) as there:
            await say(spine, [5])
            [first] = await until_rows(there, "dead", 1)
            await there.journal.control([Replay([first.number])])
            await until(lambda: failing.tries == 2, "another attempt")
            [again] = await until_rows(there, "dead", 1)
            assert again.record is not None
            assert first.record is not None
            assert again.record.id == first.record.id

    async def test_a_dropped_one_never_comes_back(self, site: BrokerSite) -> None:
        failing = Failing()
        async with speaking(site) as spine, listening(site, failing.service) as there:
            await say(spine, range(6))
            dead = await until_rows(there, "dead", 2)
            assert 1 == await there.journal.control([Drop([dead[0].number])])
            failing.mended = True
            await there.journal.control([Replay([row.number for row in dead])])
            found = await until_heard(there, 5)
            assert [] == await rows(there, "dead")
        assert ("ann", 0) not in found


class Replaying:
    @needs("rewinds")
    async def test_history_is_handled_again_from_a_position_and_nobody_else_notices(self, site: BrokerSite) -> None:
        again, live = Log(), Log()
        async with speaking(site) as spine, listening(site, listener(again), listener(live, "live")) as there:
            await say(spine, range(20))
            await until(lambda: len(again.handled) == len(live.handled) == 20)
            mine = await subscription(there, "listener.hear")
            await there.journal.control([Rewind(mine.number, again.positions[11])])
            await until(lambda: len(again.handled) == 20 + 8)
            await say(spine, [20])
            await until(lambda: len(again.handled) == 20 + 8 + 1 and len(live.handled) == 21)
        assert [*range(20), *range(12, 21)] == again.of("ann")
        assert list(range(21)) == live.of("ann")

    @needs("rewinds")
    async def test_and_from_a_time(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)) as there:
            await say(spine, range(3))
            await until(lambda: len(log.handled) == 3)
            time_us = time.time_ns() // 1000 + 1
            await until(lambda: time.time_ns() // 1000 > time_us)
            await say(spine, range(3, 6))
            await until(lambda: len(log.handled) == 6)
            mine = await subscription(there, "listener.hear")
            await there.journal.control([Rewind(mine.number, await there.journal.position_at(time_us))])
            await until(lambda: len(log.handled) == 9)
        assert [*range(6), *range(3, 6)] == log.of("ann")

    @needs("rewinds")
    async def test_what_was_published_by_handlers_is_not_published_again_unless_asked_for(
        self, site: BrokerSite
    ) -> None:
        log = Log()
        service: Service[None] = Service("listener", publishes="hearing")

        @service.on(Said)
        async def hear(event: Said) -> Heard:
            log.note(event)
            return Heard(who=event.who, number=event.number)

        async with speaking(site) as spine, listening(site, service) as there:
            await say(spine, range(5))
            await until_heard(there, 5)
            mine = await subscription(there, "listener.hear")
            await there.journal.control([Rewind(mine.number, 0)])
            await until(lambda: len(log.handled) == 10)
            await say(spine, [5])
            assert {1} == set((await until_heard(there, 6)).values())
            await there.journal.control([Rewind(mine.number, 0, "again")])
            assert 12 == sum((await until_heard(there, 12)).values())
            assert {2} == set((await heard(there)).values())
