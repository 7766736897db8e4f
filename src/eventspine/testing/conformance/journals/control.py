"""Stored deliveries, start marks, and what operators do to them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ....errors import SettingsError
from ....journal.port import (
    BEHIND,
    Append,
    Change,
    Control as AnyControl,
    Delivery,
    Done,
    Drop,
    Journal,
    Rename,
    Replay,
    Retry,
    Rewind,
    SetState,
    StartMark,
    Unit,
)
from .material import (
    START_US,
    Store,
    commit,
    cursor,
    event,
    events,
    finished,
    handler,
    one_subscription,
    park,
    parked,
    positions,
    process,
    publish,
    reload,
    start,
)


class Deliveries:
    async def test_a_parked_delivery_is_read_as_it_was_put(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        record = event(position=12, slot=21, meta=b"{}", data=b"\x00\xff", correlation="c", causation="d")
        row = await park(journal, parked(mine, record, attempts=3, late=True))
        at = store.clock.us
        assert row == Delivery(
            row.number, mine.number, 5, 12, 21, "customer-1", "parked", 3, 0, START_US + 1_000, "SmtpDown", "no answer",
            "Traceback: ...", True, at, at, record,
        )  # fmt: skip
        assert [row] == await journal.deliveries()

    async def test_a_unit_learns_the_numbers_of_its_puts(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        puts = [parked(mine, event(position=at)) for at in (9, 4, 7)]
        numbers = (await commit(journal, puts=puts)).numbers
        assert [9, 4, 7] == [(await journal.deliveries(numbers=[number]))[0].position for number in numbers]

    async def test_a_second_put_updates_the_first(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        record = event(position=12)
        first = await park(journal, parked(mine, record))
        await commit(journal, changes=[Change(first.number, deaths=2)])
        later = store.clock.forward(50)
        changed: dict[str, Any] = {
            "state": "dead",
            "attempts": 7,
            "due_us": None,
            "reason": "Rejected",
            "error": "e",
            "traceback": "t",
        }
        second = await park(journal, parked(mine, record, **changed))

        assert first._replace(deaths=2, last_us=later, **changed) == second
        assert [second] == await journal.deliveries()

    async def test_a_put_over_what_is_settled_begins_its_time_anew(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        put = parked(mine, event(position=12))
        await park(journal, put._replace(state="settled"))
        later = store.clock.forward(50)
        assert later == (await park(journal, put)).first_us

    async def test_another_place_is_another_row(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        put = parked(mine, event(position=12))
        await commit(journal, puts=[put, put._replace(feed="kafka:c"), put._replace(partition=6), put])
        assert [("", 5), ("kafka:c", 5), ("", 6)] == [(row.feed, row.partition) for row in await journal.deliveries()]

    async def test_a_change_leaves_what_it_does_not_name(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=12)))
        await commit(journal, changes=[Change(row.number, attempts=1)])
        (row,) = await journal.deliveries()
        later = store.clock.forward(50)
        assert "done" == (await commit(journal, changes=[Change(row.number, attempts=2, due_us=99)])).kind
        assert [row._replace(attempts=2, due_us=99, last_us=later)] == await journal.deliveries()

        every: dict[str, Any] = {
            "state": "dead",
            "deaths": 1,
            "reason": "r",
            "error": "e",
            "traceback": "t",
            "late": True,
        }
        await commit(journal, changes=[Change(row.number, **every)])
        assert [row._replace(attempts=2, due_us=99, last_us=later, **every)] == await journal.deliveries()

    async def test_what_waited_behind_another_counts_from_its_own_first_attempt(
        self, journal: Journal, store: Store
    ) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=12), attempts=0, reason=BEHIND))
        store.clock.forward(50)
        await commit(journal, changes=[Change(row.number, deaths=1), Change(row.number, attempts=0)])
        assert [row.first_us] == [row.first_us for row in await journal.deliveries()]
        failed = store.clock.forward(50)
        await commit(journal, changes=[Change(row.number, attempts=1)])
        store.clock.forward(50)
        await commit(journal, changes=[Change(row.number, attempts=2)])
        assert [failed] == [row.first_us for row in await journal.deliveries()]

    async def test_a_delivery_that_is_gone_is_gone(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        put = parked(mine, event(position=12))
        row = await park(journal, put)
        await commit(journal, changes=[Change(row.number, "gone")])
        assert [] == await journal.deliveries()
        assert row.number < (await park(journal, put)).number

    @pytest.mark.parametrize("state", ["dead", "held", "settled"])
    async def test_a_change_is_fenced_when_the_state_is_another(self, journal: Journal, state: Any) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=12), state=state))
        unit = Unit([Append([event()])], changes=[Change(row.number, "settled")], done=[finished(mine, (0, 1))])
        assert "fenced" == (await commit(journal, unit)).kind
        assert 0 == await journal.head()
        assert (0, []) == await cursor(journal, mine)
        assert [row] == await journal.deliveries()

        unit.changes = [Change(row.number, "parked", while_state=("parked", state))]
        assert "done" == (await commit(journal, unit)).kind

    async def test_a_change_of_nothing_is_fenced(self, journal: Journal) -> None:
        assert "fenced" == (await commit(journal, changes=[Change(77, "settled")])).kind

    async def test_of_many_that_settle_the_same_delivery_one_wins(self, journal: Journal, other: Journal) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=12)))
        units = [Unit([Append([event()])], changes=[Change(row.number, "settled")]) for _ in range(6)]
        answers = await asyncio.gather(
            journal.commit(units[:2]), *(each.commit([unit]) for each in (journal, other) for unit in units[2:4])
        )
        kinds = sorted(verdict.kind for verdicts in answers for verdict in verdicts)
        assert ["done"] + ["fenced"] * 5 == kinds
        assert 1 == await journal.head()

    async def test_they_are_found_by_what_one_asks_for(self, journal: Journal) -> None:
        first, second = (await start(journal, handler("email.a"), handler("email.b"))).subscriptions
        material = events(6)
        states = ("parked", "dead", "held", "settled", "parked", "dead")
        for at, (record, state) in enumerate(zip(material, states, strict=True), start=1):
            row = parked(second if at % 2 else first, record._replace(position=at), state=state, partition=at // 3)
            await park(journal, row)

        async def found(**asked: Any) -> list[int]:
            rows = await journal.deliveries(**asked)
            assert [row.number for row in rows] == sorted(row.number for row in rows)
            return [row.position for row in rows]

        everything = await journal.deliveries()
        assert [1, 2, 3, 4, 5, 6] == await found()
        assert [2, 4, 6] == await found(subscriptions=[first.number])
        assert [2, 3, 6] == await found(states=["dead", "held"])
        assert [3, 4, 5] == await found(partitions=[1])
        assert [2, 5] == await found(numbers=[everything[4].number, everything[1].number, 999])
        assert [3, 6] == await found(events=[material[5].id, material[2].id, b"?" * 16])
        assert [5] == await found(subscriptions=[second.number], states=["parked"], partitions=[1, 2])
        assert [4, 5] == await found(after=everything[2].number, limit=2)
        empty: list[dict[str, list[Any]]] = [
            {"subscriptions": []},
            {"states": []},
            {"partitions": []},
            {"numbers": []},
            {"events": []},
        ]
        for nothing in empty:
            assert [] == await found(**nothing)

    async def test_they_come_without_their_records_when_asked(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=12)))
        assert [row._replace(record=None)] == await journal.deliveries(records=False)


class Starts:
    async def test_starts_are_counted_until_they_are_cleared(self, journal: Journal) -> None:
        mark = StartMark(1, 5, 12)
        await commit(journal, starts=[mark, mark._replace(position=13)])
        await commit(journal, starts=[mark._replace(times=2, alone=1)])
        assert {(5, 12): (2, 1), (5, 13): (1, 0)} == await journal.starts(1)
        await commit(journal, starts=[mark._replace(times=0), mark._replace(position=99, times=0)])
        assert {(5, 13): (1, 0)} == await journal.starts(1)

    async def test_a_start_that_is_asked_for_again_is_one(self, journal: Journal) -> None:
        """As when the outcome of the first commit was unknown."""
        for _ in range(2):
            await commit(journal, starts=[StartMark(1, 5, 12, times=3, alone=2)])
        assert {(5, 12): (3, 2)} == await journal.starts(1)

    async def test_a_withdrawn_start_is_not_counted_and_those_before_are(self, journal: Journal) -> None:
        mark = StartMark(1, 5, 12)
        await commit(journal, starts=[mark, mark._replace(times=2, alone=1), mark._replace(position=13)])
        await commit(journal, starts=[mark, mark._replace(position=13, times=0)])
        assert {(5, 12): (1, 0)} == await journal.starts(1)

    async def test_each_subscription_and_partition_has_its_own(self, journal: Journal) -> None:
        await commit(journal, starts=[StartMark(1, 5, 12), StartMark(2, 5, 12), StartMark(1, 6, 12, alone=1)])
        await commit(journal, starts=[StartMark(2, 5, 12, times=2)])
        assert {(5, 12): (1, 0), (6, 12): (1, 1)} == await journal.starts(1)
        assert {(5, 12): (2, 0)} == await journal.starts(2)
        assert {} == await journal.starts(3)

    async def test_a_refused_unit_marks_nothing(self, journal: Journal) -> None:
        await commit(journal, starts=[StartMark(1, 5, 12)], done=[Done(99, 5, [], 1)])
        assert {} == await journal.starts(1)


class Control:
    async def test_replaying_parks_the_dead_due_now_and_late(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        states = ("dead", "parked", "dead", "settled", "held")
        rows = [await park(journal, parked(mine, event(position=at), state=s)) for at, s in enumerate(states, 1)]
        now = store.clock.forward(500)
        numbers = [row.number for row in rows]

        assert 2 == await journal.control([Replay([*numbers, numbers[0], 999])])
        replayed = [
            row._replace(state="parked", due_us=now, late=True, last_us=now) for row in rows if row.state == "dead"
        ]
        assert replayed == await journal.deliveries(numbers=[rows[0].number, rows[2].number])
        assert [rows[1], rows[3], rows[4]] == await journal.deliveries(numbers=[rows[n].number for n in (1, 3, 4)])
        assert 0 == await journal.control([Replay(numbers)]), "replaying is idempotent"

    async def test_a_dropped_delivery_is_neither_dead_nor_parked(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        states = ("dead", "parked", "settled", "held")
        rows = [await park(journal, parked(mine, event(position=at), state=s)) for at, s in enumerate(states, 1)]
        numbers = [row.number for row in rows]
        assert 2 == await journal.control([Drop(numbers)])
        assert [] == await journal.deliveries(states=["dead", "parked"])
        assert rows[2:] == await journal.deliveries(numbers=numbers[2:])
        assert 0 == await journal.control([Drop(numbers)])
        assert 0 == await journal.control([Replay(numbers)]), "what was given up does not come back"

    async def test_who_handles_a_dropped_delivery_is_fenced(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        row = await park(journal, parked(mine, event(position=1)))
        await journal.control([Drop([row.number])])
        assert "fenced" == (await commit(journal, changes=[Change(row.number, "settled")])).kind

    async def test_retrying_makes_the_parked_due_now(self, journal: Journal, store: Store) -> None:
        mine = await one_subscription(journal)
        rows = [
            await park(journal, parked(mine, event(position=at), state=s)) for at, s in enumerate(("parked", "dead"))
        ]
        now = store.clock.forward(500)
        assert 1 == await journal.control([Retry([row.number for row in rows])])
        assert [rows[0]._replace(due_us=now, last_us=now), rows[1]] == await journal.deliveries()

    async def test_rewinding_sets_every_cursor_and_discards_what_came_after(self, journal: Journal) -> None:
        mine, beside = (await start(journal, handler("email.a"), handler("email.b"))).subscriptions
        await publish(journal, *events(30))
        for row in (mine, beside):
            await commit(journal, done=[finished(row, (0, 20), (22, 25)), finished(row, (0, 28), partition=6)])
            await commit(journal, puts=[parked(row, event(position=at), state=s) for at, s in
                                        ((9, "parked"), (10, "dead"), (11, "parked"), (12, "dead"), (13, "held"))])  # fmt: skip
            await commit(journal, starts=[StartMark(row.number, 5, at) for at in (10, 11)])
        control = await journal.control_version()
        assert await journal.control([Rewind(mine.number, 10)]) > 0

        assert dict.fromkeys(range(16), 10) == await positions(journal, mine)
        assert (10, []) == await cursor(journal, mine)
        assert [9, 10] == [row.position for row in await journal.deliveries(subscriptions=[mine.number])]
        assert {(5, 10): (1, 0)} == await journal.starts(mine.number)
        assert control < await journal.control_version()

        assert (20, [(22, 25)]) == await cursor(journal, beside), "one handler is rewound alone"
        assert 5 == len(await journal.deliveries(subscriptions=[beside.number]))
        assert beside == await reload(journal, beside)

    async def test_r13_whoever_runs_on_across_a_rewind_is_fenced(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 20))])
        await journal.control([Rewind(mine.number, 3)])
        assert "fenced" == (await commit(journal, done=[finished(mine, (20, 21))])).kind
        assert (3, []) == await cursor(journal, mine)

        again = await reload(journal, mine)
        assert again.generation > mine.generation
        verdict = await commit(journal, appends=[Append([event()])], done=[finished(again, (3, 4))])
        assert "done" == verdict.kind, "what was finished before is finished no more"

    async def test_a_rewind_may_skip_forward(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await publish(journal, *events(9))
        await journal.control([Rewind(mine.number, 8)])
        assert {8} == set((await positions(journal, mine)).values())

    async def test_a_subscription_to_the_whole_feed_has_one_cursor_to_rewind(self, journal: Journal) -> None:
        mine = await one_subscription(journal, order="feed")
        await publish(journal, *events(9))
        await commit(journal, done=[finished(mine, (0, 9), partition=-1)])
        await journal.control([Rewind(mine.number, 4)])
        assert {-1: 4} == await positions(journal, mine)

    async def test_r19_publishing_again_is_remembered_from_then_on(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        assert "" == mine.republish
        await journal.control([Rewind(mine.number, 0, "fresh")])
        assert "fresh" == (await reload(journal, mine)).republish
        await journal.control([Rewind(mine.number, 0)])
        assert "fresh" == (await reload(journal, mine)).republish

    async def test_a_change_of_state_fences_and_is_seen(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        control = await journal.control_version()
        assert 1 == await journal.control([SetState(mine.number, "paused")])
        row = await reload(journal, mine)
        assert mine._replace(state="paused", generation=row.generation) == row
        assert row.generation > mine.generation
        assert "fenced" == (await commit(journal, done=[finished(mine, (0, 1))])).kind

        view = await journal.lease(process("p"), [], [], START_US, START_US + 1)
        assert control < view.control == await journal.control_version()

    async def test_a_new_name_keeps_number_uid_and_cursor(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await commit(journal, done=[finished(mine, (0, 4))])
        assert 1 == await journal.control([Rename(mine.number, "email.hello")])
        row = await reload(journal, mine)
        assert mine._replace(name="email.hello", generation=row.generation) == row
        assert row.generation > mine.generation
        assert (4, []) == await cursor(journal, row)

    async def test_operations_are_carried_out_as_one(self, journal: Journal) -> None:
        first, second = (await start(journal, handler("email.a"), handler("email.b"))).subscriptions
        control = await journal.control_version()
        with pytest.raises(SettingsError, match=r"email\.b"):
            await journal.control([SetState(second.number, "paused"), Rename(first.number, "email.b")])
        assert [first, second] == await journal.subscriptions()
        assert control == await journal.control_version()

        await journal.control([SetState(second.number, "retired"), Rename(first.number, "email.b")])
        rows = await journal.subscriptions()
        assert [("email.b", "active"), ("email.b", "retired")] == [(row.name, row.state) for row in rows]
        with pytest.raises(SettingsError, match=r"email\.b"):
            await journal.control([SetState(second.number, "active")])

    async def test_what_changes_nothing_is_not_seen(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        control = await journal.control_version()
        nothing: list[AnyControl] = [
            Rewind(99, 0),
            SetState(99, "paused"),
            Rename(99, "x"),
            Replay([5]),
            Drop([]),
            Retry([7]),
        ]
        assert 0 == await journal.control([*nothing, SetState(mine.number, "active")])
        assert control == await journal.control_version()
        assert mine == await reload(journal, mine)
