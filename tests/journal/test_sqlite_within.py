"""R21: a unit on the caller's own connection shares the fate of the caller's own writes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine.errors import Conflict, Fenced, JournalBusy, SettingsError, UnitFailed
from eventspine.journal.port import Append, Fence, Statement, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import Bell, commit, event, finished, one_subscription


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SQLiteJournal]:
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", busy_s=0.2)
    await opened.open()
    await opened.run_tables("web", "1", "create table request (id integer primary key)")
    yield opened
    await opened.close()


@pytest.fixture
def own(journal: SQLiteJournal) -> Iterator[sqlite3.Connection]:
    """As people open it: Python begins a transaction before the first write."""
    with closing(sqlite3.connect(journal.path, timeout=0.2)) as connection:
        yield connection


def one() -> Unit:
    return Unit(appends=[Append([event()])])


async def count(journal: SQLiteJournal) -> tuple[int, int]:
    page = await journal.feed(0, limit=10)
    return len(page.records), len(await journal.query("select * from request", {}))


async def test_r21_it_is_stored_when_the_caller_commits_and_not_before(
    journal: SQLiteJournal, own: sqlite3.Connection
) -> None:
    own.execute("insert into request values (1)")
    verdict = journal.write_within(own, one())
    assert ("done", [1]) == (verdict.kind, verdict.positions)
    assert own.in_transaction
    assert (0, 0) == await count(journal)
    own.commit()
    assert (1, 1) == await count(journal)


async def test_r21_it_is_gone_when_the_caller_rolls_back(journal: SQLiteJournal, own: sqlite3.Connection) -> None:
    journal.write_within(own, one())  # before any write of the caller's: it begins the transaction like one
    own.execute("insert into request values (1)")
    own.rollback()

    assert (0, 0) == await count(journal)


async def test_r21_watchers_hear_of_it_although_no_bell_rings(journal: SQLiteJournal, own: sqlite3.Connection) -> None:
    bell = Bell(journal)
    await bell.rings()  # the first look
    journal.write_within(own, one())
    own.commit()

    await bell.rings()
    bell.stop()


async def test_r21_a_connection_that_commits_by_itself_is_refused(journal: SQLiteJournal) -> None:
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as own:
        with pytest.raises(SettingsError, match="BEGIN IMMEDIATE"):
            journal.write_within(own, one())
        own.execute("begin immediate")
        assert "done" == journal.write_within(own, one()).kind
        own.execute("commit")
    assert (1, 0) == await count(journal)


async def test_r21_another_file_or_another_kind_of_connection_is_refused(
    journal: SQLiteJournal, tmp_path: Path
) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "other.db")) as other,
        closing(sqlite3.connect(":memory:")) as memory,
    ):
        for connection, word in ((other, "other.db"), (memory, "in memory"), (object(), "sqlite3.Connection")):
            with pytest.raises(SettingsError, match=word):
                journal.write_within(connection, one())


async def test_r21_another_name_of_the_same_file_will_do(journal: SQLiteJournal, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(journal.path)
    with closing(sqlite3.connect(tmp_path / "link.db")) as own:
        journal.write_within(own, one())
        own.commit()
    assert (1, 0) == await count(journal)


async def test_r21_while_the_caller_holds_the_lock_our_own_commit_names_within(
    journal: SQLiteJournal, own: sqlite3.Connection
) -> None:
    own.execute("insert into request values (1)")
    verdict = await commit(journal, one())

    assert isinstance(verdict.error, JournalBusy)
    assert "within=" in str(verdict.error)


async def test_r21_a_snapshot_that_is_too_old_says_how_to_begin(journal: SQLiteJournal) -> None:
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as own:
        own.execute("begin")
        own.execute("select * from request").fetchall()
        await commit(journal, one())
        with pytest.raises(JournalBusy, match="BEGIN IMMEDIATE"):
            journal.write_within(own, one())


@pytest.mark.parametrize(
    ("unit", "error"),
    [
        (Unit(appends=[Append([event()], "web", "cart-1", 3)]), Conflict),
        (Unit(appends=[Append([event()])], fences=[Fence("p5", 7)]), Fenced),
        (Unit(appends=[Append([event()])], statements=[Statement("insert into request values (1)", {})]), UnitFailed),
    ],
)
async def test_r21_a_refused_unit_is_raised_and_leaves_the_transaction_as_it_was(
    journal: SQLiteJournal, own: sqlite3.Connection, unit: Unit, error: type[Exception]
) -> None:
    own.execute("insert into request values (1)")
    with pytest.raises(error):
        journal.write_within(own, unit)
    own.commit()

    assert (0, 1) == await count(journal)


async def test_r21_settings_of_the_callers_connection_do_not_matter(journal: SQLiteJournal) -> None:
    def row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> dict[str, Any]:
        return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}

    with closing(sqlite3.connect(journal.path)) as own:
        own.row_factory = row
        own.text_factory = bytes
        verdict = journal.write_within(own, Unit(appends=[Append([event()], "web", "cart-1", 0)]))
        assert [1] == verdict.versions
        assert own.text_factory is bytes
        own.commit()
    assert (1, 0) == await count(journal)


async def test_r21_a_transaction_for_what_is_finished_already_is_fenced(
    journal: SQLiteJournal, own: sqlite3.Connection
) -> None:
    mine = await one_subscription(journal)
    await commit(journal, done=[finished(mine, (0, 1))])
    own.execute("insert into request values (1)")
    with pytest.raises(Fenced, match="would happen twice"):
        journal.write_within(own, Unit(done=[finished(mine, (0, 1))]))
    own.rollback()

    assert (0, 0) == await count(journal)
