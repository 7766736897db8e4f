"""A unit's SQL has its time: past it, that unit fails and nobody else. And a log that somebody deletes is missed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventspine import Spine
from eventspine.errors import JournalError, UnitFailed
from eventspine.journal._sql_apply import STATEMENTS_S
from eventspine.journal.port import Append, Statement, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import commit, event

LIMIT_S = 0.3
FOR_EVER = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n"
LONG = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000000) select i from n"  # a second
SLOW = {
    "reading": f"select count(*) from ({FOR_EVER})",
    "writing": f"insert into seen {FOR_EVER}",
    "writing with conflicts": f"insert or ignore into seen {FOR_EVER}",
}


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SQLiteJournal]:
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db", statements_s=LIMIT_S)
    await opened.open()
    await opened.run_tables("a", "1", "create table seen (n integer)")
    yield opened
    await opened.close()


def sql(text: str) -> Unit:
    return Unit(statements=[Statement(text, {})])


def seen(number: int) -> Unit:
    return sql(f"insert into seen values ({number})")


async def numbers(journal: SQLiteJournal) -> list[int]:
    return [row["n"] for row in await journal.query("select n from seen order by n", {})]


@pytest.mark.parametrize("statement", SLOW.values(), ids=SLOW.keys())
async def test_r5_sql_that_takes_too_long_fails_alone(journal: SQLiteJournal, statement: str) -> None:
    """SQLite ends the whole transaction of a write that it interrupts; the others run again, without the slow one."""
    before, after = [seen(number) for number in range(20)], [seen(number) for number in range(20, 40)]
    began = time.monotonic()
    verdicts = await journal.commit([*before, sql(statement), Unit(appends=[Append([event()])]), *after])

    kinds = [verdict.kind for verdict in verdicts]
    assert "failed" == kinds.pop(20)
    assert {"done"} == set(kinds)
    assert isinstance(verdicts[20].error, UnitFailed)
    assert "longer than 0.3 s" in str(verdicts[20].error)
    assert list(range(40)) == await numbers(journal)
    assert 1 == await journal.head()
    assert time.monotonic() - began < 8 * LIMIT_S  # once, and not once for every half of the group


async def test_two_slow_units_of_a_group_cost_their_own_time_each(journal: SQLiteJournal) -> None:
    slow = SLOW["writing"]
    verdicts = await journal.commit([seen(1), sql(slow), seen(2), sql(slow), seen(3)])

    assert ["done", "failed", "done", "failed", "done"] == [verdict.kind for verdict in verdicts]
    assert [1, 2, 3] == await numbers(journal)


async def test_the_time_is_that_of_all_statements_of_a_unit(journal: SQLiteJournal) -> None:
    some = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000) select count(*) from n"
    many = Unit(
        statements=[Statement(f"select {n}, c from ({some.replace('count(*)', 'count(*) c')})", {}) for n in range(50)]
    )
    assert ["failed", "done"] == [verdict.kind for verdict in await journal.commit([many, seen(1)])]


async def test_without_the_limit_one_delivery_keeps_everybody_waiting(journal: SQLiteJournal) -> None:
    """The ablation."""
    journal._safeguards.statements_limit = False
    began = time.monotonic()
    (verdict,) = await journal.commit([sql(f"insert into seen {LONG}")])

    assert "done" == verdict.kind
    assert time.monotonic() - began > LIMIT_S


async def test_a_spine_allows_five_seconds_unless_told_otherwise(tmp_path: Path) -> None:
    assert 5.0 == STATEMENTS_S
    spine = Spine(f"sqlite:///{tmp_path}/spine.db")
    async with spine:
        assert isinstance(spine.journal, SQLiteJournal)
        await commit(spine.journal, Unit(appends=[Append([event()])]))
        assert STATEMENTS_S == spine.journal._here().writer.applier._statements_s


# --- a log that is gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_log_that_was_deleted_is_missed_and_what_it_held_is_kept(tmp_path: Path, how: str) -> None:
    """Who comes new would begin another log, beside the one that is at work."""
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await journal.open()
    assert (await commit(journal, Unit(appends=[Append([event()])]))).ok
    log = Path(f"{journal.path}-wal")
    log.unlink()
    if how == "replaced":
        log.write_bytes(b"")

    (verdict,) = await journal.commit([Unit(appends=[Append([event()])])])
    assert isinstance(verdict.error, JournalError)
    assert "spine.db-wal was deleted, moved or replaced" in str(verdict.error)

    await journal.close()  # brings what the log held into the file
    await journal.open()
    assert 1 == await journal.head()
    assert (await commit(journal, Unit(appends=[Append([event()])]))).ok
    await journal.close()


async def test_a_log_that_sqlite_itself_removes_is_not_missed(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    for _ in range(3):
        await journal.open()
        assert (await commit(journal, Unit(appends=[Append([event()])]))).ok
        await journal.close()
        assert not Path(f"{journal.path}-wal").exists()


async def test_another_process_that_comes_and_goes_leaves_the_log(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await journal.open()
    line = [
        sys.executable,
        "-c",
        f"import sqlite3; print(sqlite3.connect({str(journal.path)!r}).execute('select 1').fetchone())",
    ]
    for _ in range(2):
        assert (await commit(journal, Unit(appends=[Append([event()])]))).ok
        await asyncio.to_thread(subprocess.run, line, check=True, env=os.environ, capture_output=True)
    await journal.close()
