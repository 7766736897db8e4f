"""SQL of handlers: statements of a unit that stay apart (R5), transactions that read their own writes (R4), tables, and units on
a connection of the caller's (R21)."""

from __future__ import annotations

import asyncio

import pytest

from ....errors import Conflict, Fenced, RowsUnexpected, SettingsError, SpineError, UnitFailed
from ....journal.port import Append, Fence, Journal, Statement, Transaction, Unit
from ..running import lacks, needs
from .material import WAIT_S, Store, commit, cursor, event, finished, ids, one_subscription, publish_to, whole_feed

BANK = """
create table email_account (id text primary key, balance integer);
create table email_child (account text references email_account (id) deferrable initially deferred);
"""


def one() -> Unit:
    return Unit([Append([event()])])


def paying(id: str) -> Unit:
    return Unit([Append([event()])], statements=[Statement("insert into email_account values (:id, 1)", {"id": id})])


async def accounts(journal: Journal) -> list[str]:
    return [row["id"] for row in await journal.query("select id from email_account order by id", {})]


async def over(transaction: Transaction) -> None:
    """It has reached its limit."""
    with pytest.raises(UnitFailed):
        async with asyncio.timeout(WAIT_S):
            while True:
                await transaction.query("select 1 as one", {})
                await asyncio.sleep(0.005)


class Statements:
    @lacks("sql")
    async def test_without_tables_a_statement_fails_its_unit_alone(self, journal: Journal) -> None:
        sql, beside = await journal.commit(
            [Unit([Append([event()])], statements=[Statement("select 1", {})]), Unit([Append([event()])])]
        )
        assert ("failed", "done") == (sql.kind, beside.kind)
        assert isinstance(sql.error, UnitFailed)
        assert 1 == await journal.head()
        for refused in (journal.query("select 1", {}), journal.begin(1.0)):
            with pytest.raises(UnitFailed):
                await refused

    @needs("sql")
    async def test_a_statement_happens_with_its_unit_or_not_at_all(self, journal: Journal) -> None:
        mine = await one_subscription(journal)
        assert await journal.run_tables("email", "1", "create table email_sent (n integer)")
        assert not await journal.run_tables("email", "1", "create table email_sent (n integer)")
        insert = Statement("insert into email_sent values (:n)", {"n": 1}, expect_rows=1)
        missed = Statement("update email_sent set n = 5 where n = 4", {}, expect_rows=1)
        verdicts = await journal.commit(
            [
                Unit([Append([event()])], done=[finished(mine, (0, 1))], statements=[insert, missed]),
                Unit([Append([event()])], done=[finished(mine, (1, 2))], statements=[insert]),
                Unit([Append([event()])], done=[finished(mine, (1, 2))], statements=[insert]),
            ]
        )
        assert ["failed", "done", "repeated"] == [verdict.kind for verdict in verdicts]
        assert isinstance(verdicts[0].error, RowsUnexpected)
        assert [{"n": 1}] == await journal.query("select n from email_sent", {})
        assert 1 == await journal.head()
        assert (0, [(1, 2)]) == await cursor(journal, mine)

    @needs("sql")
    async def test_of_two_identical_units_in_a_group_the_statement_runs_once(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", "create table email_sent (n integer)")
        insert = Statement("insert into email_sent values (:n)", {"n": 1})
        unit = Unit([Append([event()])], statements=[insert])
        for expected in (["done", "repeated"], ["repeated", "repeated"]):
            assert expected == [verdict.kind for verdict in await journal.commit([unit, unit])]
            assert [{"n": 1}] == await journal.query("select n from email_sent", {})

    @needs("sql")
    @pytest.mark.parametrize(
        "sql",
        [
            "commit",
            "rollback",
            "begin",
            "savepoint mine",
            "insert into email_account values ('a', 1)",
            "insert into email_account values ('b', 1); commit",
            "insert into email_child values ('nobody')",
            "insert into no_such_table values (1)",
            "this is no sql",
            "",
        ],
    )
    async def test_r5_whatever_a_statement_does_other_units_are_not_harmed(self, journal: Journal, sql: str) -> None:
        await journal.run_tables("email", "1", BANK)
        await commit(journal, paying("a"))
        mine = await one_subscription(journal)
        bad = Unit([Append([event()])], done=[finished(mine, (1, 2))], statements=[Statement(sql, {})])
        before, after = paying("before"), paying("after")
        before.done, after.done = [finished(mine, (0, 1))], [finished(mine, (2, 3))]

        verdicts = await journal.commit([before, bad, after])

        assert ["done", "failed", "done"] == [verdict.kind for verdict in verdicts], verdicts
        assert ["a", "after", "before"] == await accounts(journal)
        assert 3 == len(await whole_feed(journal))
        assert (1, [(2, 3)]) == await cursor(journal, mine)

    @needs("sql")
    async def test_a_unit_whose_second_statement_fails_leaves_nothing_of_the_first(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        unit = paying("x")
        unit.statements.append(Statement("update email_account set balance = 0 where id = 'none'", {}, expect_rows=1))
        verdict = await commit(journal, unit)
        assert "failed" == verdict.kind
        assert isinstance(verdict.error, RowsUnexpected)
        assert [] == await accounts(journal)
        assert 0 == await journal.head()

    @needs("sql")
    async def test_a_conflict_takes_the_statements_with_it(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        await publish_to(journal, "o-1", event())
        unit = paying("x")
        unit.appends.append(Append([event()], "orders", "o-1", 0))
        assert "conflict" == (await commit(journal, unit)).kind
        assert [] == await accounts(journal)

    @needs("sql")
    async def test_reading_changes_nothing(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        for sql in ("insert into email_account values ('x', 1)", "delete from email_account", "commit", "drop table x"):
            with pytest.raises(SpineError):
                await journal.query(sql, {})
        assert [] == await accounts(journal)

    @needs("sql")
    async def test_values_are_values_whatever_they_look_like(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        nasty = ["'; drop table email_account; --", "\u00e9\U0001f600", "%s ? :id $1", ""]
        await journal.commit([paying(id) for id in nasty])
        assert sorted(nasty) == sorted(await accounts(journal))
        rows = await journal.query("select id from email_account where id = :id", {"id": nasty[0]})
        assert [{"id": nasty[0]}] == rows


class Tables:
    """R9: one store, several services, each with tables of its own that are made once per version."""

    @needs("sql")
    async def test_of_many_that_start_at_once_one_makes_the_tables(self, journal: Journal, other: Journal) -> None:
        made = await asyncio.gather(
            *(each.run_tables("email", "1", BANK) for _ in range(3) for each in (journal, other))
        )
        assert 1 == sum(made)
        assert [] == await accounts(other)

    @needs("sql")
    async def test_a_script_that_fails_leaves_nothing_and_may_be_tried_again(self, journal: Journal) -> None:
        with pytest.raises(Exception):  # noqa: B017 -- whatever the database says of it
            await journal.run_tables(
                "email", "1", "create table email_one (n integer); create table email_one (n integer)"
            )
        assert await journal.run_tables("email", "1", "create table email_one (n integer)")

    @needs("sql")
    async def test_versions_of_two_services_are_two(self, journal: Journal) -> None:
        assert await journal.run_tables("email", "1", "create table email_one (n integer)")
        assert await journal.run_tables("billing", "1", "create table billing_one (n integer)")
        assert await journal.run_tables("email", "2", "create table email_two (n integer)")
        assert not await journal.run_tables("email", "1", "create table email_one (n integer)")

    @needs("sql", "persistent")
    async def test_r9_who_opens_it_later_finds_what_is_there(self, journal: Journal, store: Store) -> None:
        await journal.run_tables("email", "1", BANK)
        await commit(journal, paying("a"))
        later = await store.open()
        try:
            assert later.id == journal.id
            assert not await later.run_tables("email", "1", BANK)
            assert ["a"] == await accounts(later)
            assert (await commit(later, paying("b"))).ok
        finally:
            await later.close()
        assert ["a", "b"] == await accounts(journal), "whoever leaves takes nothing away"

    @lacks("sql")
    async def test_without_tables_a_script_is_refused(self, journal: Journal) -> None:
        with pytest.raises(SettingsError):
            await journal.run_tables("email", "1", BANK)


class Transactions:
    """R4: who reads its own writes has the write lock until it returns, and not for long."""

    @needs("sql")
    async def test_r4_it_reads_its_own_writes_and_nobody_else_does(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        transaction = await journal.begin(10)
        assert 1 == await transaction.execute("insert into email_account values (:id, 5)", {"id": "a"}, 1)
        assert [{"balance": 5}] == await transaction.query("select balance from email_account", {})
        assert [] == await accounts(journal)
        verdict = await transaction.commit(one())
        assert ("done", [1]) == (verdict.kind, verdict.positions)
        assert ["a"] == await accounts(journal)

    @needs("sql")
    async def test_r4_what_was_not_committed_never_happened(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        transaction = await journal.begin(10)
        await transaction.execute("insert into email_account values ('a', 5)", {})
        await transaction.rollback()
        assert [] == await accounts(journal)
        with pytest.raises(UnitFailed):
            await transaction.execute("insert into email_account values ('a', 5)", {})

    @needs("sql")
    async def test_r4_past_its_limit_it_is_rolled_back_and_others_go_on(self, journal: Journal, other: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        transaction = await journal.begin(0.05)
        await transaction.execute("insert into email_account values ('a', 5)", {})
        assert (await commit(other, paying("b"))).ok, "waits for the limit, and not for ever"
        await over(transaction)  # on a store where only rows are locked, nobody had to wait for that
        with pytest.raises(UnitFailed):
            await transaction.commit(one())
        assert ["b"] == await accounts(journal)
        assert 1 == await journal.head()

    @needs("sql")
    async def test_r4_a_unit_that_is_refused_takes_the_transaction_with_it(self, journal: Journal) -> None:
        await journal.run_tables("email", "1", BANK)
        transaction = await journal.begin(10)
        await transaction.execute("insert into email_account values ('a', 5)", {})
        verdict = await transaction.commit(Unit([Append([event()])], [Fence("lost", 1)]))
        assert "fenced" == verdict.kind
        assert [] == await accounts(journal)
        assert (await commit(journal, paying("b"))).ok, "and gives the lock back"


class Within:
    """R21: a unit on a connection of the caller's shares the fate of the caller's own writes."""

    @needs("within", "sql")
    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_r21_it_is_stored_when_the_caller_commits_or_never(
        self, journal: Journal, store: Store, end: str
    ) -> None:
        await journal.run_tables("email", "1", BANK)
        record = event()
        with store.maker.connect(journal) as own:
            own.execute("insert into email_account values ('a', 1)")
            assert "done" == journal.write_within(own, Unit([Append([record])])).kind
            assert 0 == await journal.head()
            getattr(own, end)()
        assert (["a"] if end == "commit" else []) == await accounts(journal)
        assert (ids([record]) if end == "commit" else []) == ids(await whole_feed(journal))

    @needs("within")
    async def test_r21_a_conflict_or_a_lost_fence_is_raised(self, journal: Journal, store: Store) -> None:
        await publish_to(journal, "o-1", event())
        with store.maker.connect(journal) as own:
            with pytest.raises(Conflict):
                journal.write_within(own, Unit([Append([event()], "orders", "o-1", 0)]))
            with pytest.raises(Fenced):
                journal.write_within(own, Unit([Append([event()])], [Fence("lost", 1)]))
            own.rollback()
        assert 1 == await journal.head()

    @lacks("within")
    async def test_without_it_a_connection_is_refused(self, journal: Journal) -> None:
        with pytest.raises(SettingsError):
            journal.write_within(object(), Unit())
