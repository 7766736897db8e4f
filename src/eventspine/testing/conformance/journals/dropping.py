"""What is dropped of a subscription with order="feed", whose cursor stands before what waits or is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from ....journal.port import (
    WHOLE_FEED,
    Append,
    Change,
    Delivery,
    Done,
    Drop,
    Fence,
    Journal,
    Put,
    Replay,
    Rewind,
    StartMark,
    Subscription,
    Unit,
)
from .material import (
    START_US,
    commit,
    cursor,
    event,
    events,
    finished,
    handler,
    one_subscription,
    park,
    parked,
    process,
    publish,
    reload,
    start,
)


async def whole(journal: Journal, count: int = 9) -> Subscription:
    mine = await one_subscription(journal, order="feed", on_dead="waits")
    await publish(journal, *events(count))
    return mine


def waiting(subscription: Subscription, position: int, **given: Any) -> Put:
    return parked(subscription, event(position=position), partition=WHOLE_FEED, **given)


async def waits(journal: Journal, subscription: Subscription, position: int, **given: Any) -> Delivery:
    return await park(journal, waiting(subscription, position, **given))


async def come_to(journal: Journal, subscription: Subscription, *ranges: tuple[int, int]) -> None:
    assert "done" == (await commit(journal, done=[of_feed(subscription, *ranges)])).kind


def of_feed(subscription: Subscription, *ranges: tuple[int, int]) -> Done:
    return finished(subscription, *ranges, partition=WHOLE_FEED)


async def stands(journal: Journal, subscription: Subscription) -> tuple[int, list[tuple[int, int]]]:
    return await cursor(journal, subscription, WHOLE_FEED)


def handled(row: Delivery, *ranges: tuple[int, int], of: Subscription) -> Unit:
    """What an owner commits who was at work with it."""
    return Unit([Append([event()])], changes=[Change(row.number, "settled")], done=[of_feed(of, *ranges)])


class Dropping:
    @pytest.mark.parametrize("state", ["dead", "parked"])
    async def test_what_is_dropped_is_finished(self, journal: Journal, state: Any) -> None:
        """Whoever loads the cursor from now on passes it, though nobody runs who would say so."""
        mine = await whole(journal)
        await come_to(journal, mine, (0, 3))
        row = await waits(journal, mine, 4, state=state)
        assert 1 == await journal.control([Drop([row.number, row.number, 999])])
        assert (4, []) == await stands(journal, mine)
        assert 0 == await journal.control([Drop([row.number])])
        assert (4, []) == await stands(journal, mine)

    async def test_what_lies_before_it_is_not(self, journal: Journal) -> None:
        """It was passed, since nobody wanted it; by now a wider filter may."""
        mine = await whole(journal)
        await come_to(journal, mine, (0, 2))
        row = await waits(journal, mine, 5, state="dead")
        await journal.control([Drop([row.number])])
        assert (2, [(4, 5)]) == await stands(journal, mine)

    async def test_who_runs_is_not_fenced_and_passes_it(self, journal: Journal) -> None:
        mine = await whole(journal)
        await come_to(journal, mine, (0, 2))
        row = await waits(journal, mine, 5, state="dead")
        await journal.control([Drop([row.number])])
        assert mine == await reload(journal, mine)
        await come_to(journal, mine, (2, 5))
        assert (5, []) == await stands(journal, mine)
        await come_to(journal, mine, (5, 7))
        assert (7, []) == await stands(journal, mine)

    async def test_who_was_at_work_with_it_applies_nothing(self, journal: Journal) -> None:
        mine = await whole(journal)
        await come_to(journal, mine, (0, 2))
        row = await waits(journal, mine, 5)
        await commit(journal, starts=[StartMark(mine.number, WHOLE_FEED, 5)])
        await journal.control([Drop([row.number])])
        unit = handled(row, (2, 5), of=mine)
        unit.starts.append(StartMark(mine.number, WHOLE_FEED, 5, times=0))
        assert "repeated" == (await commit(journal, unit)).kind
        assert 9 == await journal.head()
        assert (5, []) == await stands(journal, mine), "what it has passed is news all the same"
        assert {} == await journal.starts(mine.number)
        assert ["dropped"] == [row.reason for row in await journal.deliveries(states=["settled"])]

    async def test_who_stood_at_it_and_does_not_know_puts_no_row_anew(self, journal: Journal) -> None:
        """Its answer was lost, or it has read the cursor before."""
        mine = await whole(journal)
        row = await waits(journal, mine, 5)
        lease = (await journal.lease(process("p1"), ["a"], [], START_US, START_US + 1)).held["a"]
        unit = Unit(fences=[Fence("a", lease.epoch)], puts=[waiting(mine, 5, attempts=2)])
        assert ("done", [row.number]) == ((verdict := await commit(journal, unit)).kind, verdict.numbers)
        await journal.control([Drop([row.number])])
        assert ("repeated", [row.number]) == ((verdict := await commit(journal, unit)).kind, verdict.numbers)
        assert [("settled", 2)] == [(row.state, row.attempts) for row in await journal.deliveries()]

    async def test_who_was_to_park_it_again_is_fenced(self, journal: Journal) -> None:
        mine = await whole(journal)
        row = await waits(journal, mine, 5)
        await journal.control([Drop([row.number])])
        assert "fenced" == (await commit(journal, changes=[Change(row.number, "parked", attempts=2)])).kind

    async def test_a_run_that_it_was_part_of_is_fenced(self, journal: Journal) -> None:
        mine = await whole(journal)
        row = await waits(journal, mine, 1)
        await journal.control([Drop([row.number])])
        assert "fenced" == (await commit(journal, handled(row, (0, 1), (1, 2), of=mine))).kind
        assert (1, []) == await stands(journal, mine)

    async def test_several_of_several_subscriptions(self, journal: Journal) -> None:
        both = (await start(journal, handler("email.a", order="feed"), handler("email.b", order="feed"))).subscriptions
        await publish(journal, *events(9))
        numbers = [(await waits(journal, row, at)).number for at in (7, 2, 1, 5, 6) for row in both]
        assert 9 == await journal.control([Drop(numbers[1:5]), Drop(numbers[5:])])
        assert (2, [(4, 6)]) == await stands(journal, both[0])
        assert (2, [(4, 7)]) == await stands(journal, both[1])

    async def test_one_that_the_cursor_has_passed_moves_nothing(self, journal: Journal) -> None:
        mine = await whole(journal)
        row = await waits(journal, mine, 3, state="dead")
        await come_to(journal, mine, (0, 6))
        await journal.control([Replay([row.number]), Drop([row.number])])
        assert (6, []) == await stands(journal, mine)

    async def test_one_that_is_replayed_is_not_finished(self, journal: Journal) -> None:
        mine = await whole(journal)
        row = await waits(journal, mine, 1, state="dead")
        await journal.control([Replay([row.number])])
        assert (0, []) == await stands(journal, mine)
        assert "done" == (await commit(journal, handled(row, (0, 1), of=mine))).kind
        assert (1, []) == await stands(journal, mine)
        assert 10 == await journal.head()

    async def test_one_that_is_neither_dead_nor_parked_is_left(self, journal: Journal) -> None:
        mine = await whole(journal)
        rows: list[Delivery] = [
            await waits(journal, mine, 1, state="held"),
            await waits(journal, mine, 2, state="settled"),
        ]
        assert 0 == await journal.control([Drop([row.number for row in rows])])
        assert (0, []) == await stands(journal, mine)

    async def test_of_a_key_or_of_another_feed_no_cursor_moves(self, journal: Journal) -> None:
        """There the cursor has passed what was parked; the numbers of another feed are not of ours."""
        mine, keyed = (await start(journal, handler("email.a", order="feed"), handler("email.b"))).subscriptions
        await publish(journal, *events(9))
        rows = [
            await waits(journal, mine, 1, feed="kafka:c"),
            await park(journal, parked(keyed, event(position=1))),
            await waits(journal, keyed, 2),
        ]
        before = await journal.cursors([mine.number, keyed.number])
        assert 3 == await journal.control([Drop([row.number for row in rows])])
        assert before == await journal.cursors([mine.number, keyed.number])

    async def test_after_a_rewind_it_is_new(self, journal: Journal) -> None:
        """Its settled row stays, for those who look where it went; what is finished is told by the cursor alone."""
        mine = await whole(journal)
        await come_to(journal, mine, (0, 2))
        row = await waits(journal, mine, 5, state="dead")
        await journal.control([Drop([row.number])])
        await journal.control([Rewind(mine.number, 2)])
        assert (2, []) == await stands(journal, mine)
        again = await reload(journal, mine)
        verdict = await commit(journal, appends=[Append([event()])], done=[of_feed(again, (2, 5))])
        assert "done" == verdict.kind
        assert (5, []) == await stands(journal, mine)

    async def test_beside_an_owner_who_goes_on_nothing_is_lost(self, journal: Journal, other: Journal) -> None:
        """Both move the same cursor."""
        mine = await whole(journal, 40)
        rows = [await waits(journal, mine, at) for at in range(1, 41, 2)]

        async def go_on(each: Journal, positions: Sequence[int]) -> None:
            for at in positions:
                await come_to(each, mine, (at - 1, at))

        async def drop(each: Journal, some: Sequence[Delivery]) -> None:
            for row in some:
                assert 1 == await each.control([Drop([row.number])])

        await asyncio.gather(
            go_on(journal, range(2, 41, 4)),
            go_on(other, range(4, 41, 4)),
            drop(journal, rows[::2]),
            drop(other, rows[1::2]),
        )
        assert (40, []) == await stands(journal, mine)
