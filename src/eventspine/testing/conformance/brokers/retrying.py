"""Attempts: counted, spaced, survived by restarts, and ended; events that are due later."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from ....delivery import Delivery
from ....errors import RetryAfter
from ....policies import Retry
from ....service import Service
from .material import SOON, Log, Said, listener, listening, record, say, speaking, until, until_rows
from .site import BrokerSite

DELAY_S = 0.3
LATE_S = 20.0  # generous: machines are slow at times


class Retrying:
    async def test_what_fails_is_tried_again_and_the_attempts_count_up(self, site: BrokerSite) -> None:
        log = Log()
        service: Service[None] = Service("listener")

        @service.on(Said, retry=SOON)
        async def hear(event: Said, delivery: Delivery) -> None:
            log.note(event, delivery)
            if delivery.attempt < 4:
                raise ConnectionError("not yet")

        async with speaking(site) as spine, listening(site, service):
            await say(spine, [1])
            await until(lambda: len(log.attempts) == 4)
        assert [1, 2, 3, 4] == log.attempts
        assert 1 == len(set(log.keys)), "all attempts have one idempotency key"

    async def test_attempts_go_on_counting_after_a_restart(self, site: BrokerSite) -> None:
        log = Log()
        service: Service[None] = Service("listener")

        @service.on(Said, retry=Retry(attempts=20, immediate=0, first_s=0.2, factor=1.0, most_s=0.2))
        async def hear(event: Said, delivery: Delivery) -> None:
            log.note(event, delivery)
            if delivery.attempt < 5:
                raise ConnectionError("not yet")

        async with speaking(site) as spine:
            await say(spine, [1])
            while not log.attempts or log.attempts[-1] < 5:
                before = len(log.attempts)
                async with listening(site, service):
                    await until(lambda: len(log.attempts) > before)  # noqa: B023 -- waited for within the loop
        assert [1, 2, 3, 4, 5] == log.attempts

    async def test_the_next_attempt_is_not_early_and_not_much_later(self, site: BrokerSite) -> None:
        log = Log()
        service: Service[None] = Service("listener")

        @service.on(Said)
        async def hear(event: Said, delivery: Delivery) -> None:
            log.note(event)
            if delivery.attempt < 3:
                raise RetryAfter(DELAY_S)

        async with speaking(site) as spine, listening(site, service):
            await say(spine, [1])
            await until(lambda: len(log.times) == 3)
        waits = [later - before for before, later in zip(log.times, log.times[1:], strict=False)]
        assert all(DELAY_S - 0.01 <= wait < DELAY_S + LATE_S for wait in waits), waits

    async def test_after_the_last_attempt_it_is_dead_with_its_reason_and_its_key_goes_on(
        self, site: BrokerSite
    ) -> None:
        log = Log()
        service: Service[None] = Service("listener")

        @service.on(Said, retry=Retry(attempts=3, immediate=0, first_s=0.02, factor=1.0, most_s=0.02))
        async def hear(event: Said, delivery: Delivery) -> None:
            log.note(event, delivery)
            if event.number == 1:
                raise ConnectionError("no route to the moon")

        async with speaking(site) as spine, listening(site, service) as there:
            await say(spine, [1, 2])
            [dead] = await until_rows(there, "dead", 1)
            await until(lambda: 2 in log.of("ann"))
        assert (3, "ConnectionError", "ann") == (dead.attempts, dead.reason, dead.key)
        assert "no route to the moon" in dead.error
        assert dead.first_us <= dead.last_us
        assert dead.record is not None
        assert b'"number":1' in dead.record.data

    async def test_what_can_not_be_decoded_is_dead_and_the_others_go_on(self, site: BrokerSite) -> None:
        log = Log()
        bad = record(1, data=b"\xff{not json")
        await site.publish(bad, record(2), record(3, key="bob", data=b'{"who":5}'), record(4))
        async with listening(site, listener(log)) as there:
            dead = await until_rows(there, "dead", 2)
            await until(lambda: log.of("ann") == [2, 4])
        assert {"undecodable"} == {row.reason for row in dead}
        assert bad.data in [row.record.data for row in dead if row.record is not None], "its bytes are kept"


class Scheduling:
    async def test_an_event_for_later_is_not_early_and_comes_once(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            before = time.monotonic()
            await spine.publish(Said(who="ann", number=1), after=timedelta(seconds=DELAY_S))
            await until(lambda: log.handled)
            await say(spine, [2])
            await until(lambda: len(log.handled) == 2)
        assert [1, 2] == log.of("ann")
        assert DELAY_S - 0.01 <= log.times[0] - before < DELAY_S + LATE_S

    async def test_it_survives_that_nobody_was_there_when_it_was_due(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine:
            later = await spine.publish(Said(who="ann", number=1), after=timedelta(seconds=0.02))
        due = later.due
        assert due is not None
        await until(lambda: datetime.now(UTC) > due)
        async with speaking(site), listening(site, listener(log)):
            await until(lambda: log.of("ann") == [1])

    async def test_what_was_cancelled_does_not_come(self, site: BrokerSite) -> None:
        log = Log()
        async with speaking(site) as spine, listening(site, listener(log)):
            gone = await spine.publish(Said(who="ann", number=1), after=timedelta(seconds=DELAY_S))
            await spine.publish(Said(who="ann", number=2), after=timedelta(seconds=DELAY_S))
            assert 1 == await spine.cancel(gone)
            await until(lambda: log.of("ann") == [2])
            assert 0 == await spine.cancel(gone)
