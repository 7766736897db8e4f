"""Units: fences, cursors folded after the verdicts, repetition."""

from __future__ import annotations

import random

import pytest

from ....errors import Fenced, JournalError
from ....journal.port import Append, Change, Done, Fence, Journal, Timer, Unit
from .material import (
    START_US,
    Store,
    commit,
    cursor,
    event,
    events,
    finished,
    one_subscription,
    park,
    parked,
    process,
    publish_to,
)


class Fences:
    async def test_a_unit_counts_while_its_lease_has_its_epoch(self, journal: Journal) -> None:
        view = await journal.lease(process("p"), ["l"], [], START_US, START_US + 1)
        verdict = await commit(journal, appends=[Append([event()])], fences=[Fence("l", view.held["l"].epoch)])
        assert "done" == verdict.kind

    @pytest.mark.parametrize(("lease", "epoch"), [("l", 0), ("l", 2), ("unheard of", 1)])
    async def test_otherwise_it_is_fenced_and_nothing_is_stored(self, journal: Journal, lease: str, epoch: int) -> None:
        await journal.lease(process("p"), ["l"], [], START_US, START_US + 1)
        late = event()
        stale = Unit([Append([late])], [Fence(lease, epoch)], timers=[Timer(START_US, event())])
        verdict, beside = await journal.commit([stale, Unit([Append([event()])])])

        assert "fenced" == verdict.kind
        assert isinstance(verdict.error, Fenced)
        assert "done" == beside.kind, "one unit's fence is no other's"
        assert await journal.event(late.id) is None
        assert await journal.next_due() is None

    async def test_r13_a_cursor_of_another_generation_fences(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        for generation in (mine.generation - 1, mine.generation + 1):
            stale = Done(mine.number, 5, [(0, 1)], generation)
            verdict = await commit(journal, appends=[Append([event()])], done=[stale])
            assert "fenced" == verdict.kind
            assert isinstance(verdict.error, Fenced)
        assert (0, []) == await cursor(journal, mine)
        assert 0 == await journal.head()

    async def test_a_subscription_that_does_not_exist_fences(self, journal: Journal) -> None:
        assert "fenced" == (await commit(journal, done=[Done(99, 5, [(0, 1)], 1)])).kind


class Cursors:
    async def test_what_a_unit_finished_is_folded_into_the_cursor(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 3))])
        await commit(journal, done=[finished(mine, (5, 6), (8, 9))])
        assert (3, [(5, 6), (8, 9)]) == await cursor(journal, mine)
        await commit(journal, done=[finished(mine, (3, 5)), finished(mine, (0, 7), partition=6)])
        assert (6, [(8, 9)]) == await cursor(journal, mine)
        assert (7, []) == await cursor(journal, mine, 6)
        assert (0, []) == await cursor(journal, mine, 7)

    async def test_r3_a_cursor_is_folded_after_the_verdicts(self, journal: Journal) -> None:
        """10 and 11 share a group, 10 is refused: the cursor may not pass it."""
        mine = await one_subscription(journal)
        await publish_to(journal, "o-1", event())
        refused = Unit([Append([event()], "orders", "o-1", 0)], done=[finished(mine, (0, 10))])
        accepted = Unit([Append([event()])], done=[finished(mine, (10, 11))])
        verdicts = await journal.commit([refused, accepted])

        assert ["conflict", "done"] == [verdict.kind for verdict in verdicts]
        assert (0, [(10, 11)]) == await cursor(journal, mine)
        await commit(journal, done=[finished(mine, (0, 10))])
        assert (11, []) == await cursor(journal, mine)

    async def test_a_fenced_unit_of_a_group_leaves_its_range_open_too(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        units = [Unit(done=[finished(mine, (at, at + 1))]) for at in range(6)]
        units[2].fences.append(Fence("lost", 1))
        await journal.commit(units)
        assert (2, [(3, 6)]) == await cursor(journal, mine)

    async def test_the_order_of_units_makes_no_difference(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        ranges = [(at, at + 1) for at in range(60)]
        random.Random(4).shuffle(ranges)
        for at in range(0, 60, 7):
            await journal.commit([Unit(done=[finished(mine, span)]) for span in ranges[at : at + 7]])
            position, _ = await cursor(journal, mine)
            assert all((before, before + 1) in ranges[: at + 7] for before in range(position))
        assert (60, []) == await cursor(journal, mine)

    async def test_a_unit_whose_ranges_are_finished_already_is_a_repetition(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        first = await commit(journal, appends=[Append(events(2))], done=[finished(mine, (0, 1))])
        for ranges in ([(0, 1)], [(0, 1), (0, 1)]):
            again = await commit(journal, appends=[Append([event()])], done=[finished(mine, *ranges)])
            assert "repeated" == again.kind
            assert again.ok
        assert 2 == await journal.head() == first.positions[-1]

    async def test_a_repetition_answers_with_what_the_first_did(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        unit = Unit([Append(events(2))], done=[finished(mine, (0, 4))], puts=[parked(mine, event(position=4))])
        told, again = await commit(journal, unit), await commit(journal, unit)
        assert ("done", "repeated") == (told.kind, again.kind)
        assert (told.positions, told.numbers) == (again.positions, again.numbers)

    async def test_a_repetition_of_a_range_beyond_the_cursor_is_found_too(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, appends=[Append([event()])], done=[finished(mine, (7, 9))])
        again = await commit(journal, appends=[Append([event()])], done=[finished(mine, (8, 9))])
        assert "repeated" == again.kind
        assert 1 == await journal.head()

    async def test_two_of_one_group_that_finish_the_same_happen_once(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        units = [Unit([Append([event()])], done=[finished(mine, (0, 1))]) for _ in range(3)]
        assert ["done", "repeated", "repeated"] == [verdict.kind for verdict in await journal.commit(units)]
        assert 1 == await journal.head()

    async def test_a_range_that_meets_one_beyond_is_known_in_its_group(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (9, 14))])
        unit = Unit([Append([event()])], done=[finished(mine, (6, 9))])
        again = Unit([Append([event()])], done=[finished(mine, (6, 9))])
        assert ["done", "repeated"] == [verdict.kind for verdict in await journal.commit([unit, again])]
        assert (0, [(6, 14)]) == await cursor(journal, mine)

    async def test_a_unit_that_ends_beyond_what_is_finished_is_no_repetition(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 2))])
        verdict = await commit(journal, appends=[Append([event()])], done=[finished(mine, (1, 4))])
        assert "done" == verdict.kind

    async def test_a_unit_whose_event_is_finished_is_a_repetition_wherever_its_range_begins(
        self, journal: Journal
    ) -> None:
        """Its owner has loaded the cursor anew meanwhile and counts otherwise what it passes before the event."""
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 1)), finished(mine, (3, 4))])
        verdict = await commit(journal, appends=[Append([event()])], done=[finished(mine, (2, 4))])
        assert "repeated" == verdict.kind
        assert 0 == await journal.head()
        assert (1, [(2, 4)]) == await cursor(journal, mine)

    async def test_a_run_of_which_some_is_finished_is_fenced(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 2))])
        run = [finished(mine, (1, 2)), finished(mine, (2, 3))]
        verdict = await commit(journal, appends=[Append([event()])], done=run)
        assert "fenced" == verdict.kind
        assert 0 == await journal.head()
        assert (2, []) == await cursor(journal, mine)

    async def test_a_repetition_changes_and_puts_nothing(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=1)))
        await commit(journal, done=[finished(mine, (0, 5))])
        verdict = await commit(
            journal,
            done=[finished(mine, (4, 5))],
            puts=[parked(mine, event(position=5))],
            changes=[Change(row.number, attempts=9)],
        )
        assert "repeated" == verdict.kind
        assert [row] == await journal.deliveries()

    async def test_passing_events_twice_is_no_harm(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        for _ in range(2):
            assert (await commit(journal, done=[finished(mine, (0, 5))])).ok
        assert (5, []) == await cursor(journal, mine)

    async def test_a_done_without_ranges_is_a_fence_only(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        for _ in range(2):
            assert "done" == (await commit(journal, appends=[Append([event()])], done=[finished(mine)])).kind
        assert 2 == await journal.head()

    async def test_cursors_of_another_feed_are_others(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        away = finished(mine, (0, 8))._replace(feed="kafka:c1:orders", partition=40)
        await commit(journal, done=[away])
        rows = {(row.feed, row.partition): row.position for row in await journal.cursors([mine.number])}
        assert 8 == rows["kafka:c1:orders", 40]
        assert 0 == rows["", 5]


class Closing:
    async def test_a_closed_journal_says_so(self, store: Store) -> None:
        journal = await store.open()
        await journal.close()
        with pytest.raises(JournalError):
            await journal.commit([Unit()])
