"""Leases and processes, timers, waking up, and coming back."""

from __future__ import annotations

import asyncio

from ....journal.port import Append, Fence, Journal, LeaseView, Process, SetState, StartMark, Timer, Unit
from ..running import needs
from .material import (
    LEASE_US,
    START_US,
    Bell,
    Store,
    commit,
    cursor,
    event,
    finished,
    ids,
    one_subscription,
    park,
    parked,
    process,
    publish,
    publish_to,
    whole_feed,
)


async def say(
    journal: Journal, who: Process, at_us: int, take: tuple[str, ...] = (), release: tuple[str, ...] = ()
) -> LeaseView:
    return await journal.lease(who, take, release, START_US + at_us, START_US + at_us + LEASE_US)


class Leases:
    async def test_a_free_lease_is_taken(self, journal: Journal) -> None:
        view = await say(journal, process("p1"), 0, ("a", "b"))
        assert {"a", "b"} == set(view.held)
        lease = view.held["a"]
        assert ("a", "p1", START_US + LEASE_US, False) == (lease.name, lease.owner, lease.until_us, lease.unclean)
        assert lease.epoch > 0
        assert sorted(view.held.values()) == sorted(await journal.leases())

    async def test_it_is_not_taken_from_an_owner_who_lives(self, journal: Journal, other: Journal) -> None:
        mine = (await say(journal, process("p1"), 0, ("a",))).held["a"]
        assert {} == (await say(other, process("p2"), LEASE_US - 1, ("a",))).held
        assert [mine] == await other.leases()

    async def test_asking_again_renews_and_leaves_the_epoch(self, journal: Journal) -> None:
        first = (await say(journal, process("p1"), 0, ("a",))).held["a"]
        renewed = first._replace(until_us=START_US + 7 + LEASE_US)
        assert renewed == (await say(journal, process("p1"), 7)).held["a"]
        assert renewed == (await say(journal, process("p1"), 7, ("a",))).held["a"]

    async def test_what_was_given_back_is_free_and_clean(self, journal: Journal) -> None:
        first = (await say(journal, process("p1"), 0, ("a", "b"))).held["a"]
        assert {"b"} == set((await say(journal, process("p1"), 1, release=("a", "unheard of"))).held)
        second = (await say(journal, process("p2"), 2, ("a",))).held["a"]
        assert second.epoch > first.epoch
        assert not second.unclean

    async def test_nobody_gives_back_what_another_holds(self, journal: Journal) -> None:
        await say(journal, process("p1"), 0, ("a",))
        await say(journal, process("p2"), 1, release=("a",))
        assert {"a"} == set((await say(journal, process("p1"), 2)).held)

    async def test_a_lease_of_the_dead_is_taken_over_uncleanly(self, journal: Journal) -> None:
        first = (await say(journal, process("p1"), 0, ("a",))).held["a"]
        second = (await say(journal, process("p2"), LEASE_US + 1, ("a",))).held["a"]
        assert second.epoch > first.epoch
        assert second.unclean

        late = Unit([Append([event()])], [Fence("a", first.epoch)])
        assert "fenced" == (await commit(journal, late)).kind
        assert {} == (await say(journal, process("p1"), LEASE_US + 2, ("a",))).held, "and not given back to it"

        await say(journal, process("p2"), LEASE_US + 3, release=("a",))
        assert not (await say(journal, process("p1"), LEASE_US + 4, ("a",))).held["a"].unclean

    async def test_who_was_late_but_missed_by_nobody_goes_on(self, journal: Journal) -> None:
        first = (await say(journal, process("p1"), 0, ("a",))).held["a"]
        assert first.epoch == (await say(journal, process("p1"), 3 * LEASE_US)).held["a"].epoch

    async def test_of_many_that_ask_at_once_one_has_it(self, journal: Journal, other: Journal) -> None:
        views = await asyncio.gather(
            *(say(each, process(f"{n} {i}"), 0, ("a",)) for i in range(5) for n, each in enumerate((journal, other)))
        )
        assert 1 == sum(len(view.held) for view in views)

    async def test_who_leaves_frees_its_leases_and_is_forgotten(self, journal: Journal) -> None:
        first = (await say(journal, process("p1"), 0, ("a", "b"))).held["a"]
        await journal.leave(process("p1"))
        assert [] == await journal.processes()
        second = (await say(journal, process("p2"), 1, ("a",))).held["a"]
        assert second.epoch > first.epoch
        assert not second.unclean

    async def test_everyone_sees_who_lives_in_the_service(self, journal: Journal) -> None:
        await say(journal, process("p1", generation=3), 0)
        await say(journal, process("stranger", service="billing"), 0)
        view = await say(journal, process("p2"), 5)
        assert {"p1": 3, "p2": 1} == {row.id: row.generation for row in view.processes}
        assert {START_US + LEASE_US, START_US + 5 + LEASE_US} == {row.until_us for row in view.processes}
        assert ["p2"] == [row.id for row in (await say(journal, process("p2"), LEASE_US + 2)).processes]

    async def test_a_process_is_read_as_it_said_of_itself(self, journal: Journal) -> None:
        me = process("p1")._replace(pid_started="12:34")
        await say(journal, me, 0)
        assert [me._replace(until_us=START_US + LEASE_US)] == await journal.processes()


class Timers:
    async def test_they_fire_in_order_of_when_they_are_due(self, journal: Journal) -> None:
        early, tie, same, late = (event() for _ in range(4))
        await commit(journal, timers=[Timer(30, late), Timer(20, same), Timer(20, tie), Timer(10, early)])
        assert 10 == await journal.next_due()
        assert ids([early, tie, same, late]) == ids([timer.record for timer in await journal.timers()])

        assert 4 == await journal.fire(30, 100)
        assert ids([early, tie, same, late]) == ids(await whole_feed(journal))
        assert await journal.next_due() is None

    async def test_r11_never_early(self, journal: Journal) -> None:
        record = event()
        await commit(journal, timers=[Timer(20, record)])
        assert 0 == await journal.fire(19, 100)
        assert await journal.event(record.id) is None
        assert 1 == await journal.fire(20, 100)

    async def test_it_is_appended_as_it_was_set_and_recorded_when_it_fired(
        self, journal: Journal, store: Store
    ) -> None:
        record = event(meta=b"{}", data=b"\x00\xff")
        await commit(journal, timers=[Timer(20, record)])
        store.clock.forward(5_000)
        await journal.fire(store.clock.us, 100)
        [fired] = await whole_feed(journal)
        assert record._replace(position=fired.position, recorded_us=store.clock.us) == fired

    async def test_only_once_whoever_asks(self, journal: Journal, other: Journal) -> None:
        await commit(journal, timers=[Timer(20, event()) for _ in range(20)])
        fired = await asyncio.gather(*(each.fire(20, 3) for _ in range(10) for each in (journal, other)))
        assert 20 == sum(fired) == await journal.head()
        assert all(number <= 3 for number in fired)

    async def test_setting_it_again_sets_nothing(self, journal: Journal) -> None:
        unit = Unit(timers=[Timer(20, event())])
        assert (await commit(journal, unit)).ok
        assert (await commit(journal, unit)).ok
        assert 1 == len(await journal.timers())
        await journal.fire(20, 100)
        assert (await commit(journal, unit)).ok, "asked again after it has fired"
        assert await journal.next_due() is None

    async def test_a_cancelled_timer_does_not_fire(self, journal: Journal) -> None:
        gone, stays = event(), event()
        await commit(journal, timers=[Timer(10, gone), Timer(20, stays)])
        verdict = await commit(journal, cancels=[gone.id, b"?" * 16])
        assert ("done", 1) == (verdict.kind, verdict.cancelled)
        assert 20 == await journal.next_due()
        assert 1 == await journal.fire(99, 100)
        assert ids([stays]) == ids(await whole_feed(journal))
        assert 0 == (await commit(journal, cancels=[stays.id])).cancelled, "too late"

    async def test_a_refused_unit_sets_none(self, journal: Journal) -> None:
        await publish_to(journal, "s", event())
        await commit(journal, appends=[Append([event()], "orders", "s", 0)], timers=[Timer(10, event())])
        assert [] == await journal.timers()

    async def test_they_are_listed_up_to_a_limit(self, journal: Journal) -> None:
        await commit(journal, timers=[Timer(30 - n, event()) for n in range(9)])
        assert [22, 23, 24] == [timer.due_us for timer in await journal.timers(3)]


class Watching:
    async def test_a_commit_that_appends_rings(self, journal: Journal) -> None:
        bell = Bell(journal)
        await publish(journal, event())
        await bell.rings()
        bell.stop()

    async def test_so_do_a_timer_and_its_firing(self, journal: Journal) -> None:
        bell = Bell(journal)
        await commit(journal, timers=[Timer(20, event())])
        await bell.rings()
        await journal.fire(20, 10)
        await bell.rings()
        bell.stop()

    async def test_so_does_control(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        bell = Bell(journal)
        await journal.control([SetState(mine.number, "paused")])
        await bell.rings()
        bell.stop()

    async def test_everyone_who_opened_the_store_hears_it(self, journal: Journal, other: Journal) -> None:
        bells = [Bell(journal), Bell(other), Bell(other)]
        for _ in range(3):
            await publish(journal, event())
            await asyncio.gather(*(bell.rings() for bell in bells))
        for bell in bells:
            bell.stop()

    async def test_who_has_stopped_hears_nothing(self, journal: Journal) -> None:
        stopped, listening = Bell(journal), Bell(journal)
        await publish(journal, event())
        stopped.stop()
        before = stopped.times
        await listening.rings()
        await publish(journal, event())
        await listening.rings()
        assert before == stopped.times
        stopped.stop()
        listening.stop()


class Reopening:
    @needs("persistent")
    async def test_what_is_remembered_outlives_the_process(self, store: Store) -> None:
        journal = await store.open()
        mine = await one_subscription(journal)
        record = event()
        await publish_to(journal, "o-1", record)
        await commit(journal, done=[finished(mine, (0, 1), (3, 5))], starts=[StartMark(mine.number, 5, 9)])
        await commit(journal, timers=[Timer(20, event())])
        row = await park(journal, parked(mine, event(position=9)))
        lease = (await say(journal, process("p1"), 0, ("a",))).held["a"]
        id, control, timers, feed = (
            journal.id,
            await journal.control_version(),
            await journal.timers(),
            await whole_feed(journal),
        )
        await journal.close()

        journal = await store.open()
        assert (id, control, timers, feed) == (
            journal.id,
            await journal.control_version(),
            await journal.timers(),
            await whole_feed(journal),
        )
        assert 1 == await journal.stream_version("orders", "o-1")
        assert [mine] == await journal.subscriptions()
        assert (1, [(3, 5)]) == await cursor(journal, mine)
        assert {(5, 9): (1, 0)} == await journal.starts(mine.number)
        assert [row] == await journal.deliveries()
        assert [lease] == await journal.leases()
        assert [feed[-1].position + 1] == await publish(journal, event())
        await journal.close()
