"""Cutting streams off: what goes, what never does, who holds it, and what readers and appenders see afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ....errors import Conflict, StreamNeeded, TruncationRefused, VersionsDeleted
from ....journal.port import Append, Change, Deleted, Journal, SetState, StreamCut, StreamHead
from .material import (
    WAIT_S,
    Store,
    commit,
    event,
    events,
    ids,
    one_subscription,
    park,
    parked,
    publish,
    publish_to,
    whole_feed,
)
from .retention import everything_finished

STREAM = ("orders", "o-1")


async def cut(journal: Journal, before: int, expected: int | None = None) -> StreamCut:
    return await journal.cut(*STREAM, before=before, expected=expected)


class Cutting:
    async def test_versions_before_one_are_deleted_and_the_rest_stays(self, journal: Journal, other: Journal) -> None:
        records = events(5)
        await publish(journal, event())
        placed = (await publish_to(journal, "o-1", *records)).positions
        assert StreamCut(3, 4) == await cut(journal, 4)

        assert ids(records[3:]) == ids(await other.stream(*STREAM, after=3))
        assert 5 == await other.stream_version(*STREAM)
        assert [StreamHead(*STREAM, 5, records[4].type)] == await other.streams(None, ("", ""), 10)
        assert placed[3:] == [record.position for record in await whole_feed(other)][1:]
        assert await other.event(records[0].id) is None
        assert [Deleted("orders", placed[2], *(await _counted(other)))] == await other.cut_off()

    async def test_asked_again_it_deletes_nothing_more(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(5))
        assert [StreamCut(3, 4), StreamCut(0, 4)] == [await cut(journal, 4), await cut(journal, 4)]
        assert StreamCut(0, 4) == await cut(journal, 2)
        assert StreamCut(1, 5) == await cut(journal, 5)
        assert 4 == (await journal.cut_off())[0].events

    async def test_its_last_event_stays(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(2))
        with pytest.raises(TruncationRefused, match="last event stays"):
            await cut(journal, 3)
        with pytest.raises(TruncationRefused, match="0 versions"):
            await journal.cut("orders", "none", before=1)
        assert 2 == len(await journal.stream(*STREAM))

    async def test_other_streams_are_left_alone(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(2))
        await publish_to(journal, "o-2", *events(2))
        await publish_to(journal, "o-1", *events(2))
        await cut(journal, 4)
        assert 2 == len(await journal.stream("orders", "o-2"))

    async def test_versions_go_on_and_none_is_given_out_twice(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(4))
        await cut(journal, 4)
        for stale in (0, 1, 3):
            verdict = await publish_to(journal, "o-1", event(), expected=stale)
            assert ("conflict", True) == (verdict.kind, isinstance(verdict.error, Conflict))
        assert [5] == (await publish_to(journal, "o-1", event(), expected=4)).versions

    async def test_what_was_deleted_is_refused_when_it_is_appended_again(self, journal: Journal) -> None:
        """Its id is known no more, so only the version that it was decided on keeps it from happening twice."""
        first, *more = events(3)
        await publish_to(journal, "o-1", first, *more, expected=0)
        await cut(journal, 3)
        assert "conflict" == (await publish_to(journal, "o-1", first, *more, expected=0)).kind
        assert 3 == await journal.stream_version(*STREAM)

    async def test_a_reader_of_what_is_gone_is_told_where_it_begins(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(6))
        await cut(journal, 4)
        for after in (0, 2):
            with pytest.raises(VersionsDeleted, match="begins with version 4") as told:
                await journal.stream(*STREAM, after=after)
            assert 4 == told.value.details["first"]
        assert 3 == len(await journal.stream(*STREAM, after=3))
        assert [] == await journal.stream(*STREAM, after=6)

    async def test_whoever_looked_at_an_older_version_has_a_conflict(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(3))
        with pytest.raises(Conflict):
            await cut(journal, 2, expected=2)
        assert StreamCut(1, 2) == await cut(journal, 2, expected=3)

    async def test_settled_deliveries_go_with_their_events(self, journal: Journal) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = (await publish_to(journal, "o-1", *events(3))).positions
        await everything_finished(journal, subscription, placed[-1])
        for record in await whole_feed(journal):
            await park(journal, parked(subscription, record, state="settled"))
        await cut(journal, 3)
        assert placed[2:] == [row.position for row in await journal.deliveries()]

    async def test_private_events_go_as_well_and_are_counted_apart(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(3, channel=None))
        assert StreamCut(2, 3) == await cut(journal, 3)
        assert [("", 2)] == [(row.channel, row.events) for row in await journal.cut_off()]

    async def test_appenders_go_on_while_it_is_cut(self, journal: Journal, other: Journal) -> None:
        """Each event is appended once, at the version that its appender saw; each that is not the last is deleted once."""
        writing = True

        async def append(each: Journal) -> None:
            for _ in range(15):
                one = event()
                while not (await publish_to(each, "o-1", one, expected=await each.stream_version(*STREAM))).ok:
                    pass

        async def keep_cutting() -> None:
            while writing:
                if version := await other.stream_version(*STREAM):
                    await other.cut(*STREAM, before=version)
                await asyncio.sleep(0)

        cutting = asyncio.create_task(keep_cutting())
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*map(append, (journal, other, journal)))
            writing = False
            await cutting
        assert StreamCut(0, 45) == (await cut(journal, 45))._replace(events=0)
        assert 45 == await other.stream_version(*STREAM)
        assert 44 == (await other.cut_off())[0].events
        assert 1 == len(await whole_feed(other)) == len(await other.stream(*STREAM, after=44))

    async def test_streams_are_listed_in_pages(self, journal: Journal) -> None:
        for name in ("b", "c", "a"):
            await publish_to(journal, name, event())
        await commit(journal, appends=[Append([event()], "billing", "a")])
        assert "conflict" == (await publish_to(journal, "ghost", event(), expected=5)).kind
        first = await journal.streams("orders", ("", ""), 2)
        assert [("orders", "a", 1), ("orders", "b", 1)] == [row[:3] for row in first]
        assert [("orders", "c", 1)] == [row[:3] for row in await journal.streams("orders", ("orders", "b"), 2)]
        assert ["billing", "orders", "orders", "orders"] == [
            row.service for row in await journal.streams(None, ("", ""), 9)
        ]


class WhoHoldsStreams:
    @pytest.mark.parametrize("state", ["active", "paused", "suspended"])
    async def test_a_subscription_that_has_not_come_past_it(self, journal: Journal, state: Any) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = (await publish_to(journal, "o-1", *events(3))).positions
        if state != "active":
            await journal.control([SetState(subscription.number, state)])
        told_where = rf"email\.confirm.* has come to position 0, and has to come to {placed[1]}"
        with pytest.raises(StreamNeeded, match=told_where) as told:
            await cut(journal, 3)
        assert ["email.confirm"] == told.value.details["subscriptions"]
        assert (state in str(told.value)) == (state != "active")
        assert placed == [record.position for record in await journal.stream(*STREAM)]

    async def test_no_longer_once_it_has_or_was_given_up(self, journal: Journal) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = (await publish_to(journal, "o-1", *events(4))).positions
        await everything_finished(journal, subscription, placed[1])
        assert StreamCut(2, 3) == await cut(journal, 3)
        with pytest.raises(StreamNeeded):
            await cut(journal, 4)
        await journal.control([SetState(subscription.number, "retired")])
        assert StreamCut(1, 4) == await cut(journal, 4)

    async def test_one_of_another_channel_does_not(self, journal: Journal) -> None:
        await one_subscription(journal, start="earliest", channels=("audit",))
        await publish_to(journal, "o-1", *events(3))
        assert StreamCut(2, 3) == await cut(journal, 3)

    @pytest.mark.parametrize("state", ["parked", "dead", "held"])
    async def test_a_delivery_that_is_not_settled(self, journal: Journal, state: Any) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = (await publish_to(journal, "o-1", *events(3))).positions
        await everything_finished(journal, subscription, placed[-1])
        row = await park(journal, parked(subscription, (await whole_feed(journal))[1], state=state))
        with pytest.raises(StreamNeeded, match=f"delivery {row.number} of email\\.confirm is {state}") as told:
            await cut(journal, 3)
        assert [row.number] == told.value.details["deliveries"]
        assert (state != "dead", state != "parked") == (
            "`spine parked" in str(told.value),
            "`spine dead" in str(told.value),
        )
        assert StreamCut(1, 2) == await cut(journal, 2)  # the one before it is needed by nobody
        await commit(journal, changes=[Change(row.number, state="settled", while_state=(state,))])
        assert StreamCut(1, 3) == await cut(journal, 3)

    @pytest.mark.parametrize("state", ["parked", "dead", "held"])
    async def test_not_one_of_a_retired_subscription_which_goes_with_its_event(
        self, journal: Journal, other: Journal, state: Any
    ) -> None:
        subscription = await one_subscription(journal, start="earliest")
        await publish_to(journal, "o-1", *events(3))
        gone, left = [
            await park(journal, parked(subscription, record, state=state)) for record in (await whole_feed(journal))[1:]
        ]
        await journal.control([SetState(subscription.number, "retired")])
        assert StreamCut(2, 3) == await cut(journal, 3)
        assert gone.number != left.number
        assert [left.number] == [row.number for row in await other.deliveries()]

    async def test_retention_never_takes_of_what_is_left(self, journal: Journal, store: Store) -> None:
        await publish_to(journal, "o-1", *events(3))
        await publish(journal, event())
        await cut(journal, 3)
        assert 0 == (await journal.sweep("orders", after=0, upto=1_000, limit=100)).deleted
        assert 1 == len(await journal.stream(*STREAM, after=2))


async def _counted(journal: Journal) -> tuple[int, int]:
    (row,) = await journal.cut_off()
    assert 3 == row.events
    return row.recorded_us, row.events
