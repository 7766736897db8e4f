"""Many at once: writers that expect the same version, readers beside them, owners that are late, groups of all kinds."""

from __future__ import annotations

import asyncio
import random

import pytest

from ....journal.cursors import fold
from ....journal.port import Append, Done, Fence, Journal, Record, Seen, Statement, Timer, Unit
from ..running import needs
from .material import (
    LEASE_US,
    START_US,
    caused_by,
    commit,
    cursor,
    event,
    events,
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


class Racing:
    """Two that opened the store, and several tasks of each."""

    async def test_who_loses_a_race_reads_and_tries_again_until_everyone_has_won(
        self, journal: Journal, other: Journal
    ) -> None:
        async def win(each: Journal, times: int) -> list[int]:
            won: list[int] = []
            while len(won) < times:
                version = await each.stream_version("orders", "o-1")
                verdict = await publish_to(each, "o-1", event(), expected=version)
                assert verdict.kind in ("done", "conflict"), verdict
                won += verdict.versions if verdict.ok else []
            return won

        won = await asyncio.gather(*(win(each, 5) for _ in range(3) for each in (journal, other)))
        assert list(range(1, 31)) == sorted(version for each in won for version in each)
        assert 30 == len(await journal.stream("orders", "o-1"))

    async def test_a_batch_over_two_streams_wins_or_loses_both(self, journal: Journal, other: Journal) -> None:
        def batch(version: int) -> Unit:
            return Unit([Append([event()], "orders", "a", version), Append([event()], "orders", "b", version)])

        for version in range(10):
            racing = [commit(each, batch(version)) for each in (journal, other) for _ in range(3)]
            assert ["conflict"] * 5 + ["done"] == sorted(verdict.kind for verdict in await asyncio.gather(*racing))
        assert 10 == await journal.stream_version("orders", "a") == await journal.stream_version("orders", "b")
        assert 20 == await journal.head()

    async def test_a_reader_never_sees_half_of_a_unit(self, journal: Journal, other: Journal) -> None:
        sizes: dict[str, int] = {}
        writing = True

        async def write(each: Journal) -> None:
            for size in (3, 1, 7, 2, 5) * 4:
                name = f"batch {len(sizes)}"
                sizes[name] = size
                await publish(each, *events(size, correlation=name))

        async def read() -> int:
            looks = 0
            while writing:
                page = await other.feed(0, limit=1000)
                seen: dict[str, int] = {}
                for record in page.records:
                    assert record.correlation is not None
                    seen[record.correlation] = seen.get(record.correlation, 0) + 1
                assert {name: sizes[name] for name in seen} == seen
                looks += 1
                await asyncio.sleep(0)
            return looks

        reading = asyncio.create_task(read())
        await asyncio.gather(*(write(each) for each in (journal, other, journal)))
        writing = False
        assert await reading > 0

    async def test_an_append_asked_again_by_many_at_once_happens_once(self, journal: Journal, other: Journal) -> None:
        unit = Unit([Append(events(3), "orders", "o-1", 0), Append([event()])])
        verdicts = await asyncio.gather(*(commit(each, unit) for _ in range(5) for each in (journal, other)))
        assert ["done"] + ["repeated"] * 9 == sorted(verdict.kind for verdict in verdicts)
        assert 1 == len({tuple(verdict.positions) for verdict in verdicts})
        assert 4 == await journal.head()

    async def test_what_many_finish_at_once_moves_the_cursor_without_a_hole(
        self, journal: Journal, other: Journal
    ) -> None:
        mine = await one_subscription(journal)
        spans = [(at, at + 1) for at in range(40)]
        random.Random(3).shuffle(spans)
        await asyncio.gather(
            *(commit((journal, other)[n % 2], done=[finished(mine, span)]) for n, span in enumerate(spans[:30]))
        )
        assert fold(0, [], spans[:30]) == await cursor(journal, mine)
        await asyncio.gather(*(commit(other, done=[finished(mine, span)]) for span in spans[30:]))
        assert (40, []) == await cursor(journal, mine)

    @needs("sql")
    async def test_no_gap_beside_transactions_that_take_long_or_are_rolled_back(
        self, journal: Journal, other: Journal
    ) -> None:
        """A position that a transaction took and never committed is the classic hole: a reader that passes it may lose
        what comes there later."""
        await journal.run_tables("orders", "1", "create table orders_note (n integer)")
        seen: list[Record] = []
        writing = True

        async def read() -> None:
            after = 0
            while writing or after < await other.head():
                page = await other.feed(after, limit=3)
                seen.extend(page.records)
                after = page.scanned
                await asyncio.sleep(0)

        async def slowly(rolled_back: bool) -> int:
            transaction = await journal.begin(5.0)
            await transaction.execute("insert into orders_note values (1)", {})
            for _ in range(20):
                await asyncio.sleep(0)
            if rolled_back:
                await transaction.rollback()
                return 0
            assert (await transaction.commit(Unit([Append(events(2))]))).ok
            return 2

        async def quickly() -> int:
            failing = Unit([Append(events(2))], statements=[Statement("insert into orders_note values (1)", {}, 2)])
            verdicts = await other.commit([Unit([Append([event()])]), failing, Unit([Append([event()])])])
            assert ["done", "failed", "done"] == [verdict.kind for verdict in verdicts]
            return 2

        reading = asyncio.create_task(read())
        stored = await asyncio.gather(*(slowly(n % 2 == 0) if n % 3 else quickly() for n in range(18)))
        writing = False
        await reading
        assert sum(stored) == len(seen) == len({record.id for record in seen})
        assert ids(seen) == ids(await whole_feed(journal))


class Groups:
    """Units that share a commit: each has a verdict of its own, and takes nothing from another."""

    async def test_each_unit_of_a_group_has_its_own_verdict(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        await publish_to(journal, "taken", event())
        again = Unit([Append(events(2))])
        told = await commit(journal, again)
        row = await park(journal, parked(mine, event(position=9), state="dead"))
        group = {
            "plain": (Unit([Append([event()])]), "done"),
            "conflict": (Unit([Append([event()]), Append([event()], "orders", "taken", 0)]), "conflict"),
            "again": (again, "repeated"),
            "fence": (Unit([Append([event()])], [Fence("lost", 1)]), "fenced"),
            "cursor": (Unit([Append([event()])], done=[finished(mine, (0, 1))]), "done"),
            "cursor again": (Unit([Append([event()])], done=[finished(mine, (0, 1))]), "repeated"),
            "generation": (Unit([Append([event()])], done=[Done(mine.number, 5, [(1, 2)], 99)]), "fenced"),
            "row": (Unit([Append([event()])], puts=[parked(mine, event(position=row.position))]), "done"),
            "stream": (Unit([Append(events(2), "orders", "new", 0)]), "done"),
            "stream again": (Unit([Append(events(2), "orders", "new", 0)]), "conflict"),
            "on top": (Unit([Append([event()], "orders", "new", 2)]), "done"),
        }
        verdicts = await journal.commit([unit for unit, _ in group.values()])
        assert {name: kind for name, (_, kind) in group.items()} == dict(
            zip(group, (verdict.kind for verdict in verdicts), strict=True)
        )
        for verdict in verdicts:
            assert verdict.ok == (verdict.error is None)
        assert told.positions == verdicts[2].positions
        assert 3 + 1 + 1 + 1 + 2 + 1 == len(await whole_feed(journal))
        assert (1, []) == await cursor(journal, mine)

    @pytest.mark.parametrize("seed", range(6))
    async def test_groups_of_any_kind_store_exactly_what_their_verdicts_say(self, journal: Journal, seed: int) -> None:
        mine = await one_subscription(journal)
        chance = random.Random(seed)
        stored: list[bytes] = []
        spans: list[tuple[int, int]] = []
        for _ in range(8):
            units = []
            for _ in range(chance.randint(1, 9)):
                at = chance.randint(0, 30)
                unit = Unit([Append(events(chance.randint(1, 3)))], done=[finished(mine, (at, at + 1))])
                if chance.random() < 0.3:
                    unit.appends.append(Append([event()], "orders", "s", chance.randint(0, 2)))
                if chance.random() < 0.2:
                    unit.fences.append(Fence("lost", 1))
                units.append(unit)
            for unit, verdict in zip(units, await journal.commit(units), strict=True):
                if verdict.kind == "done":
                    stored += [record.id for append in unit.appends for record in append.records]
                    spans += unit.done[0].ranges
        assert sorted(stored) == sorted(ids(await whole_feed(journal)))
        assert len(spans) == len(set(spans)), "no range counts twice"
        assert fold(0, [], spans) == await cursor(journal, mine)

    async def test_r2_a_streams_version_is_no_number_of_what_was_published(self, journal: Journal) -> None:
        """Five events of a key were published before its aggregate begins: that begins with version 1."""
        await publish(journal, *events(5, key="42", slot=9))
        verdict = await publish_to(journal, "42", event(key="42", slot=9), expected=0)
        assert ("done", [1], [6]) == (verdict.kind, verdict.versions, verdict.positions)
        assert 6 == len(await whole_feed(journal))
        mine = await one_subscription(journal)
        seen = Seen(mine.number, "5f0c:1", "orders", 9, [(0, 1)])
        assert "done" == (await commit(journal, appends=[Append([event()])], marks=[seen])).kind

    async def test_causes_come_before_effects_whoever_appended_them(self, journal: Journal, other: Journal) -> None:
        cause = event()
        for each in (journal, other) * 5:
            effect = caused_by(cause)
            first, second = await publish(each, cause, effect)
            assert first < second
            cause = effect


class Fencing:
    """Who was the owner, and is late."""

    async def test_of_two_that_take_themselves_for_the_owner_one_can_act(
        self, journal: Journal, other: Journal
    ) -> None:
        mine = await one_subscription(journal)
        old = await journal.lease(process("old"), ["l"], [], START_US, START_US + LEASE_US)
        later = START_US + LEASE_US + 1
        new = await other.lease(process("new"), ["l"], [], later, later + LEASE_US)

        def unit(at: int, epoch: int) -> Unit:
            return Unit([Append([event()])], [Fence("l", epoch)], done=[finished(mine, (at, at + 1))])

        owners = [(journal, old.held["l"].epoch), (other, new.held["l"].epoch)]
        verdicts = await asyncio.gather(*(commit(each, unit(at, epoch)) for at in range(10) for each, epoch in owners))
        assert ["fenced", "done"] * 10 == [verdict.kind for verdict in verdicts]
        assert (10, []) == await cursor(journal, mine)
        assert 10 == await journal.head()

    async def test_a_lease_taken_in_between_fences_what_is_on_its_way(self, journal: Journal, other: Journal) -> None:
        epoch = (await journal.lease(process("old"), ["l"], [], START_US, START_US + 1)).held["l"].epoch
        units = [Unit([Append([event()])], [Fence("l", epoch)]) for _ in range(20)]
        later = START_US + LEASE_US
        answers = await asyncio.gather(
            *(commit(journal, unit) for unit in units[:10]),
            other.lease(process("new"), ["l"], [], later, later + LEASE_US),
            *(commit(journal, unit) for unit in units[10:]),
        )
        accepted = sum(1 for answer in answers if getattr(answer, "kind", "") == "done")
        assert accepted == await journal.head()
        assert "fenced" == (await commit(journal, appends=[Append([event()])], fences=[Fence("l", epoch)])).kind

    async def test_who_is_fenced_parks_nothing_marks_nothing_and_sets_no_timer(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        verdict = await commit(
            journal,
            fences=[Fence("lost", 1)],
            done=[finished(mine, (0, 1))],
            puts=[parked(mine, event(position=1))],
            timers=[Timer(START_US, event())],
            marks=[Seen(mine.number, "5f0c:1", "orders", 7, [(0, 1)])],
        )
        assert "fenced" == verdict.kind
        assert [] == await journal.deliveries()
        assert [] == await journal.timers()
        assert {} == await journal.marks(mine.number, "5f0c:1", "orders")
        assert (0, []) == await cursor(journal, mine)
