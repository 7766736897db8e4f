from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from eventspine.errors import JournalError, OutcomeUnknown, SettingsError, UnitFailed
from eventspine.journal import _memory_tables, _memory_units, open_journal
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Append, Journal, Statement, Unit, Verdict
from eventspine.testing.conformance import JournalCapabilities, JournalConformance
from eventspine.testing.conformance.journals.appends import Appends
from eventspine.testing.conformance.journals.control import Deliveries
from eventspine.testing.conformance.journals.feed import Feed
from eventspine.testing.conformance.journals.living import Timers
from eventspine.testing.conformance.journals.marks import Marks
from eventspine.testing.conformance.journals.registration import Undeclared
from eventspine.testing.conformance.journals.units import Cursors, Fences

from .material import START_US, Bell, HandClock, commit, event, finished, one_subscription, publish, whole_feed


@pytest.mark.setup("memory")
class TestMemoryJournal(JournalConformance):
    """It ends with its process, and has neither tables nor copies; all the rest it promises."""

    capabilities = JournalCapabilities()

    async def make(self, clock: HandClock) -> Journal:
        return MemoryJournal(clock)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def journal(clock: HandClock) -> AsyncIterator[Journal]:
    opened = MemoryJournal(clock)
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.promise("process killed", "memory", lost="all of it, with its process")
@pytest.mark.promise("power fails", "memory", lost="all of it, with its process")
async def test_a_url_names_a_fresh_one():
    one, two = open_journal("memory://shop"), open_journal("memory://shop")
    await one.open()
    await two.open()
    await publish(one, event())
    assert 0 == await two.head()
    assert one.id != two.id


async def test_the_same_calls_give_the_same_journal():
    async def live() -> tuple[object, ...]:
        journal = MemoryJournal(HandClock())
        await journal.open()
        mine = await one_subscription(journal)
        await commit(journal, appends=[Append([event(id=b"1" * 16)])], done=[finished(mine, (0, 1))])
        return (
            journal.id,
            await journal.subscriptions(),
            await whole_feed(journal),
            await journal.cursors([mine.number]),
        )

    assert await live() == await live()


async def test_it_is_closed_when_everyone_who_opened_it_has_closed_it():
    journal = MemoryJournal()
    await journal.open()
    await journal.open()
    await journal.close()
    await publish(journal, event())
    await journal.close()
    with pytest.raises(JournalError, match="not open"):
        await journal.head()
    await journal.open()
    assert 1 == await journal.head()


async def test_many_commits_ring_a_watcher_once(journal: MemoryJournal):
    bell = Bell(journal)
    for _ in range(100):
        await journal.commit([Unit([Append([event()])])])
    await bell.rings()
    assert 1 == bell.times


async def test_passing_events_rings_nobody(journal: MemoryJournal):
    mine = await one_subscription(journal)
    await asyncio.sleep(0)  # the registration's own ring
    bell = Bell(journal)
    await commit(journal, done=[finished(mine, (0, 1))])
    await asyncio.sleep(0)
    assert 0 == bell.times


async def test_the_clock_set_back_does_not_upset_the_feed(journal: MemoryJournal, clock: HandClock):
    await publish(journal, event())
    clock.forward(-5_000)
    await publish(journal, event())
    assert [START_US, START_US] == [record.recorded_us for record in await whole_feed(journal)]


async def test_nothing_is_written_within_a_connection(journal: MemoryJournal):
    with pytest.raises(SettingsError, match="sqlite:///spine.db"):
        journal.write_within(object(), Unit())
    with pytest.raises(SettingsError, match="sqlite://"):
        await journal.run_tables("email", "1", "create table t (x)")


async def test_it_says_where_there_are_tables(journal: MemoryJournal):
    verdict = await commit(journal, statements=[Statement("select 1", {})])
    assert "sqlite://" in str(verdict.error)
    for refused in (journal.query("select 1", {}), journal.begin(1.0)):
        with pytest.raises(UnitFailed, match="sqlite://"):
            await refused
    with pytest.raises(SettingsError, match="SQLite"):
        await journal.backup(Path("copy.db"))


class Faulty(MemoryJournal):
    """Some units are lost, and of some the answer is."""

    lost = False
    untold = False

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        unknown = [Verdict("unknown", error=OutcomeUnknown("the disk went away")) for _ in units]
        verdicts = unknown if self.lost else await super().commit(units)
        return unknown if self.untold else verdicts


@pytest.mark.parametrize("fault", ["lost", "untold"])
@pytest.mark.promise("commit unknown", "memory")
async def test_asking_again_after_an_unknown_outcome_does_it_once(fault: str):
    journal = Faulty(HandClock())
    await journal.open()
    mine = await one_subscription(journal)
    unit = Unit([Append([event()], "orders", "o-1", 0)], done=[finished(mine, (0, 1))])
    setattr(journal, fault, True)
    assert "unknown" == (await commit(journal, unit)).kind
    setattr(journal, fault, False)
    verdict = await commit(journal, unit)

    assert {"lost": "done", "untold": "repeated"}[fault] == verdict.kind
    assert ([1], [1]) == (verdict.positions, verdict.versions)
    assert 1 == await journal.head()


# --- the suite finds a journal without its safeguards ---------------------------------------------------------------------


async def test_without_fences_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_memory_units, "_fenced", lambda tables, unit: None)
    with pytest.raises(AssertionError):
        await Fences().test_r13_a_cursor_of_another_generation_fences(journal)


async def test_without_knowing_repetitions_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_memory_units, "_is_repetition", lambda *_: False)
    with pytest.raises(AssertionError):
        await Cursors().test_two_of_one_group_that_finish_the_same_happen_once(journal)


async def test_without_expected_versions_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_memory_units, "_conflict", lambda tables, appends: None)
    with pytest.raises(AssertionError):
        await Appends().test_of_many_that_expect_the_same_version_exactly_one_wins(journal)


async def test_with_cursors_that_jump_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_memory_tables, "fold", lambda position, beyond, ranges: (max(upto for _, upto in ranges), []))
    with pytest.raises(AssertionError):
        await Cursors().test_r3_a_cursor_is_folded_after_the_verdicts(journal)


async def test_with_marks_that_are_highest_numbers_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_memory_tables, "fold", lambda position, beyond, ranges: (max(upto for _, upto in ranges), []))
    with pytest.raises(AssertionError):
        await Marks().test_r1_within_one_group_too(journal)


async def test_without_guarding_states_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_memory_units, "_changed_meanwhile", lambda tables, unit: None)
    with pytest.raises(AssertionError):
        await Deliveries().test_a_change_is_fenced_when_the_state_is_another(journal, "dead")


async def test_with_timers_that_fire_early_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    early = _memory_tables.Tables.take_due
    monkeypatch.setattr(_memory_tables.Tables, "take_due", lambda self, now_us, limit: early(self, now_us + 1, limit))
    with pytest.raises(AssertionError):
        await Timers().test_r11_never_early(journal)


async def test_without_asking_about_renames_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eventspine.journal.registry._refuse_possible_rename", lambda *given: None)
    with pytest.raises(pytest.fail.Exception):
        await Undeclared().test_also_when_it_was_suspended_long_ago(journal)


async def test_with_pages_that_scan_too_far_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    feed = journal.feed

    async def hasty(after: int, **options: int):
        page = await feed(after, **options)
        return page._replace(scanned=page.scanned + 1)

    monkeypatch.setattr(journal, "feed", hasty)
    with pytest.raises(AssertionError):
        await Feed().test_pages_hold_everything_once_and_in_order(journal, 3)


async def test_with_pages_of_any_size_the_suite_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eventspine.journal.memory.PAGE_BYTES_MAX", 10**9)
    with pytest.raises(AssertionError):
        await Feed().test_a_page_holds_some_megabytes_at_most(journal)
