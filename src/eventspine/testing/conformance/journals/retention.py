"""Retention: what services say, what is deleted, what never is, and what readers see of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ....errors import Fenced, SettingsError
from ....ids import id_text
from ....journal.port import (
    Append,
    Change,
    ChannelSize,
    Deleted,
    Fence,
    Journal,
    Put,
    Rewind,
    SetState,
    Subscription,
    Sweep,
    Timer,
    Unit,
)
from ..running import lacks, needs
from .material import (
    LEASE_US,
    START_US,
    Store,
    all_pages,
    caused_by,
    commit,
    event,
    events,
    finished,
    handler,
    ids,
    one_subscription,
    park,
    parked,
    process,
    publish,
    publish_to,
    start,
    whole_feed,
)

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
EVERYTHING = 1_000_000


async def sweep(journal: Journal, channel: str = "orders", **given: Any) -> int:
    """As far as it goes; how many were deleted."""
    after, deleted = given.pop("after", 0), 0
    while True:
        given = {"upto": EVERYTHING, "limit": 100} | given
        swept = await journal.sweep(channel, after=after, **given)
        deleted, after = deleted + swept.deleted, swept.scanned
        if not swept.more:
            return deleted


async def everything_finished(journal: Journal, subscription: Subscription, upto: int) -> None:
    done = [finished(subscription, (0, upto), partition=partition) for partition in range(16)]
    assert (await commit(journal, done=done)).ok


class SayingHowLong:
    async def test_what_a_service_says_is_stored_once(self, journal: Journal, other: Journal) -> None:
        for _ in range(3):
            await journal.keep("shop", {"orders": DAY_US, "audit": None}, START_US)
        assert [("shop", "orders", DAY_US, START_US)] == await other.keeps()

    async def test_several_values_of_one_service_stand_side_by_side(self, journal: Journal) -> None:
        await journal.keep("shop", {"orders": 9 * DAY_US}, START_US)
        await journal.keep("shop", {"orders": DAY_US}, START_US + 1)
        assert [9 * DAY_US, DAY_US] == [row.keep_us for row in await journal.keeps()]
        await journal.keep("shop", {"orders": DAY_US}, START_US + 2 * DAY_US)
        assert [DAY_US] == [row.keep_us for row in await journal.keeps()]

    async def test_it_outlives_the_journals_that_stored_it(self, journal: Journal, other: Journal) -> None:
        await journal.keep("shop", {"orders": DAY_US}, START_US)
        await journal.keep("mail", {"mails": HOUR_US}, START_US)
        assert ["mail", "shop"] == [row.service for row in await other.keeps()]


class Deleting:
    async def test_old_events_of_one_channel_go_and_the_others_stay(self, journal: Journal) -> None:
        old = await publish(journal, *events(5), *events(2, channel="audit"), event(channel=None))
        new = await publish(journal, *events(4))
        assert 5 == await sweep(journal, upto=old[-1])

        assert [*old[5:7], *new] == [record.position for record in await whole_feed(journal)]
        assert 8 == len(await whole_feed(journal, private=True)) + 1  # the private one is kept too
        [gone] = await journal.deleted()
        assert ("orders", old[4], 5) == (gone.channel, gone.position, gone.events)

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    async def test_a_step_deletes_no_more_than_its_limit_and_says_how_far_it_is(
        self, journal: Journal, limit: int
    ) -> None:
        placed = await publish(journal, *(event(channel=("orders", "audit")[n % 2]) for n in range(12)))
        swept = await journal.sweep("orders", after=0, upto=placed[-1], limit=limit)
        assert min(limit, 6) == swept.deleted
        assert swept.more == (limit < 6)
        assert 6 - min(limit, 6) == await sweep(journal, after=swept.scanned, limit=limit)

    async def test_again_nothing_is_left_to_delete(self, journal: Journal) -> None:
        placed = await publish(journal, *events(5), event(channel="audit"))
        assert 5 == await sweep(journal)
        assert 0 == await sweep(journal)
        assert [Deleted("orders", placed[4], (await journal.deleted())[0].recorded_us, 5)] == await journal.deleted()

    async def test_the_end_of_the_feed_never_goes_back(self, journal: Journal, store: Store) -> None:
        """Positions are not used again, and neither are times."""
        placed = await publish(journal, *events(5))
        assert 4 == await sweep(journal)
        assert placed[-1] == await journal.head()
        store.clock.us -= 1_000_000
        [after] = await publish(journal, event())
        assert after > placed[-1]
        feed = await whole_feed(journal)
        assert [placed[-1], after] == [record.position for record in feed]
        assert feed[0].recorded_us <= feed[1].recorded_us
        assert 1 == await sweep(journal)
        assert await publish(journal, event()) > [after]

    async def test_an_empty_journal_has_nothing_to_delete(self, journal: Journal) -> None:
        assert Sweep(0, 0, False) == await journal.sweep("orders", after=0, upto=EVERYTHING, limit=10)
        assert [] == await journal.deleted()

    async def test_whoever_lost_the_lease_deletes_nothing(self, journal: Journal) -> None:
        await publish(journal, *events(5))
        first, second = process("first"), process("second")
        await journal.lease(first, ["upkeep"], [], START_US, START_US + LEASE_US)
        later = START_US + 2 * LEASE_US
        view = await journal.lease(second, ["upkeep"], [], later, later + LEASE_US)
        assert 2 == view.held["upkeep"].epoch
        for fence in (Fence("upkeep", 1), Fence("nobody's", 1)):
            with pytest.raises(Fenced):
                await sweep(journal, fence=fence)
        assert 5 == len(await whole_feed(journal))
        assert 4 == await sweep(journal, fence=Fence("upkeep", 2))


class WhatHoldsThemBack:
    @pytest.mark.parametrize("state", ["active", "paused", "suspended"])
    async def test_a_subscription_that_has_not_read_them(self, journal: Journal, state: Any) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(6))
        await everything_finished(journal, subscription, placed[2])
        if state != "active":
            await journal.control([SetState(subscription.number, state)])
        assert 3 == await sweep(journal)
        assert placed[3:] == [record.position for record in await whole_feed(journal)]

    async def test_the_hindmost_partition_counts(self, journal: Journal) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(6))
        done = [
            finished(subscription, (0, placed[-1]), partition=partition) for partition in range(16) if partition != 3
        ]
        assert (await commit(journal, done=done)).ok
        assert 0 == await sweep(journal)
        assert (await commit(journal, done=[finished(subscription, (0, placed[1]), partition=3)])).ok
        assert 2 == await sweep(journal)

    async def test_what_is_finished_beyond_the_cursor_is_not_yet_old(self, journal: Journal) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(6))
        for partition in range(16):
            assert (
                await commit(journal, done=[finished(subscription, (placed[0], placed[3]), partition=partition)])
            ).ok
        assert 0 == await sweep(journal)

    async def test_one_that_reads_another_channel_or_was_given_up_does_not(self, journal: Journal) -> None:
        given_up = await one_subscription(journal, start="earliest")
        elsewhere = handler("audit.keep", channels=("audit",), start="earliest")
        await start(journal, elsewhere, service="audit")
        await publish(journal, *events(3))
        assert 0 == await sweep(journal)
        await journal.control([SetState(given_up.number, "retired")])
        assert 2 == await sweep(journal)

    async def test_a_rewind_holds_what_comes_after_it(self, journal: Journal) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(6))
        await everything_finished(journal, subscription, placed[-1])
        await journal.control([Rewind(subscription.number, placed[1])])
        assert 2 == await sweep(journal)

    @pytest.mark.parametrize("state", ["parked", "dead", "held"])
    async def test_a_delivery_that_is_not_settled_keeps_its_event(self, journal: Journal, state: Any) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(4))
        await everything_finished(journal, subscription, placed[-1])
        records = await whole_feed(journal)
        row = await park(journal, parked(subscription, records[1], state=state))
        assert 2 == await sweep(journal)
        assert records[1] == await journal.event(records[1].id)

        settle = Change(row.number, state="settled", while_state=(state,))
        assert "done" == (await commit(journal, changes=[settle])).kind
        assert 1 == await sweep(journal)
        assert [] == await journal.deliveries()  # it goes with its event

    async def test_settled_deliveries_of_what_is_kept_stay(self, journal: Journal) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(2))
        await everything_finished(journal, subscription, placed[-1])
        first, last = await whole_feed(journal)
        for record in (first, last):
            await park(journal, parked(subscription, record, state="settled"))
        assert 1 == await sweep(journal)
        assert [last.position] == [row.position for row in await journal.deliveries()]

    async def test_events_of_streams_are_never_deleted(self, journal: Journal) -> None:
        await publish(journal, *events(2))
        stream = await publish_to(journal, "cart-1", *events(3))
        await publish(journal, *events(2))
        assert 3 == await sweep(journal)
        assert stream.positions == [record.position for record in await journal.stream("orders", "cart-1")]
        verdict = await publish_to(journal, "cart-1", event(), expected=3)
        assert ("done", [4]) == (verdict.kind, verdict.versions)

    async def test_a_timer_keeps_its_own_event(self, journal: Journal, store: Store) -> None:
        to_come = event()
        await commit(journal, Unit(timers=[Timer(START_US + 10, to_come)]))
        await publish(journal, *events(3))
        assert 2 == await sweep(journal)
        assert 1 == await journal.fire(store.clock.forward(20), 10)
        assert ids([to_come]) == ids((await whole_feed(journal))[-1:])


class WhatReadersSee:
    @pytest.mark.parametrize("limit", [1, 7, 500])
    async def test_history_begins_later(self, journal: Journal, limit: int) -> None:
        placed = await publish(journal, *events(40), event(channel="audit"), *events(5))
        await sweep(journal, upto=placed[39])
        pages = await all_pages(journal, limit=limit)
        assert placed[40:] == [record.position for page in pages for record in page.records]
        assert placed[40:] == [record.position for record in await whole_feed(journal, after=placed[7], limit=limit)]

    async def test_a_subscription_from_the_earliest_begins_with_what_is_left(self, journal: Journal) -> None:
        placed = await publish(journal, *events(10))
        await sweep(journal, upto=placed[5])
        subscription = await one_subscription(journal, start="earliest")
        verdict = await commit(journal, done=[finished(subscription, (0, placed[6]))])
        assert "done" == verdict.kind
        both = await start(journal, handler(), handler("email.second", start=placed[2]))
        begins = both.subscriptions[1]
        assert {placed[2]} == {row.position for row in await journal.cursors([begins.number])}

    async def test_what_was_deleted_is_found_no_more(self, journal: Journal) -> None:
        cause = event()
        effect = caused_by(cause)
        placed = await publish(journal, cause, effect, *events(2))
        await sweep(journal, upto=placed[0])
        assert await journal.event(cause.id) is None
        assert ids([effect]) == ids(await journal.correlated(id_text(cause.id)))
        await sweep(journal, upto=placed[1])
        assert [] == await journal.correlated(id_text(cause.id))

    async def test_position_at_knows_only_what_is_there(self, journal: Journal, store: Store) -> None:
        placed = await publish(journal, *events(4))
        store.clock.forward(1_000)
        placed += await publish(journal, *events(4))
        await sweep(journal, upto=placed[3])
        assert 0 == await journal.position_at(store.clock.us)
        assert placed[-1] == await journal.position_at(store.clock.us + 1)

    async def test_an_id_is_known_for_as_long_as_its_event_is_there(self, journal: Journal) -> None:
        first, *more = events(3)
        placed = await publish(journal, first, *more)
        assert "repeated" == (await commit(journal, appends=[Append([first])])).kind
        await sweep(journal, upto=placed[0])
        again = await commit(journal, appends=[Append([first])])
        assert "done" == again.kind
        assert again.positions[0] > placed[-1]

    async def test_sizes_of_channels(self, journal: Journal) -> None:
        placed = await publish(journal, *events(6), *events(2, channel="audit"), event(channel=None))
        await sweep(journal, upto=placed[3])
        sizes = [ChannelSize("audit", 2, True), ChannelSize("orders", 2, True), ChannelSize(None, 1, True)]
        assert sizes == await journal.channel_sizes()

    async def test_describe_says_what_is_kept_and_who_holds_it(self, journal: Journal, store: Store) -> None:
        subscription = await one_subscription(journal, start="earliest")
        placed = await publish(journal, *events(6))
        await everything_finished(journal, subscription, placed[1])
        await journal.keep("shop", {"orders": DAY_US}, store.clock.us)
        facts = await journal.describe()
        assert ("orders 1d", 0, None) == tuple(facts[f"retention{word}"] for word in ("", "_deleted", "_held_by"))

        store.clock.forward(2 * DAY_US)
        await sweep(journal)
        facts = await journal.describe()
        assert (placed[2], 2) == (facts["oldest_position"], facts["retention_deleted"])
        assert facts["oldest_us"] == START_US
        assert f"email.confirm holds orders at {placed[1]} of {placed[5]}" == facts["retention_held_by"]

    async def test_a_put_of_what_is_gone_is_whole_by_itself(self, journal: Journal) -> None:
        """An owner that read it before parks it after."""
        subscription = await one_subscription(journal, start="now")
        placed = await publish(journal, *events(3))
        record = (await whole_feed(journal))[0]
        await everything_finished(journal, subscription, placed[-1])
        await sweep(journal)
        put: Put = parked(subscription, record)
        row = await park(journal, put)
        assert record == row.record


class BackingUp:
    @needs("backups")
    async def test_a_copy_has_all_that_was_stored(self, journal: Journal, tmp_path: Path) -> None:
        await publish(journal, *events(3))
        assert journal.backups
        copy = await journal.backup(tmp_path / "copy.db")
        assert (3, await journal.head()) == (copy.events, copy.position)

    @needs("backups")
    async def test_a_file_that_is_there_is_not_replaced_unless_told(self, journal: Journal, tmp_path: Path) -> None:
        await publish(journal, event())
        await journal.backup(tmp_path / "copy.db")
        with pytest.raises(SettingsError):
            await journal.backup(tmp_path / "copy.db")
        await publish(journal, event())
        assert 2 == (await journal.backup(tmp_path / "copy.db", force=True)).events

    @lacks("backups")
    async def test_without_backups_it_says_so(self, journal: Journal, tmp_path: Path) -> None:
        assert not journal.backups
        with pytest.raises(SettingsError):
            await journal.backup(tmp_path / "copy.db")
        assert not (tmp_path / "copy.db").exists()
