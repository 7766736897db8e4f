"""What is PostgreSQL's own about views: its types, its order, its connections that are lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID

import msgspec
import psycopg
import pytest

from eventspine import Event, Retry, Service, Spine, View
from eventspine.errors import ViewRefused
from eventspine.state import versions

from ..servers import needed
from .material import OrderPlaced, OrdersByCustomer, counting, publisher

pytestmark = pytest.mark.setup("postgres")

AWAY = timezone(timedelta(hours=-7))


class Kinds(View, key=("name", "number")):
    name: str
    number: int
    money: Decimal | None = None
    at: datetime | None = None
    then: datetime | None = None
    day: date | None = None
    who: UUID | None = None
    yes: bool = False
    raw: bytes = b""
    part: float = 0.0
    tags: list[str] = msgspec.field(default_factory=list)


class Seen(Event, context="tests"):
    name: str
    number: int = 0


ROWS = {
    "b": Kinds(
        name="b",
        number=1,
        money=Decimal("1.50"),
        at=datetime(1, 1, 1, tzinfo=UTC),
        tags=["a\0b", "é"],
        then=datetime(2026, 1, 1, tzinfo=UTC),
    ),
    "B": Kinds(name="B", number=2**62, money=Decimal(10), at=datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    "ä": Kinds(name="ä", number=-1, money=Decimal("-1E-30"), at=datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=AWAY)),
    "_": Kinds(name="_", number=0, day=date(9999, 12, 31), who=UUID(int=7), yes=True, raw=b"\0\xff", part=1e-300),
}


def kinds() -> Service:
    tests = Service("tests")

    @tests.projection(Kinds, Seen)
    def keep(view: View[Kinds], event: Seen) -> None:
        wanted, row = ROWS[event.name], view.row(event.name, event.number)
        for name in Kinds.__struct_fields__[2:]:
            setattr(row, name, getattr(wanted, name))

    return tests


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
async def test_values_come_back_as_they_were_whatever_the_zone_of_the_server(postgres_url: str, zone: str) -> None:
    service, url = kinds(), f"{postgres_url}&options=-c%20timezone%3D{zone}"
    async with Spine(url, service=service) as spine, spine.running(service):
        for _ in range(2):  # made, then read and written again
            receipts = await spine.publish(*[Seen(name=name, number=row.number) for name, row in ROWS.items()])
            view = spine.view(Kinds)
            await view.wait(*receipts, timeout_s=20)
            for name, row in ROWS.items():
                assert await view.get(name, row.number) == row
                assert await view.all(at=row.at, money=row.money, tags=row.tags) == [row]
        assert [row.name for row in await view.all()] == ["B", "_", "b", "ä"]  # as Python has it, and SQLite
        assert [row.name for row in await view.all(order_by="money")] == ["_", "ä", "b", "B"]
        assert [row.name for row in await view.all(order_by="-at", limit=3)] == ["B", "ä", "b"]
        assert (await view.get("b", 1)).money.as_tuple() == Decimal("1.50").as_tuple()


async def test_floats_are_read_as_they_were_written_whatever_a_role_says(postgres_url: str) -> None:
    class Sums(View, key="name"):
        name: str
        part: float = 0.0

    service = Service("tests")

    @service.projection(Sums, Seen)
    def keep(view: View[Sums], event: Seen) -> None:
        row = view.row(event.name)
        row.part = row.part or 0.1 + 0.2

    async with Spine(f"{postgres_url}&options=-c%20extra_float_digits%3D0", service=service) as spine:
        async with spine.running(service):
            await spine.view(Sums).wait(await spine.publish(Seen(name="a")), timeout_s=20)
            assert (await spine.view(Sums).get("a")).part == 0.1 + 0.2
            assert len(await spine.view(Sums).all(part=0.1 + 0.2)) == 1


def test_our_server_for_tests_has_the_zone_of_nobody_who_starts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django sets TZ where it is used; a server that was started there had other times than the next."""
    monkeypatch.setenv("TZ", "America/Chicago")
    with needed("postgres")(tmp_path) as postgres, psycopg.connect(postgres.url) as connection:
        assert connection.execute("show timezone").fetchone() == ("UTC",)


async def test_in_sql_columns_have_postgresql_s_types(postgres_url: str) -> None:
    service = kinds()
    async with Spine(postgres_url, service=service) as spine, spine.running(service):
        view = spine.view(Kinds)
        await view.wait(*await spine.publish(*[Seen(name=name, number=row.number) for name, row in ROWS.items()]))
        asked = "select sum(money) as money, max(day) - 1 as day, bool_or(yes) as yes, max(at) as at from kinds"
        assert await view.query(f"{asked} where name in (:one, :other)", one="b", other="_") == [
            {"money": Decimal("1.50"), "day": date(9999, 12, 30), "yes": True, "at": ROWS["b"].at}
        ]
        types = (  # of the table that the search path finds: other tests' may have the name, too
            "select format_type(atttypid, null) as kind from pg_attribute"
            " where attrelid = 'kinds_v1'::regclass and attnum > 0 order by attnum"
        )
        found = [row["kind"] for row in await spine.journal.query(types, {})]
        assert found == [
            "text", "bigint", "numeric", "timestamp with time zone", "timestamp with time zone", "date", "uuid", "boolean", "bytea", "double precision",
            "text",
        ]  # fmt: skip
        assert await view.query("select tags::jsonb ->> 0 as tag from kinds where name = 'B'") == [{"tag": None}]


async def test_a_key_that_no_index_takes_is_dead_in_words_of_ours_and_nothing_is_lost(postgres_url: str) -> None:
    """It is not compressible, as a text of a client's may be."""
    service, long = Service("tests"), "".join(map(chr, Random(7).sample(range(0x4E00, 0x9000), 1_500)))

    class Names(View, key="name"):
        name: str
        times: int = 0

    @service.projection(Names, Seen, retry=Retry(attempts=1))
    def keep(view: View[Names], event: Seen) -> None:
        view.row(event.name if event.number else "short").times += 1

    async with Spine(postgres_url, service=service) as spine, spine.running(service):
        receipt = await spine.publish(Seen(name=long))
        await spine.view(Names).wait(receipt, timeout_s=20)
        await spine.publish(Seen(name=long, number=1))
        async with asyncio.timeout(20):
            while not (dead := await spine.journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)
        assert "about 2,700 bytes" in dead[0].error
        assert "hash of it" in dead[0].error
        assert 2 == await spine.journal.head()
        assert [Names(name="short", times=1)] == await spine.view(Names).all()
        assert await spine.view(Names).get(long) is None


async def test_a_column_that_every_table_has_already_is_refused(postgres_url: str) -> None:
    class Box(View, key="name"):
        name: str
        xmin: int = 0

    tests = Service("tests")

    @tests.projection(Box, Seen)
    def keep(view: View[Box], event: Seen) -> None: ...

    async with Spine(postgres_url) as spine:
        with pytest.raises(ViewRefused, match="has a column 'xmin'.*Call it otherwise"):
            async with spine.running(tests):
                pass


@pytest.mark.timeout(120)
async def test_backends_that_are_killed_while_a_version_is_built_leave_rows_that_equal_an_exact_fold(
    postgres_server, postgres_url: str, schema: str
) -> None:
    """Each moment may be the one between rows and cursor, or that of COMMIT: nothing is counted twice, and nothing is missing."""
    chance = random.Random(5)

    class Anew(View, key="customer_id", name="orders_by_customer", version=2):
        customer_id: str
        orders: int = 0

    service = counting()

    @service.projection(Anew, OrderPlaced)
    def anew(view: View[Anew], event: OrderPlaced) -> None:
        view.row(event.customer_id).orders += 1

    customers = [f"c{chance.randrange(500)}" for _ in range(6000)]
    killed = 0
    async with Spine(postgres_url, service=publisher()) as spine:
        async with spine.running(counting()):
            receipts = []
            for at in range(0, len(customers), 500):
                receipts += await spine.publish(*[OrderPlaced(customer_id=who) for who in customers[at : at + 500]])
            await spine.view(OrdersByCustomer).wait(receipts[-1], timeout_s=60)
        with closing(psycopg.connect(postgres_server.url, autocommit=True)) as operator:
            async with spine.running(service):
                while not await _is_read(spine, 2):
                    killed += len(await asyncio.to_thread(_terminate, operator))
                    await asyncio.sleep(chance.uniform(0, 0.1))  # the moment of the kill, not something waited for
        found = {row.customer_id: row.orders for row in await spine.view(Anew).all()}
    assert found == Counter(customers)
    assert killed > 3


async def _is_read(spine: Spine, version: int) -> bool:
    stored = await versions.known(spine.journal, "orders_by_customer")
    return stored is not None and stored.active == version


def _terminate(operator: psycopg.Connection) -> list[tuple[bool]]:
    sql = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'eventspine%' and pid <> pg_backend_pid()"
    return operator.execute(sql).fetchall()
