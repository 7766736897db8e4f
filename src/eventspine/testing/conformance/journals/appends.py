"""Appends: expected versions, all or nothing, and idempotent when they are asked again."""

from __future__ import annotations

import asyncio

import pytest

from ....errors import Conflict, UnitFailed
from ....journal.asking import UNIT_BYTES_MAX
from ....journal.port import Append, Journal, Record, Timer, Unit
from .material import (
    START_US,
    Store,
    commit,
    event,
    events,
    ids,
    new_id,
    publish,
    publish_to,
    whole_feed,
)


class Appends:
    async def test_an_event_is_read_as_it_was_appended(self, journal: Journal, store: Store) -> None:
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

    async def test_positions_ascend_in_order_of_the_appends(self, journal: Journal) -> None:
        placed = await publish(journal, *events(3)) + await publish(journal, *events(2))
        assert placed == sorted(set(placed))
        assert placed[0] > 0
        assert placed[-1] == await journal.head()

    async def test_a_stream_counts_its_versions(self, journal: Journal) -> None:
        one, two, three = events(3)
        assert [2] == (await publish_to(journal, "o-1", one, two, expected=0)).versions
        assert [3] == (await publish_to(journal, "o-1", three, expected=2)).versions
        assert 3 == await journal.stream_version("orders", "o-1")
        assert ids([one, two, three]) == ids(await journal.stream("orders", "o-1"))
        assert ids([two]) == ids(await journal.stream("orders", "o-1", after=1, limit=1))

    async def test_a_stream_that_is_read_for_a_state_tells_all_that_a_state_is_made_of(self, journal: Journal) -> None:
        one, two = event(meta=b'{"actor":"ann"}', version=3), event(channel=None, key=None, data=b"")
        await publish_to(journal, "o-1", one, two)
        read = await journal.stream("orders", "o-1", folded=True)

        assert all(type(record) is Record for record in read)
        assert [_told(record) for record in await journal.stream("orders", "o-1")] == [_told(one) for one in read]
        assert [two.id] == ids(await journal.stream("orders", "o-1", after=1, limit=1, folded=True))

    async def test_a_stream_that_does_not_exist_is_at_version_0(self, journal: Journal) -> None:
        assert 0 == await journal.stream_version("orders", "none")
        assert [] == await journal.stream("orders", "none")

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_a_wrong_expected_version_is_a_conflict_and_nothing_is_stored(
        self, journal: Journal, expected: int
    ) -> None:
        await publish_to(journal, "o-1", *events(2))
        late = event()
        verdict = await publish_to(journal, "o-1", late, expected=expected)

        assert "conflict" == verdict.kind
        assert not verdict.ok
        assert isinstance(verdict.error, Conflict)
        assert await journal.event(late.id) is None
        assert 2 == await journal.stream_version("orders", "o-1")

    @pytest.mark.parametrize("timed", [False, True])
    async def test_more_than_a_unit_takes_fails_it_alone(self, journal: Journal, timed: bool) -> None:
        data = b"0" * 1_000_000
        large, small = events(UNIT_BYTES_MAX // len(data), data=data), event()
        unit = Unit(timers=[Timer(20, one) for one in large]) if timed else Unit([Append([one]) for one in large])
        refused, beside = await journal.commit([unit, Unit([Append([small])])])

        assert ["failed", "done"] == [refused.kind, beside.kind]
        assert isinstance(refused.error, UnitFailed)
        assert UNIT_BYTES_MAX == refused.error.details["limit_bytes"] < refused.error.details["size_bytes"]
        assert ids([small]) == ids(await whole_feed(journal))
        assert [] == await journal.timers()

    async def test_without_an_expected_version_any_will_do(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", event())
        assert [2] == (await publish_to(journal, "o-1", event())).versions

    async def test_an_append_without_events_only_expects(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", event())
        assert "conflict" == (await publish_to(journal, "o-1", expected=0)).kind
        assert (await publish_to(journal, "o-1", expected=1)).ok

    async def test_an_append_of_nothing_appends_nothing(self, journal: Journal) -> None:
        verdict = await commit(journal, appends=[Append([])])
        assert ("done", []) == (verdict.kind, verdict.positions)
        assert 0 == await journal.head()

    async def test_streams_of_one_name_in_two_services_are_two(self, journal: Journal) -> None:
        await commit(journal, appends=[Append([event()], "orders", "1", 0)])
        assert [1] == (await commit(journal, appends=[Append([event()], "billing", "1", 0)])).versions

    async def test_a_batch_across_streams_is_stored_as_one_or_not_at_all(self, journal: Journal) -> None:
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

    async def test_a_unit_expects_on_top_of_what_it_appended_itself(self, journal: Journal) -> None:
        one, two = events(2)
        verdict = await commit(journal, appends=[Append([one], "o", "s", 0), Append([two], "o", "s", 1)])
        assert [1, 2] == verdict.versions

    async def test_of_many_that_expect_the_same_version_exactly_one_wins(self, journal: Journal) -> None:
        verdicts = await asyncio.gather(*(publish_to(journal, "o-1", event(), expected=0) for _ in range(40)))
        assert ["conflict"] * 39 + ["done"] == sorted(verdict.kind for verdict in verdicts)
        assert 1 == await journal.head()

    async def test_within_one_group_too(self, journal: Journal) -> None:
        verdicts = await journal.commit([Unit([Append([event()], "orders", "o-1", 0)]) for _ in range(10)])
        assert ["done"] + ["conflict"] * 9 == [verdict.kind for verdict in verdicts]

    async def test_and_between_two_that_opened_the_store(self, journal: Journal, other: Journal) -> None:
        for version in range(10):
            racing = [publish_to(each, "o-1", event(), expected=version) for each in (journal, other) for _ in range(3)]
            verdicts = await asyncio.gather(*racing)
            assert ["conflict"] * 5 + ["done"] == sorted(verdict.kind for verdict in verdicts)
        assert 10 == await journal.stream_version("orders", "o-1") == await other.stream_version("orders", "o-1")

    async def test_an_append_again_answers_with_the_first_result(self, journal: Journal) -> None:
        first = Unit([Append(events(2), "orders", "o-1", 0), Append(events(1))])
        told = await commit(journal, first)
        await publish_to(journal, "o-1", event(), expected=2)
        again = await commit(journal, first)

        assert again.ok
        assert (told.positions, told.versions) == (again.positions, again.versions)
        assert 4 == await journal.head()
        assert 3 == await journal.stream_version("orders", "o-1")

    async def test_asked_again_it_expects_nothing_any_more(self, journal: Journal) -> None:
        """Also of a stream that it only looked at."""
        unit = Unit([Append([event()], "orders", "o-1", 0), Append([], "orders", "o-2", 0)])
        told = await commit(journal, unit)
        await publish_to(journal, "o-2", event())
        again = await commit(journal, unit)
        assert ("done", "repeated") == (told.kind, again.kind)
        assert told.positions == again.positions

    async def test_a_unit_asked_again_does_nothing_else_again(self, journal: Journal) -> None:
        """What it published has a timer beside it, which somebody cancels before it is asked again."""
        later = event()
        unit = Unit([Append([event()])], timers=[Timer(START_US, later)])
        await commit(journal, unit)
        await commit(journal, cancels=[later.id])
        assert "repeated" == (await commit(journal, unit)).kind
        assert [] == await journal.timers()

    @pytest.mark.parametrize("units", [1, 2])
    async def test_of_two_that_have_one_id_and_are_committed_together_the_first_is_stored(
        self, journal: Journal, units: int
    ) -> None:
        first, second = event(source="first"), event()
        second = second._replace(id=first.id, source="second")
        together = (
            [Unit([Append([first, second])])] if units == 1 else [Unit([Append([one])]) for one in (first, second)]
        )
        verdicts = await journal.commit(together)
        assert all(verdict.ok for verdict in verdicts)
        assert 1 == len({position for verdict in verdicts for position in verdict.positions})
        stored = await journal.event(first.id)
        assert stored is not None
        assert "first" == stored.source

    async def test_also_within_one_group(self, journal: Journal) -> None:
        unit = Unit([Append(events(2), "orders", "o-1", 0)])
        one, two = await journal.commit([unit, unit])
        assert one.ok
        assert two.ok
        assert (one.positions, one.versions) == (two.positions, two.versions)
        assert 2 == await journal.head()

    async def test_only_what_is_new_of_an_append_is_stored(self, journal: Journal) -> None:
        old, new = events(2)
        [position] = await publish(journal, old)
        verdict = await commit(journal, appends=[Append([old, new])])
        assert [position, await journal.head()] == verdict.positions
        assert ids([old, new]) == ids(await whole_feed(journal))

    async def test_the_same_event_twice_in_a_unit_is_one(self, journal: Journal) -> None:
        once = event()
        one, two = await publish(journal, once, once)
        assert one == two == await journal.head()

    async def test_a_unit_of_nothing_is_done(self, journal: Journal) -> None:
        assert ["done", "done"] == [verdict.kind for verdict in await journal.commit([Unit(), Unit()])]
        assert [] == await journal.commit([])

    async def test_an_event_is_found_by_its_id_private_or_not(self, journal: Journal) -> None:
        public, private = event(), event(channel=None)
        placed = await publish(journal, public, private)
        found = [await journal.event(record.id) for record in (public, private)]
        assert placed == [record and record.position for record in found]
        assert await journal.event(new_id()) is None


def _told(record: Record) -> tuple[object, ...]:
    return record.position, record.id, record.type, record.version, record.time_us, record.meta, record.data
