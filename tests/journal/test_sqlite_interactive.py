"""R4: a handler that reads its own writes holds the journal until it returns, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventspine.errors import RowsUnexpected, StatementRefused, UnitFailed
from eventspine.journal.port import Append, Fence, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import commit, event, finished, one_subscription, process


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SQLiteJournal]:
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    await opened.run_tables(
        "bank", "1",
        "create table account (id text primary key, balance integer);"
        "create table child (of text references account (id) deferrable initially deferred);",
    )  # fmt: skip
    yield opened
    await opened.close()


async def rows(journal: SQLiteJournal) -> list[object]:
    return [tuple(row.values()) for row in await journal.query("select * from account", {})]


async def test_r4_it_reads_its_own_writes_and_commits_with_its_unit(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(10)
    assert 1 == await transaction.execute("insert into account values (:id, 5)", {"id": "a"}, 1)
    assert [{"balance": 5}] == await transaction.query("select balance from account", {})
    assert [] == await rows(journal)

    verdict = await transaction.commit(Unit(appends=[Append([event()])]))

    assert ("done", [1]) == (verdict.kind, verdict.positions)
    assert [("a", 5)] == await rows(journal)


async def test_r4_others_wait_until_it_is_over(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(10)
    other = asyncio.create_task(commit(journal, appends=[Append([event()])]))
    await transaction.execute("insert into account values ('a', 1)", {})
    assert not other.done()
    await transaction.rollback()

    assert "done" == (await other).kind
    assert [] == await rows(journal)


async def test_r4_past_its_limit_it_is_rolled_back_and_everything_after_fails(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(0.05)
    await transaction.execute("insert into account values ('a', 1)", {})

    assert "done" == (await commit(journal, appends=[Append([event()])])).kind  # waits for the limit, not for ever
    for late in (transaction.execute("delete from account", {}), transaction.commit(Unit())):
        with pytest.raises(UnitFailed, match=r"longer than 0\.05 s"):
            await late
    await transaction.rollback()
    assert [] == await rows(journal)


async def test_r4_a_statement_that_never_ends_is_stopped_at_the_limit(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(0.05)
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"

    with pytest.raises(UnitFailed):
        await transaction.query(endless, {})
    with pytest.raises(UnitFailed, match="longer than"):
        await transaction.execute("delete from account", {})


async def test_r4_one_that_nobody_awaits_any_more_holds_nothing(journal: SQLiteJournal) -> None:
    first = await journal.begin(10)
    second = asyncio.create_task(journal.begin(10))
    await asyncio.sleep(0)
    second.cancel()
    await first.rollback()

    assert "done" == (await commit(journal, appends=[Append([event()])])).kind


async def test_a_failed_statement_may_be_caught_and_the_rest_committed(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(10)
    await transaction.execute("insert into account values ('a', 1)", {})
    with pytest.raises(UnitFailed, match="UNIQUE"):
        await transaction.execute("insert into account values ('a', 2)", {})
    with pytest.raises(RowsUnexpected):
        await transaction.execute("update account set balance = 3 where id = 'none'", {}, 1)
    for text in ("commit", "delete from spine_events", "pragma foreign_keys = off"):
        with pytest.raises(StatementRefused):
            await transaction.execute(text, {})

    assert "done" == (await transaction.commit(Unit())).kind
    assert [("a", 1)] == await rows(journal)


async def test_r5_a_statement_that_ends_the_transaction_ends_this_one_only(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(10)
    await transaction.execute("insert into account values ('a', 1)", {})
    with pytest.raises(UnitFailed):
        await transaction.execute("insert or rollback into account values ('a', 2)", {})
    with pytest.raises(UnitFailed, match="ended by one of its own"):
        await transaction.commit(Unit(appends=[Append([event()])]))

    assert 0 == await journal.head()
    assert "done" == (await commit(journal, appends=[Append([event()])])).kind


async def test_a_deferred_constraint_fails_the_unit_at_its_commit(journal: SQLiteJournal) -> None:
    transaction = await journal.begin(10)
    await transaction.execute("insert into child values ('nobody')", {})

    verdict = await transaction.commit(Unit(appends=[Append([event()])]))

    assert "failed" == verdict.kind
    assert 0 == await journal.head()


async def test_a_lost_fence_rolls_its_own_sql_back(journal: SQLiteJournal) -> None:
    await journal.lease(process("new"), ["p5"], [], 1, 2)
    transaction = await journal.begin(10)
    await transaction.execute("insert into account values ('a', 1)", {})

    assert "fenced" == (await transaction.commit(Unit(fences=[Fence("p5", 0)]))).kind
    assert [] == await rows(journal)


async def test_it_is_rolled_back_when_what_it_finishes_is_finished_already(journal: SQLiteJournal) -> None:
    """Its effects happened with whoever finished it; its unit has nothing else by which that could be known."""
    mine = await one_subscription(journal)
    for kind in ("done", "repeated"):
        transaction = await journal.begin(10)
        await transaction.execute("insert into account values (:id, 5)", {"id": kind})
        assert kind == (await transaction.commit(Unit(done=[finished(mine, (0, 1))]))).kind

    assert [("done", 5)] == await rows(journal)
