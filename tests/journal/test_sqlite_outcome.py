"""When COMMIT itself fails: what the journal finds out, and what it can't."""

from __future__ import annotations

import sqlite3

import pytest

from eventspine.errors import JournalError, OutcomeUnknown
from eventspine.journal.port import Append, Note, Seen, StartMark, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import commit, event, finished, one_subscription


def break_next_commit(journal: SQLiteJournal, *, happens: bool) -> None:
    """The disk fails during the next COMMIT, which has happened all the same, or has not."""
    writer = journal._here().writer
    proper = writer.commit_statement

    def fails(connection: sqlite3.Connection) -> None:
        writer.commit_statement = proper
        if happens:
            proper(connection)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    writer.commit_statement = fails


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.promise("commit unknown", "sqlite")
async def test_events_tell_whether_the_commit_happened(journal: SQLiteJournal, happens: bool) -> None:
    units = [Unit(appends=[Append([event()])]), Unit(starts=[StartMark(1, 5, 7)])]
    break_next_commit(journal, happens=happens)

    verdicts = await journal.commit(units)

    assert ["done" if happens else "failed"] * 2 == [verdict.kind for verdict in verdicts]
    assert int(happens) == await journal.head()
    if not happens:
        assert isinstance(verdicts[0].error, JournalError)
        assert ["done", "done"] == [verdict.kind for verdict in await journal.commit(units)]
    assert {(5, 7): (1, 0)} == await journal.starts(1)


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.promise("commit unknown", "sqlite")
async def test_ranges_tell_whether_the_commit_happened(journal: SQLiteJournal, happens: bool) -> None:
    subscription = await one_subscription(journal)
    await commit(journal, done=[finished(subscription, (0, 3))])
    break_next_commit(journal, happens=happens)

    verdict = await commit(journal, done=[finished(subscription, (3, 8))])

    assert ("done" if happens else "failed") == verdict.kind


@pytest.mark.parametrize("happens", [True, False])
async def test_marks_tell_whether_the_commit_happened(journal: SQLiteJournal, happens: bool) -> None:
    await commit(journal, marks=[Seen(1, "5f0c:1", "orders", 5, [(0, 3)])])
    break_next_commit(journal, happens=happens)

    verdict = await commit(journal, marks=[Seen(1, "5f0c:1", "orders", 5, [(3, 4), (6, 8)])])

    assert ("done" if happens else "failed") == verdict.kind


@pytest.mark.parametrize("happens", [True, False])
async def test_where_nothing_tells_the_outcome_is_unknown(journal: SQLiteJournal, happens: bool) -> None:
    break_next_commit(journal, happens=happens)

    verdict = await commit(journal, starts=[StartMark(1, 5, 7)])

    assert "unknown" == verdict.kind
    assert isinstance(verdict.error, OutcomeUnknown)
    assert "done" == (await commit(journal, appends=[Append([event()])])).kind


async def test_an_event_from_before_does_not_speak_for_a_later_commit(journal: SQLiteJournal) -> None:
    record = event()
    await commit(journal, appends=[Append([record])])
    break_next_commit(journal, happens=False)

    verdicts = await journal.commit([Unit(appends=[Append([record])]), Unit(starts=[StartMark(1, 5, 7)])])

    assert "unknown" == verdicts[1].kind


async def test_a_failed_registration_or_control_is_raised_and_can_be_asked_again(journal: SQLiteJournal) -> None:
    break_next_commit(journal, happens=False)
    with pytest.raises(JournalError, match="disk"):
        await one_subscription(journal)

    assert 1 == (await one_subscription(journal)).number


@pytest.mark.parametrize("happens", [True, False])
async def test_notes_tell_whether_the_commit_happened(journal: SQLiteJournal, happens: bool) -> None:
    await commit(journal, notes=[Note("email", "k", "a", b"1")])
    break_next_commit(journal, happens=happens)

    verdict = await commit(journal, notes=[Note("email", "k", "a", b"1"), Note("email", "k", "b", None)])

    assert ("done" if happens else "failed") == verdict.kind
