"""SQL of handlers: statements of a unit, transactions that read their own writes (R4), and units that stay apart (R5)."""

from __future__ import annotations

import pytest

from ....errors import RowsUnexpected, UnitFailed
from ....journal.port import Append, Journal, Statement, Unit
from ..running import lacks, needs
from .material import (
    cursor,
    event,
    finished,
    one_subscription,
)


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
