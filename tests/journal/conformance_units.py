"""Units: expected versions, idempotent appends, fences, cursors folded after the verdicts, repetition."""

from __future__ import annotations

import asyncio
import random

import pytest

from eventspine.errors import Conflict, Fenced, JournalError, RowsUnexpected, UnitFailed
from eventspine.journal.port import Append, Change, Done, Fence, Journal, Record, Statement, Timer, Unit

from .material import (
    START_US,
    Store,
    commit,
    cursor,
    event,
    events,
    finished,
    ids,
    new_id,
    one_subscription,
    park,
    parked,
    process,
    publish,
    publish_to,
    whole_feed,
)


class TestAppends:
    async def test_an_event_is_read_as_it_was_appended(self, journal: Journal, store: Store):
        full = event(
            key="a:b", version=3, correlation="c", causation="d", hops=2, meta=b'{"tenant":"t"}', data=b"\x00\xff"
        )
        bare = event(channel=None, key=None, data=b"")
        placed = await publish(journal, full, bare)

        assert [
            full._replace(position=placed[0], recorded_us=store.clock.us),
            bare._replace(position=placed[1], recorded_us=store.clock.us),
        ] == await whole_feed(journal, private=True)
        assert all(type(record) is Record for record in await whole_feed(journal))

    async def test_positions_ascend_in_order_of_the_appends(self, journal: Journal):
        placed = await publish(journal, *events(3)) + await publish(journal, *events(2))
        assert placed == sorted(set(placed))
        assert placed[0] > 0
        assert placed[-1] == await journal.head()

    async def test_a_stream_counts_its_versions(self, journal: Journal):
        one, two, three = events(3)
        assert [2] == (await publish_to(journal, "o-1", one, two, expected=0)).versions
        assert [3] == (await publish_to(journal, "o-1", three, expected=2)).versions
        assert 3 == await journal.stream_version("orders", "o-1")
        assert ids([one, two, three]) == ids(await journal.stream("orders", "o-1"))
        assert ids([two]) == ids(await journal.stream("orders", "o-1", after=1, limit=1))

    async def test_a_stream_that_does_not_exist_is_at_version_0(self, journal: Journal):
        assert 0 == await journal.stream_version("orders", "none")
        assert [] == await journal.stream("orders", "none")

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_a_wrong_expected_version_is_a_conflict_and_nothing_is_stored(self, journal: Journal, expected: int):
        await publish_to(journal, "o-1", *events(2))
        late = event()
        verdict = await publish_to(journal, "o-1", late, expected=expected)

        assert "conflict" == verdict.kind
        assert not verdict.ok
        assert isinstance(verdict.error, Conflict)
        assert await journal.event(late.id) is None
        assert 2 == await journal.stream_version("orders", "o-1")

    async def test_without_an_expected_version_any_will_do(self, journal: Journal):
        await publish_to(journal, "o-1", event())
        assert [2] == (await publish_to(journal, "o-1", event())).versions

    async def test_an_append_without_events_only_expects(self, journal: Journal):
        await publish_to(journal, "o-1", event())
        assert "conflict" == (await publish_to(journal, "o-1", expected=0)).kind
        assert (await publish_to(journal, "o-1", expected=1)).ok

    async def test_an_append_of_nothing_appends_nothing(self, journal: Journal):
        verdict = await commit(journal, appends=[Append([])])
        assert ("done", []) == (verdict.kind, verdict.positions)
        assert 0 == await journal.head()

    async def test_streams_of_one_name_in_two_services_are_two(self, journal: Journal):
        await commit(journal, appends=[Append([event()], "orders", "1", 0)])
        assert [1] == (await commit(journal, appends=[Append([event()], "billing", "1", 0)])).versions

    async def test_a_batch_across_streams_is_stored_as_one_or_not_at_all(self, journal: Journal):
        await publish_to(journal, "taken", event())
        one, two, three = events(3)
        batch = [Append([one], "orders", "free", 0), Append([two], "orders", "taken", 0), Append([three])]

        assert "conflict" == (await commit(journal, appends=batch)).kind
        assert [None] * 3 == [await journal.event(record.id) for record in (one, two, three)]
        assert 0 == await journal.stream_version("orders", "free")

        batch[1] = batch[1]._replace(expected=1)
        verdict = await commit(journal, appends=batch)
        assert [1, 2] == verdict.versions
        assert ids([one, two, three]) == [(await whole_feed(journal))[at - 1].id for at in verdict.positions]

    async def test_a_unit_expects_on_top_of_what_it_appended_itself(self, journal: Journal):
        one, two = events(2)
        verdict = await commit(journal, appends=[Append([one], "o", "s", 0), Append([two], "o", "s", 1)])
        assert [1, 2] == verdict.versions

    async def test_of_many_that_expect_the_same_version_exactly_one_wins(self, journal: Journal):
        verdicts = await asyncio.gather(*(publish_to(journal, "o-1", event(), expected=0) for _ in range(40)))
        assert ["conflict"] * 39 + ["done"] == sorted(verdict.kind for verdict in verdicts)
        assert 1 == await journal.head()

    async def test_within_one_group_too(self, journal: Journal):
        verdicts = await journal.commit([Unit([Append([event()], "orders", "o-1", 0)]) for _ in range(10)])
        assert ["done"] + ["conflict"] * 9 == [verdict.kind for verdict in verdicts]

    async def test_and_between_two_that_opened_the_store(self, journal: Journal, other: Journal):
        for version in range(10):
            racing = [publish_to(each, "o-1", event(), expected=version) for each in (journal, other) for _ in range(3)]
            verdicts = await asyncio.gather(*racing)
            assert ["conflict"] * 5 + ["done"] == sorted(verdict.kind for verdict in verdicts)
        assert 10 == await journal.stream_version("orders", "o-1") == await other.stream_version("orders", "o-1")

    async def test_an_append_again_answers_with_the_first_result(self, journal: Journal):
        first = Unit([Append(events(2), "orders", "o-1", 0), Append(events(1))])
        told = await commit(journal, first)
        await publish_to(journal, "o-1", event(), expected=2)
        again = await commit(journal, first)

        assert again.ok
        assert (told.positions, told.versions) == (again.positions, again.versions)
        assert 4 == await journal.head()
        assert 3 == await journal.stream_version("orders", "o-1")

    async def test_asked_again_it_expects_nothing_any_more(self, journal: Journal):
        """Also of a stream that it only looked at."""
        unit = Unit([Append([event()], "orders", "o-1", 0), Append([], "orders", "o-2", 0)])
        told = await commit(journal, unit)
        await publish_to(journal, "o-2", event())
        again = await commit(journal, unit)
        assert ("done", "repeated") == (told.kind, again.kind)
        assert told.positions == again.positions

    async def test_a_unit_asked_again_does_nothing_else_again(self, journal: Journal):
        """What it published has a timer beside it, which somebody cancels before it is asked again."""
        later = event()
        unit = Unit([Append([event()])], timers=[Timer(START_US, later)])
        await commit(journal, unit)
        await commit(journal, cancels=[later.id])
        assert "repeated" == (await commit(journal, unit)).kind
        assert [] == await journal.timers()

    async def test_also_within_one_group(self, journal: Journal):
        unit = Unit([Append(events(2), "orders", "o-1", 0)])
        one, two = await journal.commit([unit, unit])
        assert one.ok
        assert two.ok
        assert (one.positions, one.versions) == (two.positions, two.versions)
        assert 2 == await journal.head()

    async def test_only_what_is_new_of_an_append_is_stored(self, journal: Journal):
        old, new = events(2)
        [position] = await publish(journal, old)
        verdict = await commit(journal, appends=[Append([old, new])])
        assert [position, await journal.head()] == verdict.positions
        assert ids([old, new]) == ids(await whole_feed(journal))

    async def test_the_same_event_twice_in_a_unit_is_one(self, journal: Journal):
        once = event()
        one, two = await publish(journal, once, once)
        assert one == two == await journal.head()

    async def test_a_unit_of_nothing_is_done(self, journal: Journal):
        assert ["done", "done"] == [verdict.kind for verdict in await journal.commit([Unit(), Unit()])]
        assert [] == await journal.commit([])

    async def test_an_event_is_found_by_its_id_private_or_not(self, journal: Journal):
        public, private = event(), event(channel=None)
        placed = await publish(journal, public, private)
        found = [await journal.event(record.id) for record in (public, private)]
        assert placed == [record and record.position for record in found]
        assert await journal.event(new_id()) is None


class TestFences:
    async def test_a_unit_counts_while_its_lease_has_its_epoch(self, journal: Journal):
        view = await journal.lease(process("p"), ["l"], [], START_US, START_US + 1)
        verdict = await commit(journal, appends=[Append([event()])], fences=[Fence("l", view.held["l"].epoch)])
        assert "done" == verdict.kind

    @pytest.mark.parametrize(("lease", "epoch"), [("l", 0), ("l", 2), ("unheard of", 1)])
    async def test_otherwise_it_is_fenced_and_nothing_is_stored(self, journal: Journal, lease: str, epoch: int):
        await journal.lease(process("p"), ["l"], [], START_US, START_US + 1)
        late = event()
        stale = Unit([Append([late])], [Fence(lease, epoch)], timers=[Timer(START_US, event())])
        verdict, beside = await journal.commit([stale, Unit([Append([event()])])])

        assert "fenced" == verdict.kind
        assert isinstance(verdict.error, Fenced)
        assert "done" == beside.kind, "one unit's fence is no other's"
        assert await journal.event(late.id) is None
        assert await journal.next_due() is None

    async def test_r13_a_cursor_of_another_generation_fences(self, journal: Journal):
        mine = await one_subscription(journal)
        for generation in (mine.generation - 1, mine.generation + 1):
            stale = Done(mine.number, 5, [(0, 1)], generation)
            verdict = await commit(journal, appends=[Append([event()])], done=[stale])
            assert "fenced" == verdict.kind
            assert isinstance(verdict.error, Fenced)
        assert (0, []) == await cursor(journal, mine)
        assert 0 == await journal.head()

    async def test_a_subscription_that_does_not_exist_fences(self, journal: Journal):
        assert "fenced" == (await commit(journal, done=[Done(99, 5, [(0, 1)], 1)])).kind


class TestCursors:
    async def test_what_a_unit_finished_is_folded_into_the_cursor(self, journal: Journal):
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 3))])
        await commit(journal, done=[finished(mine, (5, 6), (8, 9))])
        assert (3, [(5, 6), (8, 9)]) == await cursor(journal, mine)
        await commit(journal, done=[finished(mine, (3, 5)), finished(mine, (0, 7), partition=6)])
        assert (6, [(8, 9)]) == await cursor(journal, mine)
        assert (7, []) == await cursor(journal, mine, 6)
        assert (0, []) == await cursor(journal, mine, 7)

    async def test_r3_a_cursor_is_folded_after_the_verdicts(self, journal: Journal):
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

    async def test_a_fenced_unit_of_a_group_leaves_its_range_open_too(self, journal: Journal):
        mine = await one_subscription(journal)
        units = [Unit(done=[finished(mine, (at, at + 1))]) for at in range(6)]
        units[2].fences.append(Fence("lost", 1))
        await journal.commit(units)
        assert (2, [(3, 6)]) == await cursor(journal, mine)

    async def test_the_order_of_units_makes_no_difference(self, journal: Journal):
        mine = await one_subscription(journal)
        ranges = [(at, at + 1) for at in range(60)]
        random.Random(4).shuffle(ranges)
        for at in range(0, 60, 7):
            await journal.commit([Unit(done=[finished(mine, span)]) for span in ranges[at : at + 7]])
            position, _ = await cursor(journal, mine)
            assert all((before, before + 1) in ranges[: at + 7] for before in range(position))
        assert (60, []) == await cursor(journal, mine)

    async def test_a_unit_whose_ranges_are_finished_already_is_a_repetition(self, journal: Journal):
        mine = await one_subscription(journal)
        first = await commit(journal, appends=[Append(events(2))], done=[finished(mine, (0, 1))])
        for ranges in ([(0, 1)], [(0, 1), (0, 1)]):
            again = await commit(journal, appends=[Append([event()])], done=[finished(mine, *ranges)])
            assert "repeated" == again.kind
            assert again.ok
        assert 2 == await journal.head() == first.positions[-1]

    async def test_a_repetition_answers_with_what_the_first_did(self, journal: Journal):
        mine = await one_subscription(journal)
        unit = Unit([Append(events(2))], done=[finished(mine, (0, 4))], puts=[parked(mine, event(position=4))])
        told, again = await commit(journal, unit), await commit(journal, unit)
        assert ("done", "repeated") == (told.kind, again.kind)
        assert (told.positions, told.numbers) == (again.positions, again.numbers)

    async def test_a_repetition_of_a_range_beyond_the_cursor_is_found_too(self, journal: Journal):
        mine = await one_subscription(journal)
        await commit(journal, appends=[Append([event()])], done=[finished(mine, (7, 9))])
        again = await commit(journal, appends=[Append([event()])], done=[finished(mine, (8, 9))])
        assert "repeated" == again.kind
        assert 1 == await journal.head()

    async def test_two_of_one_group_that_finish_the_same_happen_once(self, journal: Journal):
        mine = await one_subscription(journal)
        units = [Unit([Append([event()])], done=[finished(mine, (0, 1))]) for _ in range(3)]
        assert ["done", "repeated", "repeated"] == [verdict.kind for verdict in await journal.commit(units)]
        assert 1 == await journal.head()

    async def test_a_range_that_meets_one_beyond_is_known_in_its_group(self, journal: Journal):
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (9, 14))])
        unit = Unit([Append([event()])], done=[finished(mine, (6, 9))])
        again = Unit([Append([event()])], done=[finished(mine, (6, 9))])
        assert ["done", "repeated"] == [verdict.kind for verdict in await journal.commit([unit, again])]
        assert (0, [(6, 14)]) == await cursor(journal, mine)

    async def test_a_unit_that_ends_beyond_what_is_finished_is_no_repetition(self, journal: Journal):
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 2))])
        verdict = await commit(journal, appends=[Append([event()])], done=[finished(mine, (1, 4))])
        assert "done" == verdict.kind

    async def test_a_unit_whose_event_is_finished_is_a_repetition_wherever_its_range_begins(self, journal: Journal):
        """Its owner has loaded the cursor anew meanwhile and counts otherwise what it passes before the event."""
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 1)), finished(mine, (3, 4))])
        verdict = await commit(journal, appends=[Append([event()])], done=[finished(mine, (2, 4))])
        assert "repeated" == verdict.kind
        assert 0 == await journal.head()
        assert (1, [(2, 4)]) == await cursor(journal, mine)

    async def test_a_run_of_which_some_is_finished_is_fenced(self, journal: Journal):
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 2))])
        run = [finished(mine, (1, 2)), finished(mine, (2, 3))]
        verdict = await commit(journal, appends=[Append([event()])], done=run)
        assert "fenced" == verdict.kind
        assert 0 == await journal.head()
        assert (2, []) == await cursor(journal, mine)

    async def test_a_repetition_changes_and_puts_nothing(self, journal: Journal):
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

    async def test_passing_events_twice_is_no_harm(self, journal: Journal):
        mine = await one_subscription(journal)
        for _ in range(2):
            assert (await commit(journal, done=[finished(mine, (0, 5))])).ok
        assert (5, []) == await cursor(journal, mine)

    async def test_a_done_without_ranges_is_a_fence_only(self, journal: Journal):
        mine = await one_subscription(journal)
        for _ in range(2):
            assert "done" == (await commit(journal, appends=[Append([event()])], done=[finished(mine)])).kind
        assert 2 == await journal.head()

    async def test_cursors_of_another_feed_are_others(self, journal: Journal):
        mine = await one_subscription(journal)
        away = finished(mine, (0, 8))._replace(feed="kafka:c1:orders", partition=40)
        await commit(journal, done=[away])
        rows = {(row.feed, row.partition): row.position for row in await journal.cursors([mine.number])}
        assert 8 == rows["kafka:c1:orders", 40]
        assert 0 == rows["", 5]


class TestStatements:
    async def test_without_tables_a_statement_fails_its_unit_alone(self, journal: Journal):
        if journal.sql:
            pytest.skip("this journal has tables")
        sql, beside = await journal.commit(
            [Unit([Append([event()])], statements=[Statement("select 1", {})]), Unit([Append([event()])])]
        )
        assert ("failed", "done") == (sql.kind, beside.kind)
        assert isinstance(sql.error, UnitFailed)
        assert "sqlite://" in str(sql.error)
        assert 1 == await journal.head()
        for refused in (journal.query("select 1", {}), journal.begin(1.0)):
            with pytest.raises(UnitFailed, match="sqlite://"):
                await refused

    async def test_a_statement_happens_with_its_unit_or_not_at_all(self, journal: Journal):
        if not journal.sql:
            pytest.skip("this journal has no tables")
        mine = await one_subscription(journal)
        assert await journal.run_tables("email", "1", "create table email_sent (n integer)")
        assert not await journal.run_tables("email", "1", "create table email_sent (n integer)")
        insert = Statement("insert into email_sent values (:n)", {"n": 1}, expect_rows=1)
        missed = Statement("update email_sent set n = 5 where n = 4", {}, expect_rows=1)
        verdicts = await journal.commit(
            [
                Unit([Append([event()])], done=[finished(mine, (0, 1))], statements=[insert, missed]),
                Unit([Append([event()])], done=[finished(mine, (1, 2))], statements=[insert]),
                Unit([Append([event()])], done=[finished(mine, (1, 2))], statements=[insert]),
            ]
        )
        assert ["failed", "done", "repeated"] == [verdict.kind for verdict in verdicts]
        assert isinstance(verdicts[0].error, RowsUnexpected)
        assert [{"n": 1}] == await journal.query("select n from email_sent", {})
        assert 1 == await journal.head()
        assert (0, [(1, 2)]) == await cursor(journal, mine)

    async def test_of_two_identical_units_in_a_group_the_statement_runs_once(self, journal: Journal):
        if not journal.sql:
            pytest.skip("this journal has no tables")
        await journal.run_tables("email", "1", "create table email_sent (n integer)")
        insert = Statement("insert into email_sent values (:n)", {"n": 1})
        unit = Unit([Append([event()])], statements=[insert])
        for expected in (["done", "repeated"], ["repeated", "repeated"]):
            assert expected == [verdict.kind for verdict in await journal.commit([unit, unit])]
            assert [{"n": 1}] == await journal.query("select n from email_sent", {})


class TestClosing:
    async def test_a_closed_journal_says_so(self, store: Store):
        journal = await store.open()
        await journal.close()
        with pytest.raises(JournalError):
            await journal.commit([Unit()])
