"""Notes: small named values, compared and set, that change with the rest of a unit or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ....errors import Conflict, UnitFailed
from ....journal.notes import KEY_BYTES_MAX, VALUE_BYTES_MAX
from ....journal.port import Append, Fence, Journal, Note, Noted, Unit
from .material import START_US, Store, commit, event, finished, one_subscription, publish_to


def note(key: str = "a", value: bytes | None = b"1", expected: int | None = None, **given: Any) -> Note:
    return Note("email", "snapshot", key, value, expected)._replace(**given)


async def kept(journal: Journal, *keys: str) -> list[tuple[str, int, bytes]]:
    return [(row.key, row.version, row.value) for row in await journal.notes("email", "snapshot", keys or None)]


class Notes:
    async def test_a_note_is_read_as_it_was_written(self, journal: Journal) -> None:
        value = bytes(range(256))
        assert "done" == (await commit(journal, notes=[note("köln:1%", value)])).kind
        assert [Noted("köln:1%", 1, value)] == await journal.notes("email", "snapshot", ["köln:1%"])
        assert all(type(row) is Noted for row in await journal.notes("email", "snapshot"))

    async def test_each_write_raises_its_version(self, journal: Journal) -> None:
        for number in range(1, 4):
            await commit(journal, notes=[note(value=b"%d" % number)])
            assert [("a", number, b"%d" % number)] == await kept(journal)

    async def test_a_note_that_is_removed_is_forgotten_and_begins_anew(self, journal: Journal) -> None:
        await commit(journal, notes=[note(), note()])
        assert "done" == (await commit(journal, notes=[note(value=None)])).kind
        assert [] == await kept(journal)
        assert "done" == (await commit(journal, notes=[note(value=None)])).kind, "there is none to remove"
        assert "done" == (await commit(journal, notes=[note(expected=0)])).kind
        assert [("a", 1, b"1")] == await kept(journal)

    async def test_notes_of_another_service_or_kind_are_others(self, journal: Journal) -> None:
        await commit(journal, notes=[note(), note(kind="view", value=b"2"), note(service="desk", value=b"3")])
        assert [Noted("a", 1, b"1")] == await journal.notes("email", "snapshot")
        assert [Noted("a", 1, b"2")] == await journal.notes("email", "view")
        assert [Noted("a", 1, b"3")] == await journal.notes("desk", "snapshot")
        assert [] == await journal.notes("desk", "view")

    async def test_they_are_read_by_key_or_page_by_page(self, journal: Journal) -> None:
        keys = sorted(["B", "Z", "a", "b", "c:1", "z", "ä", "東", "𝄞"])
        await commit(journal, notes=[note(key) for key in reversed(keys)])
        assert keys == [row.key for row in await journal.notes("email", "snapshot")]
        first = await journal.notes("email", "snapshot", limit=4)
        rest = await journal.notes("email", "snapshot", after=first[-1].key)
        assert keys == [row.key for row in [*first, *rest]]
        assert ["a", "z"] == [row[0] for row in await kept(journal, "z", "none", "a", "z")]
        assert [] == await journal.notes("email", "snapshot", [])

    async def test_they_outlive_who_wrote_them(self, journal: Journal, other: Journal) -> None:
        await commit(journal, notes=[note()])
        assert [Noted("a", 1, b"1")] == await other.notes("email", "snapshot", ["a"])


class NotesComparedAndSet:
    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_a_wrong_version_is_a_conflict_and_nothing_is_stored(self, journal: Journal, expected: int) -> None:
        await commit(journal, notes=[note(), note()])
        for value in (b"2", None):
            unit = Unit([Append([event()])], notes=[note("beside"), note(value=value, expected=expected)])
            verdict = await commit(journal, unit)
            assert "conflict" == verdict.kind
            assert isinstance(verdict.error, Conflict)
            assert 2 == verdict.error.details["version"]
        assert [("a", 2, b"1")] == await kept(journal)
        assert 0 == await journal.head()

    async def test_what_is_expected_of_a_stream_that_has_moved_on_keeps_the_note_away(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", event())
        unit = Unit([Append([event()], "orders", "o-1", 0)], notes=[note()])
        assert "conflict" == (await commit(journal, unit)).kind
        assert [] == await kept(journal)

    async def test_a_unit_expects_on_top_of_what_it_noted_itself(self, journal: Journal) -> None:
        steps = [note(expected=0), note(expected=1, value=b"2"), note(expected=2, value=None), note(expected=0)]
        assert "done" == (await commit(journal, notes=steps)).kind
        assert [("a", 1, b"1")] == await kept(journal)

    async def test_within_one_group_the_first_wins(self, journal: Journal) -> None:
        verdicts = await journal.commit([Unit(notes=[note(expected=0, value=b"%d" % n)]) for n in range(5)])
        assert ["done"] + ["conflict"] * 4 == [verdict.kind for verdict in verdicts]
        assert [("a", 1, b"0")] == await kept(journal)

    async def test_of_many_that_expect_the_same_version_exactly_one_wins(
        self, journal: Journal, other: Journal
    ) -> None:
        for version in range(8):
            racing = [commit(each, notes=[note(expected=version)]) for each in (journal, other) for _ in range(4)]
            assert ["conflict"] * 7 + ["done"] == sorted(verdict.kind for verdict in await asyncio.gather(*racing))
        assert [("a", 8, b"1")] == await kept(journal)

    async def test_two_notes_are_set_together_or_not_at_all(self, journal: Journal) -> None:
        await commit(journal, notes=[note("b")])
        assert "conflict" == (await commit(journal, notes=[note("a", expected=0), note("b", expected=0)])).kind
        assert [("b", 1, b"1")] == await kept(journal)


class NotesInUnits:
    async def test_a_unit_that_is_refused_writes_none(self, journal: Journal) -> None:
        assert "fenced" == (await commit(journal, fences=[Fence("lost", 1)], notes=[note()])).kind
        assert [] == await kept(journal)

    async def test_a_repetition_of_ranges_writes_none(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        unit = Unit(done=[finished(mine, (0, 1))], notes=[note()])
        assert ["done", "repeated"] == [(await commit(journal, unit)).kind for _ in range(2)]
        assert [("a", 1, b"1")] == await kept(journal)

    async def test_a_repetition_of_events_writes_none(self, journal: Journal) -> None:
        unit = Unit([Append([event()])], notes=[note(expected=0)])
        assert ["done", "repeated"] == [(await commit(journal, unit)).kind for _ in range(2)]
        assert ["repeated"] * 2 == [verdict.kind for verdict in await journal.commit([unit, unit])]
        assert [("a", 1, b"1")] == await kept(journal)

    async def test_a_repetition_in_one_group_writes_none(self, journal: Journal) -> None:
        unit = Unit([Append([event()])], notes=[note()])
        assert ["done", "repeated"] == [verdict.kind for verdict in await journal.commit([unit, unit])]
        assert [("a", 1, b"1")] == await kept(journal)

    @pytest.mark.parametrize(
        "refused",
        [
            note(value=b"x" * (VALUE_BYTES_MAX + 1)),
            note("k" * (KEY_BYTES_MAX + 1)),
            note(""),
            note("a\0b"),
            note("\ud800"),
            note(kind=""),
            note(kind="k" * (KEY_BYTES_MAX + 1)),
        ],
        ids=lambda one: f"{one.kind[:3]}-{one.key[:3].encode('utf-8', 'replace')!r}-{len(one.value)}",
    )
    async def test_what_is_too_large_or_no_name_fails_its_unit_and_no_other(
        self, journal: Journal, refused: Note
    ) -> None:
        verdicts = await journal.commit([Unit([Append([event()])], notes=[refused]), Unit(notes=[note()])])
        assert ["failed", "done"] == [verdict.kind for verdict in verdicts]
        assert isinstance(verdicts[0].error, UnitFailed)
        assert 0 == await journal.head()

    async def test_what_is_as_large_as_may_be_is_kept(self, journal: Journal) -> None:
        large = note("k" * KEY_BYTES_MAX, b"x" * VALUE_BYTES_MAX)
        assert "done" == (await commit(journal, notes=[large])).kind
        assert [VALUE_BYTES_MAX] == [len(row.value) for row in await journal.notes("email", "snapshot", [large.key])]


class NotesThatEnd:
    async def test_they_stay_until_their_time_and_go_by_and_by(self, journal: Journal, store: Store) -> None:
        """Gone a while after it, at the latest when as many others that end have been written."""
        ending = [note(f"old-{number}", until_us=START_US + 1_000) for number in range(20)]
        await commit(journal, notes=[*ending, note("stays")])
        await commit(journal, notes=[note("between", until_us=START_US + 2_000)])
        assert 22 == len(await kept(journal))

        store.clock.forward(1_500)
        for number in range(20):
            await commit(journal, notes=[note(f"new-{number}", until_us=START_US + 9_000)])
        keys = {row[0] for row in await kept(journal)}
        assert {"between", "stays", *(f"new-{number}" for number in range(20))} == keys

    async def test_a_note_that_is_written_again_counts_from_then(self, journal: Journal, store: Store) -> None:
        await commit(journal, notes=[note(until_us=START_US + 1_000)])
        await commit(journal, notes=[note(until_us=START_US + 9_000)])
        await commit(journal, notes=[note("b", until_us=START_US + 1_000)])
        await commit(journal, notes=[note("b")])
        store.clock.forward(2_000)
        await commit(journal, notes=[note("c", until_us=START_US + 9_000)])
        assert ["a", "b", "c"] == [row[0] for row in await kept(journal)]
