"""Marks: numbers of other origins, folded as cursors are. Reordering is not duplication (R1)."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from ....journal.port import (
    Append,
    Change,
    Done,
    Fence,
    Journal,
    Rewind,
    Seen,
    SetState,
    Statement,
    Subscription,
    Timer,
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
    publish_to,
    start,
)

ORIGIN = "5f0c:1"


def seen(subscription: Subscription, *ranges: tuple[int, int], slot: int = 7, origin: str = ORIGIN) -> Seen:
    return Seen(subscription.number, origin, "orders", slot, ranges)


def number(subscription: Subscription, n: int, **given: Any) -> Seen:
    return seen(subscription, (n - 1, n), **given)


async def mark(journal: Journal, subscription: Subscription, slot: int = 7) -> tuple[int, list[tuple[int, int]]]:
    upto, beyond = (await journal.marks(subscription.number, ORIGIN, "orders")).get(slot, (0, []))
    return upto, list(beyond)


class Marks:
    @pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
    async def test_r1_reordering_is_not_duplication(self, journal: Journal, order: tuple[int, ...]) -> None:
        """A highest number seen would lose 1 and 2 after 3."""
        mine = await one_subscription(journal)
        verdicts = [await commit(journal, appends=[Append([event()])], marks=[number(mine, n)]) for n in order]
        assert ["done"] * 3 == [verdict.kind for verdict in verdicts]
        assert (3, []) == await mark(journal, mine)
        assert 3 == await journal.head()

    async def test_r1_within_one_group_too(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        units = [Unit([Append([event()])], marks=[number(mine, n)]) for n in (3, 1, 2, 1, 3)]
        verdicts = await journal.commit(units)
        assert ["done", "done", "done", "repeated", "repeated"] == [verdict.kind for verdict in verdicts]
        assert (3, []) == await mark(journal, mine)

    async def test_a_hole_stays_open(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await journal.commit([Unit(marks=[number(mine, n)]) for n in (1, 2, 5, 4, 9)])
        assert (2, [(3, 5), (8, 9)]) == await mark(journal, mine)
        await commit(journal, marks=[number(mine, 3)])
        assert (5, [(8, 9)]) == await mark(journal, mine)

    async def test_who_begins_in_mid_course_finishes_what_was_before(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, marks=[seen(mine, (0, 41), (41, 42))])
        assert (42, []) == await mark(journal, mine)
        assert "repeated" == (await commit(journal, appends=[Append([event()])], marks=[number(mine, 7)])).kind

    async def test_a_subscription_has_one_per_origin_channel_and_slot(self, journal: Journal) -> None:
        one, two = (await start(journal, handler("email.a"), handler("email.b"))).subscriptions
        await commit(
            journal,
            marks=[
                number(one, 1),
                number(one, 1, slot=8),
                seen(one, (1, 2), slot=959),
                seen(one, (0, 5), origin="5f0c:2"),
                seen(one, (0, 6))._replace(channel="billing"),
                seen(two, (0, 7)),
            ],
        )
        assert {7: (1, []), 8: (1, []), 959: (0, [(1, 2)])} == await journal.marks(one.number, ORIGIN, "orders")
        assert {7: (5, [])} == await journal.marks(one.number, "5f0c:2", "orders")
        assert {7: (6, [])} == await journal.marks(one.number, ORIGIN, "billing")
        assert {7: (7, [])} == await journal.marks(two.number, ORIGIN, "orders")
        assert {} == await journal.marks(two.number, ORIGIN, "billing")

    async def test_what_one_subscription_has_finished_another_has_not(self, journal: Journal) -> None:
        one, two = (await start(journal, handler("email.a"), handler("email.b"))).subscriptions
        for each in (one, two):
            assert "done" == (await commit(journal, appends=[Append([event()])], marks=[number(each, 1)])).kind

    async def test_they_outlive_who_wrote_them(self, journal: Journal, other: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, marks=[number(mine, 2)])
        assert {7: (0, [(1, 2)])} == await other.marks(mine.number, ORIGIN, "orders")
        assert "repeated" == (await commit(other, appends=[Append([event()])], marks=[number(mine, 2)])).kind


class MarksOfRefusedUnits:
    async def test_r3_a_unit_that_fails_leaves_no_mark(self, journal: Journal) -> None:
        """Of 1, 2, 3 in one group the second is refused: the mark may not pass it."""
        mine = await one_subscription(journal)
        await publish_to(journal, "o-1", event())
        units = [Unit([Append([event()])], marks=[number(mine, n)]) for n in (1, 2, 3)]
        units[1].appends.append(Append([event()], "orders", "o-1", 0))
        assert ["done", "conflict", "done"] == [verdict.kind for verdict in await journal.commit(units)]
        assert (1, [(2, 3)]) == await mark(journal, mine)

        units[1].appends.pop()
        assert ["done"] == [verdict.kind for verdict in await journal.commit(units[1:2])]
        assert (3, []) == await mark(journal, mine)

    async def test_nor_does_one_whose_statement_fails(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        unit = Unit(statements=[Statement("insert into no_such_table values (1)", {})], marks=[number(mine, 1)])
        assert "failed" == (await commit(journal, unit)).kind
        assert (0, []) == await mark(journal, mine)

    async def test_nor_one_that_lost_its_lease(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        stale = Unit(fences=[Fence("lost", 1)], marks=[number(mine, 1)])
        verdicts = await journal.commit([stale, Unit(marks=[number(mine, 2)])])
        assert ["fenced", "done"] == [verdict.kind for verdict in verdicts]
        assert (0, [(1, 2)]) == await mark(journal, mine)

    async def test_r13_nor_one_of_another_generation(self, journal: Journal) -> None:
        """The generation that a mark counts on is that of the Done beside it, which may have no ranges."""
        mine = await one_subscription(journal)
        fence = Done(mine.number, 5, [], mine.generation)
        await journal.control([SetState(mine.number, "paused")])
        assert "fenced" == (await commit(journal, done=[fence], marks=[number(mine, 1)])).kind
        assert (0, []) == await mark(journal, mine)

    async def test_a_fence_comes_before_a_repetition(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, marks=[number(mine, 1)])
        again = Unit([Append([event()])], [Fence("lost", 1)], marks=[number(mine, 1)])
        assert "fenced" == (await commit(journal, again)).kind


class MarksAndRepetition:
    async def test_a_unit_whose_marks_are_finished_already_is_a_repetition(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=1)))
        unit = Unit([Append(events(2))], marks=[number(mine, 3)])
        told = await commit(journal, unit)
        for parts in (
            {"appends": [Append([event()])]},
            {"puts": [parked(mine, event(position=9))]},
            {"changes": [Change(row.number, attempts=9)]},
            {"timers": [Timer(START_US, event())]},
        ):
            assert "repeated" == (await commit(journal, marks=[number(mine, 3)], **parts)).kind
        again = await commit(journal, unit)
        assert ("done", "repeated", told.positions) == (told.kind, again.kind, again.positions)
        assert 2 == await journal.head()
        assert [row] == await journal.deliveries()
        assert [] == await journal.timers()

    async def test_only_when_its_ranges_and_its_marks_all_are(self, journal: Journal) -> None:
        """When some are, its owner knows less than the journal does."""
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 1))], marks=[number(mine, 1)])
        for done, marks, kind in (
            ([finished(mine, (0, 1))], [number(mine, 1)], "repeated"),
            ([finished(mine, (0, 1))], [number(mine, 2)], "fenced"),
            ([finished(mine, (1, 2))], [number(mine, 1)], "fenced"),
            ([finished(mine)], [number(mine, 1), seen(mine, slot=8)], "repeated"),
            ([finished(mine)], [number(mine, 1), number(mine, 1, slot=8)], "fenced"),
            ([finished(mine, (1, 2))], [number(mine, 2)], "done"),
        ):
            assert kind == (await commit(journal, appends=[Append([event()])], done=done, marks=marks)).kind
        assert (2, []) == await cursor(journal, mine)
        assert (2, []) == await mark(journal, mine)

    async def test_a_unit_with_marks_is_not_known_by_its_events(self, journal: Journal) -> None:
        """Another unit published them: that says nothing of what this one finishes."""
        mine = await one_subscription(journal)
        published = event()
        told = await commit(journal, appends=[Append([published])])
        verdict = await commit(journal, appends=[Append([published])], marks=[number(mine, 1)])
        assert ("done", told.positions) == (verdict.kind, verdict.positions)
        assert (1, []) == await mark(journal, mine)

    async def test_saying_again_what_is_finished_is_no_harm(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        for _ in range(2):
            assert "done" == (await commit(journal, marks=[number(mine, 1), seen(mine, slot=8)])).kind
        assert {7: (1, [])} == await journal.marks(mine.number, ORIGIN, "orders")


class MarksAndRewind:
    async def test_a_rewind_of_our_own_feed_leaves_marks_of_other_origins(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 9))], marks=[seen(mine, (0, 9))])
        await journal.control([Rewind(mine.number, 0)])
        assert (0, []) == await cursor(journal, mine)
        assert (9, []) == await mark(journal, mine)

    async def test_unless_it_names_them(self, journal: Journal) -> None:
        one, two = (await start(journal, handler("email.a"), handler("email.b"))).subscriptions
        kept = seen(one, (0, 9), origin="5f0c:2")
        away = [seen(one, (0, 9), slot=slot) for slot in (1, 2)]
        away.append(away[0]._replace(channel="billing"))
        await commit(journal, marks=[*away, kept, seen(two, (0, 9))])
        before = await journal.control([Rewind(one.number, 0)])

        assert before + 3 == await journal.control([Rewind(one.number, 0, origins=(ORIGIN, "unheard of"))])
        assert {} == await journal.marks(one.number, ORIGIN, "orders")
        assert {} == await journal.marks(one.number, ORIGIN, "billing")
        assert {7: (9, [])} == await journal.marks(one.number, "5f0c:2", "orders")
        assert {7: (9, [])} == await journal.marks(two.number, ORIGIN, "orders")
        assert "done" == (await commit(journal, appends=[Append([event()])], marks=[number(one, 3, slot=1)])).kind

    async def test_whoever_still_works_on_what_was_rewound_is_fenced(self, journal: Journal) -> None:
        """Else its number, handled before, would stand in the way of the one to come."""
        mine = await one_subscription(journal)
        await journal.control([Rewind(mine.number, 0, origins=(ORIGIN,))])
        late = await commit(journal, done=[finished(mine)], marks=[number(mine, 5)])
        assert "fenced" == late.kind
        assert (0, []) == await mark(journal, mine)
