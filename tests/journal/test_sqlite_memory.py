"""What the writer remembers of its last commit: the same as the file says, or the file is asked."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventspine.journal._sql_known import Known
from eventspine.journal._sqlite_memory import Memory
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Append, Journal, Statement, Unit, Verdict
from eventspine.journal.sqlite import SQLiteJournal

from .material import event, ids, publish, publish_to
from .test_sqlite_outcome import break_next_commit


@pytest.fixture
async def other(tmp_path: Path, journal: SQLiteJournal) -> AsyncIterator[SQLiteJournal]:
    """Another writer of the same file."""
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    yield opened
    await opened.close()


async def test_what_others_wrote_meanwhile_is_seen(journal: SQLiteJournal, other: SQLiteJournal) -> None:
    one, two, three, begun, late = [event() for _ in range(5)]
    await publish_to(journal, "o-1", one, expected=0)
    await publish_to(other, "o-1", two, expected=1)
    await publish_to(other, "o-2", begun, expected=0)

    assert "conflict" == (await publish_to(journal, "o-1", late, expected=1)).kind
    assert [3] == (await publish_to(journal, "o-1", three, expected=2)).versions
    assert "conflict" == (await publish_to(journal, "o-2", late, expected=0)).kind
    assert [1] == (await publish_to(journal, "o-3", late, expected=0)).versions
    assert ids([one, two, three]) == ids(await journal.stream("orders", "o-1"))
    assert ids([late]) == ids(await other.stream("orders", "o-3"))


async def test_without_asking_whether_others_wrote_a_save_of_what_is_old_is_no_conflict(
    journal: SQLiteJournal, other: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ablation: only the table's own key keeps two events from being the same version."""
    monkeypatch.setattr(Memory, "holds", lambda *_: True)
    await publish_to(journal, "o-1", event(), expected=0)
    await publish_to(other, "o-1", event(), expected=1)

    assert "failed" == (await publish_to(journal, "o-1", event(), expected=1)).kind


async def test_a_time_that_another_recorded_is_not_gone_back_behind(
    journal: SQLiteJournal, other: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(journal, event())
    monkeypatch.setattr(other._clock, "now_us", lambda: 4_000_000_000_000_000)
    await publish(other, event())
    await publish(journal, event())
    await publish(journal, event())

    times = [record.recorded_us for record in (await journal.feed(0, limit=10)).records]
    assert times[1:] == [4_000_000_000_000_000] * 3


async def test_what_a_call_of_its_own_did_is_seen(journal: SQLiteJournal) -> None:
    await publish_to(journal, "o-1", event(), event(), expected=0)
    await journal.cut("orders", "o-1", before=2)

    assert [3] == (await publish_to(journal, "o-1", event(), expected=2)).versions


async def test_what_was_not_committed_is_not_remembered(journal: SQLiteJournal) -> None:
    record = event()
    await publish_to(journal, "o-1", event(), expected=0)
    break_next_commit(journal, happens=False)

    assert "failed" == (await publish_to(journal, "o-1", record, expected=1)).kind
    assert "conflict" == (await publish_to(journal, "o-1", record, expected=2)).kind
    assert [2] == (await publish_to(journal, "o-1", record, expected=1)).versions


async def test_what_was_rolled_back_by_a_statement_is_not_remembered(journal: SQLiteJournal) -> None:
    """The group is run again without it: each time from what the file says."""
    await journal.run_tables("orders", "1", "create table stock (sku text primary key)")
    await publish_to(journal, "o-1", event(), expected=0)
    twice = [Statement("insert or rollback into stock values ('a')", {}) for _ in range(2)]
    units = [
        Unit(appends=[Append([event()], "orders", "o-1", 1)]),
        Unit(statements=twice),
        Unit(appends=[Append([event()], "orders", "o-1", 2)]),
    ]

    assert ["done", "failed", "done"] == [verdict.kind for verdict in await journal.commit(units)]
    assert [4] == (await publish_to(journal, "o-1", event(), expected=3)).versions


async def test_a_conversation_leaves_nothing_that_is_believed(journal: SQLiteJournal) -> None:
    await publish_to(journal, "o-1", event(), expected=0)
    transaction = await journal.begin(5.0)
    assert (await transaction.commit(Unit(appends=[Append([event()], "orders", "o-1", 1)]))).ok

    assert "conflict" == (await publish_to(journal, "o-1", event(), expected=1)).kind
    assert [3] == (await publish_to(journal, "o-1", event(), expected=2)).versions


# --- events that are taken for new without asking -----------------------------------------------------------------------


async def repeated(journal: Journal) -> list[Verdict]:
    """Known events go on with a stream just where it is expected to be: alone, beside new ones, and in one group."""
    seen, first, new, last = [event(id=bytes([n] * 16)) for n in range(1, 5)]
    await publish(journal, seen)
    await publish_to(journal, "o-1", first, expected=0)
    verdicts = [
        await publish_to(journal, "o-2", seen, expected=0),
        await publish_to(journal, "o-1", seen, expected=1),
        await publish_to(journal, "o-1", seen, new, expected=1),
        await publish_to(journal, "o-1", first, new, expected=2),
    ]
    verdicts += await journal.commit(
        [
            Unit(appends=[Append([last])]),
            Unit(appends=[Append([last], "orders", "o-1", 2)]),
            Unit(appends=[Append([event(id=b"5" * 16)], "orders", "o-2", 0)]),
        ]
    )
    return verdicts


async def test_events_that_are_not_new_are_found_out(journal: SQLiteJournal) -> None:
    other = MemoryJournal()
    await other.open()
    expected, found = await repeated(other), await repeated(journal)

    assert [(one.kind, one.versions, one.positions) for one in expected] == [
        (one.kind, one.versions, one.positions) for one in found
    ]
    for stream in ("o-1", "o-2"):
        assert ids(await other.stream("orders", stream)) == ids(await journal.stream("orders", stream))


async def test_a_save_that_goes_on_where_it_is_expected_asks_for_no_id(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Known, "among", lambda _, query, __: asked.append(query) or ())

    await publish_to(journal, "o-1", event(), event(), expected=0)
    await publish_to(journal, "o-1", event(), expected=2)

    assert [] == asked


async def test_null_is_stored_as_null(journal: SQLiteJournal, tmp_path: Path) -> None:
    """Also where it was said in another way, see _sql_plan."""
    await publish(journal, event(channel=None, key=None))
    with sqlite3.connect(tmp_path / "spine.db") as looked_at:
        query = "select channel, key, correlation, causation, meta, typeof(id), typeof(data) from spine_events"
        assert [(*[None] * 5, "blob", "blob")] == looked_at.execute(query).fetchall()
    looked_at.close()


async def test_null_is_stored_as_null_also_where_a_program_adapts_floats(
    journal: SQLiteJournal, tmp_path: Path
) -> None:
    sqlite3.register_adapter(float, str)
    try:
        await publish(journal, event(channel=None, key=None))
    finally:
        del sqlite3.adapters[float, sqlite3.PrepareProtocol]
    with sqlite3.connect(tmp_path / "spine.db") as looked_at:
        assert [(None, None)] == looked_at.execute("select channel, key from spine_events").fetchall()
    looked_at.close()
