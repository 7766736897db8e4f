"""Handlers on a PostgreSQL journal: tables of their own, SQL in their unit, transactions that read their own writes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from eventspine import Delivery, Event, Service, Spine
from tests.journal.material import WAIT_S

pytestmark = pytest.mark.setup("postgres")

TABLES = """
create table bank_accounts (name text primary key, cents bigint not null default 0, seen timestamptz);
create function bank_sign(amount bigint) returns text language plpgsql as $$
begin
  return case when amount < 0 then '-' else '+' end; -- a body has semicolons; it's one statement
end
$$;
insert into bank_accounts (name) values ('ann');
"""


def tables(db: Any) -> None:
    db.executescript(TABLES)
    db.execute("insert into bank_accounts (name) values (:name)", {"name": "ben"})


class Moved(Event, context="bank", key="name"):
    name: str
    cents: int


class Booked(Event, context="books", key="name"):
    name: str
    cents: int


async def test_a_handlers_sql_commits_with_its_event_and_a_transaction_reads_its_own_writes(postgres_url: str):
    bank = Service("bank", publishes="books", tables=tables)
    booked: list[tuple[str, int]] = []
    all_booked = asyncio.Event()

    @bank.on(Moved)
    async def move(event: Moved, delivery: Delivery[Moved]) -> Booked:
        sql = "update bank_accounts set cents = cents + :cents, seen = :now where name = :name"
        given = {"cents": event.cents, "name": event.name, "now": datetime(2026, 1, 2, tzinfo=UTC)}
        if event.name == "ann":
            delivery.execute(sql, **given, expect_rows=1)
            [row] = await delivery.query("select cents from bank_accounts where name = :name", name="ann")
            if delivery.attempt == 1 and event.cents == 3:
                raise ValueError("what it has executed is forgotten")
            return Booked(name="ann", cents=row["cents"] + event.cents)
        async with delivery.transaction() as transaction:
            await transaction.execute(sql, **given)
            [row] = await transaction.query(
                "select cents, bank_sign(cents) as sign, 1.5::numeric as number, seen from bank_accounts where name = 'ben'"
            )
        assert ("+", Decimal("1.5"), given["now"]) == (row["sign"], row["number"], row["seen"])
        return Booked(name="ben", cents=row["cents"])

    @bank.on(Booked)
    async def hear(event: Booked) -> None:
        booked.append((event.name, event.cents))
        if len(booked) == 8:
            all_booked.set()

    async with Spine(postgres_url, service=Service("till", publishes="bank")) as spine, spine.running(bank):
        for cents in (1, 2, 3, 4):
            await spine.publish(Moved(name="ann", cents=cents), Moved(name="ben", cents=cents))
        await asyncio.wait_for(all_booked.wait(), WAIT_S)
        assert [1, 3, 6, 10] == [cents for name, cents in booked if name == "ann"]
        assert [1, 3, 6, 10] == [cents for name, cents in booked if name == "ben"]
        rows = await spine.journal.query("select name, cents from bank_accounts order by name", {})
        assert [{"name": "ann", "cents": 10}, {"name": "ben", "cents": 10}] == rows
