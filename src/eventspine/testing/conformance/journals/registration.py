"""R8: what a starting service declares meets what is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ....errors import RegistrationRefused
from ....journal.port import Journal, Passed, Registered, SetState, SubscriptionDeclaration
from .material import (
    LEASE_US,
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
    positions,
    process,
    publish,
    reload,
    start,
)

A, B, C = handler("email.a"), handler("email.b"), handler("email.c")
EVERY_PARTITION = set(range(16))


def wider(declared: SubscriptionDeclaration) -> SubscriptionDeclaration:
    return declared._replace(types=(*declared.types, ("orders.OrderShipped", 1)))


async def alive(journal: Journal, registered: Registered, id: str = "p") -> None:
    """A process that said a moment ago that it runs this generation."""
    await journal.lease(process(id, generation=registered.generation), [], [], START_US, START_US + LEASE_US)


class Registering:
    async def test_a_subscription_is_stored_as_it_was_declared(self, journal: Journal) -> None:
        declared = SubscriptionDeclaration(
            "email.confirm",
            ("billing", "orders"),
            (("billing.Paid", None), ("orders.OrderPlaced", 3)),
            "none",
            "waits",
            None,
        )
        [row] = (await start(journal, declared)).subscriptions
        assert ("email", "email.confirm", "active", "none", "waits", "") == (
            row.service, row.name, row.state, row.order, row.on_dead, row.republish,
        )  # fmt: skip
        assert (declared.channels, declared.types) == (row.channels, row.types)
        assert 16 == len(row.uid)
        assert [row] == await journal.subscriptions() == await journal.subscriptions("email")
        assert [] == await journal.subscriptions("billing")

    async def test_the_same_start_again_changes_nothing(self, journal: Journal) -> None:
        first = await start(journal, A, B)
        control = await journal.control_version()
        await publish(journal, *events(3))
        assert first == await start(journal, A, B)
        assert [first.subscriptions[1], first.subscriptions[0]] == list((await start(journal, B, A)).subscriptions)
        assert control == await journal.control_version()
        assert {0} == set((await positions(journal, first.subscriptions[0])).values())

    async def test_what_it_declares_has_a_generation_given_when_it_is_first_seen(self, journal: Journal) -> None:
        first = await start(journal, A)
        second = await start(journal, wider(A))
        third = await start(journal, A._replace(extra="errors=..."))
        assert first.generation < second.generation < third.generation
        assert second.newest == second.generation
        again = await start(journal, wider(A))
        assert (second.generation, third.generation) == (again.generation, again.newest)
        declared = await journal.declarations("email")
        assert [1, 2, 3] == [generation for generation, _ in declared]
        assert "email.a" == json.loads(declared[0][1])[0]["name"]

    async def test_where_it_starts_is_no_part_of_a_generation(self, journal: Journal) -> None:
        first = await start(journal, A)
        assert first == await start(journal, A._replace(start="earliest"))

    async def test_services_do_not_meet(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await publish(journal, event())
        other = (await start(journal, A, service="billing")).subscriptions[0]
        assert other.number != mine.number
        assert other.uid != mine.uid
        assert {0} == set((await positions(journal, other)).values()), "it is the first start of that service"

    async def test_new_filters_are_those_of_the_newest(self, journal: Journal) -> None:
        [before] = (await start(journal, A)).subscriptions
        await commit(journal, done=[finished(before, (0, 4))])
        changed = wider(A)._replace(channels=("billing", "orders"), on_dead="waits", order="none")
        [after] = (await start(journal, changed)).subscriptions
        assert after == before._replace(
            types=changed.types, channels=changed.channels, on_dead="waits", order="none", generation=after.generation
        )
        assert (4, []) == await cursor(journal, after)

    async def test_r8_who_runs_it_when_its_filter_is_widened_is_fenced_from_then_on(self, journal: Journal) -> None:
        [before] = (await start(journal, A)).subscriptions
        [after] = (await start(journal, wider(A))).subscriptions
        await publish(journal, event(type="orders.OrderShipped"), event())
        assert "fenced" == (await commit(journal, done=[finished(before, (0, 2))])).kind
        assert (0, []) == await cursor(journal, after)
        assert "done" == (await commit(journal, done=[finished(after, (0, 1))])).kind
        [narrower] = (await start(journal, A)).subscriptions
        assert after.generation == narrower.generation, "who knows more than is wanted passes nothing"

    async def test_r8_older_code_is_told_what_it_will_pass(self, journal: Journal) -> None:
        await start(journal, A)
        await start(journal, wider(A), B)
        shipped = "orders.OrderShipped"
        await publish(journal, event(type=shipped), event(), *events(2, type=shipped), event(type="orders.Other"))
        [row, _] = (await start(journal, wider(A), B)).subscriptions
        await commit(journal, done=[finished(row, (0, 1))])
        assert () == (await start(journal, wider(A), B)).passes
        assert (Passed("email.a", shipped, 2),) == (await start(journal, A)).passes
        assert () == (await start(journal, A)).passes, "it was told"

    @pytest.mark.parametrize(("before", "after"), [("key", "feed"), ("feed", "none")])
    async def test_cursors_of_partitions_and_of_the_whole_feed_are_not_exchanged(
        self, journal: Journal, before: Any, after: Any
    ) -> None:
        first = await start(journal, A._replace(order=before))
        with pytest.raises(RegistrationRefused, match="order="):
            await start(journal, A._replace(order=after))
        assert list(first.subscriptions) == await journal.subscriptions()

    async def test_a_refused_start_stores_nothing(self, journal: Journal) -> None:
        await start(journal, A)
        before = await journal.subscriptions(), await journal.declarations("email"), await journal.control_version()
        with pytest.raises(RegistrationRefused):
            await start(journal, B)
        assert before == (
            await journal.subscriptions(), await journal.declarations("email"), await journal.control_version(),
        )  # fmt: skip

    async def test_a_name_declared_twice_is_refused(self, journal: Journal) -> None:
        with pytest.raises(RegistrationRefused, match=r"email\.a"):
            await start(journal, A, wider(A))

    async def test_a_change_is_seen(self, journal: Journal) -> None:
        seen = [await journal.control_version()]
        for declared in ([A], [A, B], [wider(A), B], [wider(A)], [wider(A), B]):
            await start(journal, *declared)
            seen.append(await journal.control_version())
        assert seen == sorted(set(seen))


class Starting:
    async def test_the_first_start_of_a_service_begins_at_the_earliest(self, journal: Journal) -> None:
        await publish(journal, *events(5))
        for row in (await start(journal, A, B)).subscriptions:
            assert dict.fromkeys(EVERY_PARTITION, 0) == await positions(journal, row)

    async def test_a_handler_added_later_begins_now(self, journal: Journal) -> None:
        await start(journal, A)
        head = (await publish(journal, *events(5)))[-1]
        first, added = (await start(journal, A, B)).subscriptions
        assert dict.fromkeys(EVERY_PARTITION, head) == await positions(journal, added)
        assert {0} == set((await positions(journal, first)).values())

    @pytest.mark.parametrize(("stated", "begins"), [("earliest", 0), ("now", 5), (3, 3), (0, 0), (5, 5)])
    async def test_unless_stated(self, journal: Journal, stated: Any, begins: int) -> None:
        await publish(journal, *events(5))
        for registered in (
            await start(journal, A._replace(start=stated)),
            await start(journal, A, B._replace(start=stated)),
        ):
            assert {begins} == set((await positions(journal, registered.subscriptions[-1])).values())

    async def test_a_start_is_resolved_once(self, journal: Journal) -> None:
        [mine] = (await start(journal, A._replace(start="now"))).subscriptions
        await publish(journal, *events(5))
        await start(journal, A._replace(start="now"))
        assert {0} == set((await positions(journal, mine)).values())

    async def test_a_handler_of_the_whole_feed_has_one_cursor(self, journal: Journal) -> None:
        await publish(journal, *events(5))
        [mine] = (await start(journal, A._replace(order="feed", start=2))).subscriptions
        assert {-1: 2} == await positions(journal, mine)

    @pytest.mark.parametrize("start_at", [-1, 6])
    async def test_a_start_outside_the_feed_is_refused(self, journal: Journal, start_at: int) -> None:
        await publish(journal, *events(5))
        with pytest.raises(RegistrationRefused, match="position"):
            await start(journal, A._replace(start=start_at))

    async def test_a_service_that_only_published_so_far_begins_at_the_earliest(self, journal: Journal) -> None:
        await start(journal)
        await publish(journal, *events(5))
        [mine] = (await start(journal, A)).subscriptions
        assert {0} == set((await positions(journal, mine)).values())


class Undeclared:
    async def test_what_nobody_declares_any_more_is_suspended(self, journal: Journal) -> None:
        first, second = (await start(journal, A, B)).subscriptions
        assert (first,) == (await start(journal, A)).subscriptions
        row = await reload(journal, second)
        assert "suspended" == row.state
        assert "fenced" == (await commit(journal, done=[finished(second, (0, 1))])).kind
        assert {0} == set((await positions(journal, second)).values()), "and keeps its place"

    async def test_and_goes_on_where_it_was_when_declared_again(self, journal: Journal) -> None:
        _, second = (await start(journal, A, B)).subscriptions
        await commit(journal, done=[finished(second, (0, 3))])
        await start(journal, A)
        await publish(journal, *events(5))
        _, again = (await start(journal, A, B)).subscriptions
        assert second._replace(generation=again.generation) == again
        assert (3, []) == await cursor(journal, again)
        assert "done" == (await commit(journal, done=[finished(again, (3, 4))])).kind

    async def test_what_an_operator_paused_stays_paused(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await journal.control([SetState(mine.number, "paused")])
        assert "paused" == (await one_subscription(journal)).state

    async def test_a_new_handler_beside_it_is_refused_for_it_may_be_a_rename(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        head = (await publish(journal, *events(7)))[-1]
        await publish(journal, event(channel=None), event(channel="billing"), event(type="orders.OrderShipped"))
        await commit(
            journal, done=[finished(old, (0, head - 3), (head - 1, head))], puts=[parked(old, event(position=1))]
        )
        with pytest.raises(RegistrationRefused) as refused:
            await start(journal, B, C)

        said = str(refused.value)
        assert "'email.b', 'email.c'" in said
        assert "'email.a' (3 events not finished)" in said, "two of the feed, one parked"
        assert "@email.on(..., name='b', renamed_from='a')" in said, "as a handler's names are written"
        assert "--retire email.a" in said
        assert [old] == await journal.subscriptions()

    async def test_also_when_it_was_suspended_long_ago(self, journal: Journal) -> None:
        await start(journal, A, B)
        await start(journal, A)
        with pytest.raises(RegistrationRefused, match="renamed_from='b'"):
            await start(journal, A, C)

    async def test_retiring_is_one_way_on(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        [position] = await publish(journal, event())
        registered = await start(journal, B, retire=("email.a", "unheard.of"))
        assert "retired" == (await reload(journal, old)).state
        assert {position} == set((await positions(journal, registered.subscriptions[0])).values())
        assert registered == await start(journal, B, retire=("email.a", "unheard.of")), "idempotent"

    async def test_a_retired_name_may_be_taken_by_another(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        await start(journal, B, retire=("email.a",))
        [_, new] = (await start(journal, B, A)).subscriptions
        assert ("email.a", "active") == (new.name, new.state)
        assert new.number > old.number
        assert new.uid != old.uid

    async def test_what_is_declared_can_not_be_retired(self, journal: Journal) -> None:
        with pytest.raises(RegistrationRefused, match=r"email\.a"):
            await start(journal, A, retire=("email.a",))

    async def test_a_new_handler_alone_is_welcome(self, journal: Journal) -> None:
        await start(journal, A)
        assert ["email.a", "email.b"] == [row.name for row in (await start(journal, A, B)).subscriptions]


class Renames:
    renamed = B._replace(renamed_from="email.a")

    async def test_a_rename_keeps_number_uid_cursor_and_deliveries(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        await commit(journal, done=[finished(old, (0, 3))])
        row = await park(journal, parked(old, event(position=2)))
        [new] = (await start(journal, self.renamed)).subscriptions
        assert old._replace(name="email.b", generation=new.generation) == new
        assert (3, []) == await cursor(journal, new)
        assert [row] == await journal.deliveries(subscriptions=[new.number])

    async def test_whoever_runs_it_under_the_old_name_is_fenced(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        await start(journal, self.renamed)
        assert "fenced" == (await commit(journal, done=[finished(old, (0, 1))])).kind

    async def test_the_rename_may_stay_in_the_code(self, journal: Journal) -> None:
        await start(journal, A)
        first = await start(journal, self.renamed)
        assert first == await start(journal, self.renamed)
        assert first.subscriptions == (await start(journal, B)).subscriptions

    async def test_a_handler_added_beside_a_rename_is_welcome(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        await publish(journal, *events(4))
        new, added = (await start(journal, self.renamed, C._replace(start="earliest"))).subscriptions
        assert old.number == new.number
        assert {0} == set((await positions(journal, added)).values())

    async def test_what_was_suspended_under_its_old_name_is_active_under_the_new(self, journal: Journal) -> None:
        _, old = (await start(journal, C, A)).subscriptions
        await start(journal, C)
        _, new = (await start(journal, C, self.renamed)).subscriptions
        assert ("email.b", "active", old.number) == (new.name, new.state, new.number)

    async def test_a_rename_from_nothing_is_a_new_handler(self, journal: Journal) -> None:
        [new] = (await start(journal, self.renamed)).subscriptions
        assert "email.b" == new.name


class OlderGenerations:
    async def test_an_older_process_beside_a_newer_finds_its_subscriptions_and_changes_nothing(
        self, journal: Journal
    ) -> None:
        first = await start(journal, A, C)
        newer = await start(journal, wider(A), B, retire=("email.c",))
        await alive(journal, newer)
        before = await journal.subscriptions(), await journal.control_version()

        older = await start(journal, A, C)
        assert (first.generation, newer.generation) == (older.generation, older.newest)
        assert ["email.a", "email.c"] == [row.name for row in older.subscriptions]
        assert ["active", "retired"] == [row.state for row in older.subscriptions]
        assert before == (await journal.subscriptions(), await journal.control_version())

    async def test_it_finds_them_under_their_later_names(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        await start(journal, B._replace(renamed_from="email.a"))
        await alive(journal, await start(journal, C._replace(renamed_from="email.b")))
        [joined] = (await start(journal, A)).subscriptions
        assert ("email.c", old.number) == (joined.name, joined.number)

    async def test_when_no_newer_one_is_alive_it_leads_again(self, journal: Journal) -> None:
        older = await start(journal, A, C)
        newer = await start(journal, wider(A))
        await alive(journal, newer)
        await journal.leave(process("p"))
        again = await start(journal, A, C)
        assert (older.generation, newer.generation) == (again.generation, again.newest)
        assert [A.types, C.types] == [row.types for row in again.subscriptions]
        assert ["active", "active"] == [row.state for row in again.subscriptions]

    async def test_neither_is_one_that_has_not_been_heard_of(self, journal: Journal) -> None:
        await start(journal, A, C)
        await alive(journal, await start(journal, A))
        again = await start(journal, A, C, now_us=START_US + LEASE_US + 1)
        assert "active" == again.subscriptions[1].state

    async def test_it_takes_a_rename_back(self, journal: Journal) -> None:
        [old] = (await start(journal, A)).subscriptions
        await start(journal, B._replace(renamed_from="email.a"))
        [again] = (await start(journal, A)).subscriptions
        assert old._replace(generation=again.generation) == again
        [there] = (await start(journal, B._replace(renamed_from="email.a"))).subscriptions
        assert ("email.b", old.number) == (there.name, there.number)

    async def test_rolling_back_leads_at_once(self, journal: Journal) -> None:
        older = await start(journal, A)
        newer = await start(journal, wider(A))
        await alive(journal, newer)
        rolled = await start(journal, A, roll_back=True)
        assert rolled.generation > newer.generation > older.generation
        assert rolled.newest == rolled.generation
        assert A.types == rolled.subscriptions[0].types

        await alive(journal, rolled, "q")
        assert (Passed("email.a", "orders.OrderShipped", 0),) == rolled.passes
        rolled = rolled._replace(passes=())
        assert rolled == await start(journal, A), "a restart leads too"
        assert rolled == await start(journal, A, roll_back=True), "and the flag may stay"
        assert newer.generation == (await start(journal, wider(A))).generation
        assert A.types == (await reload(journal, rolled.subscriptions[0])).types

    async def test_rolling_back_to_what_leads_anyway_is_a_plain_start(self, journal: Journal) -> None:
        first = await start(journal, A)
        assert first == await start(journal, A, roll_back=True)

    async def test_of_another_service_nobody_is_newer(self, journal: Journal) -> None:
        await start(journal, A)
        await journal.lease(process("p", service="billing", generation=9), [], [], START_US, START_US + LEASE_US)
        [row] = (await start(journal, wider(A))).subscriptions
        assert wider(A).types == row.types
